"""What the rules delete, and what they leave."""

import pytest

from radgen.captions.facts import Facts
from radgen.captions.phrases import Role
from radgen.captions.reading import read
from radgen.captions.rules import Clause, condition_phrase, patient_end, roles_in_caption, talk_end, text_without_types


def clause(text, region=""):
    "A text of one clause."
    reading = read(text)
    return Clause(reading, roles_in_caption(reading, Facts(region=region)), 0, len(reading.words))


@pytest.mark.parametrize(
    "text, talk",
    [
        ("axial computed tomography of the chest shows a mass", "axial computed tomography of the chest"),
        ("on the portable chest radiograph a mass", "on the portable chest radiograph"),
        ("t2 weighted and coronal images with edema", "t2 weighted and coronal images"),
        ("computed tomography, chest", "computed tomography"),  # a body part after a comma is listed, not imaged
        ("mass of the chest", ""),
        ("of the chest", ""),
    ],
)
def test_talk_ends_where_the_content_begins(text, talk):
    words = clause(text, "Chest")
    end = talk_end(words, 0)
    assert words.reading.original(0, end) == talk


def test_patient_is_a_run_of_its_own():
    words = clause("in a 45-year-old woman with edema")
    assert words.reading.original(0, patient_end(words, 0)) == "in a 45-year-old woman"
    assert patient_end(words, 6) == 6  # 'with edema'


@pytest.mark.parametrize(
    "text, region, role",
    [
        ("knee radiograph", "Knee", Role.REGION),
        ("knee radiograph", "Hip", Role.CONTENT),
    ],
)
def test_only_the_region_of_the_template_is_talk(text, region, role):
    assert clause(text, region).roles[0] is role


def test_region_after_a_side_is_content():
    assert clause("left knee radiograph", "Knee").roles[1] is Role.CONTENT


@pytest.mark.parametrize(
    "text, condition",
    [
        ("chest radiograph showing the presence of a mass", "mass"),
        ("effusion is not seen", "effusion is not seen"),
        ("normal chest radiograph", ""),
        ("radiograph on day 3 after admission", ""),
        ("postoperative radiograph", "postoperative"),
        ("right coronary angiography", "right coronary angiography"),
        ("mass (3 cm) on computed tomography", "mass (3 cm)"),
        ("mass in segment 4a", "mass in segment 4a"),
        (
            "dark on T1-weighted and bright on T2-weighted images",
            "dark on T1-weighted and bright on T2-weighted images",
        ),
        ("", ""),
    ],
)
def test_condition_phrase_keeps_what_is_seen(text, condition):
    assert condition_phrase(text, Facts(region="Chest")) == condition


def test_long_captions_put_findings_first():
    filler = "The patient was seen in the clinic and was given advice on diet and exercise and on many other matters"
    text = f"{filler}; {filler.replace('clinic', 'ward')}; {filler.replace('clinic', 'park')}. There was a fracture"
    assert condition_phrase(text, Facts()).startswith("fracture")


def test_text_without_types_deletes_nothing_else():
    assert text_without_types("axial computed tomography of a mass; no edema") == "axial of a mass; no edema"
