"""Two texts in the same wording: negative adjectives, denied findings, and findings with several places."""

import pytest

from radgen.captions.comparison import compare_statements
from radgen.captions.findings import StatementReader
from radgen.captions.parts import statements
from radgen.captions.tokens import Kind, tokens
from radgen.captions.wordings import with_adjectives, with_denials, with_findings, wordings


@pytest.mark.parametrize(
    "text, adjectives",
    [
        ("a lesion that does not enhance", "a lesion nonenhance"),
        ("the vein is not opacified in the arterial phase", "the vein nonopacified in the arterial phase"),
        ("a fracture is not seen", "a fracture is not seen"),
        ("an abscess cannot be excluded", "an abscess cannot be excluded"),
        ("CT did not reveal any fracture", "CT did not reveal any fracture"),
        ("the tumor does not extend to the bone", "the tumor does not extend to the bone"),
        ("the lesion does not contain fat", "the lesion does not contain fat"),
        ("the ovary is not enlarged and is dense", "the ovary is not enlarged and is dense"),
    ],
)
def test_negated_verbs_become_adjectives(text, adjectives):
    assert with_adjectives(text) == adjectives


def test_negative_adjectives_become_denied_findings():
    lesion, denied = with_denials(statements("nonenhancing lesion of the left kidney"))
    assert not lesion.status and lesion.values(Kind.SIDE) == ["left"]
    assert denied.status == {"denied"}
    [appendix] = with_denials(statements("nondilated appendix"))
    assert appendix.status == {"denied"}


@pytest.mark.parametrize(
    "text, joins, n",
    [
        ("hepatic and splenic lacerations", True, 1),
        ("hepatic and splenic lacerations", False, 2),
        ("left renal and right ureteral stones", True, 2),
        ("right upper and lower lobe nodules", True, 1),
        ("intact ligament and meniscal tear", True, 2),
    ],
)
def test_places_share_their_finding(text, joins, n):
    found = with_findings(StatementReader(tokens(text)).read(), joins)
    assert len(found) == n
    if "intact" not in text:
        assert all(statement.findings for statement in found)


def test_texts_are_read_as_they_stand_first():
    new, old = next(wordings("splenic laceration", "hepatic and splenic lacerations"))
    assert (new, old) == (statements("splenic laceration"), statements("hepatic and splenic lacerations"))


@pytest.mark.parametrize(
    "caption, condition",
    [
        ("the vein is not opacified", "non-opacified vein"),
        ("a nodule that does not enhance", "nodule without enhancement"),
        ("hepatic and splenic lacerations", "liver laceration and splenic laceration"),
        ("left renal and right ureteral stones", "right ureteral stone and left renal stone"),
        ("mediastinal and bilateral hilar adenopathy", "bilateral hilar and mediastinal adenopathy"),
        ("ribs 4-6 on the right are fractured", "fractured right fourth to sixth ribs"),
        ("scoliosis with a Cobb angle of 32 degrees", "scoliosis, Cobb angle 32 degrees"),
        ("cysts in segments II and III", "segment III and segment II cysts"),
        ("increased density and stranding", "increased density, stranding"),
        ("a mass of the liver. The tumor is calcified", "calcified liver mass"),
        ("MRI at L4 shows a protrusion", "protrusion at L4"),
        ("bilateral effusions, more on the left", "bilateral effusions more on the left"),
    ],
)
def test_other_wordings_are_accepted(caption, condition):
    assert compare_statements(condition, caption) is None


@pytest.mark.parametrize(
    "caption, condition, reason",
    [
        ("the vein is not opacified", "opacified vein", "negation"),
        ("enhancing lesion, non-enhancing edema", "non-enhancing lesion, enhancing edema", "moved"),
        ("hepatic and splenic lacerations, ascites", "hepatic and splenic lacerations", "left out"),
        ("left renal and right ureteral stones", "right renal and left ureteral stones", "side"),
        ("acute hepatic and chronic splenic hematomas", "chronic hepatic and acute splenic hematomas", "moved"),
        ("hepatic cysts and splenic lesions", "hepatic lesions and splenic cysts", "moved"),
        ("fractures of ribs 4-6", "fractures of ribs 4-7", "level"),
        ("bilateral effusions, more on the left", "bilateral effusions, more on the right", "side"),
        ("a mass of 3 cm and a cyst, diameter 5 cm", "a mass of 5 cm and a cyst, diameter 3 cm", "number"),
    ],
)
def test_contradictions_are_rejected_in_every_wording(caption, condition, reason):
    assert compare_statements(caption, caption) is None
    assert compare_statements(condition, caption).reason == reason
