"Texts read by libraries: words, scopes, sides and quantities."

import pytest

from radgen.captions import clinical_text
from radgen.captions.clinical_text import ReadingPipeline, libraries_missing, number, plain_text
from radgen.core.errors import ConfigError


@pytest.fixture(scope="module")
def read():
    pipeline = ReadingPipeline()
    return lambda text: next(pipeline.read([text]))


def certain(reading, state):
    "The words that certainly have a state."
    return {word.text for word in reading.words if state in word.states}


@pytest.mark.parametrize(
    "published, plain",
    [
        ("view)—no mass", "view) - no mass"),
        ("T7–T11", "T7-T11"),
        ("non–turbulent", "nonturbulent"),
        ("pulmon\u00adary\u200b vein", "pulmonary vein"),
        ("Thoracic CT.Red circle", "Thoracic CT. Red circle"),
        ("in 2018.Segmental", "in 2018. Segmental"),
        ("There aren’t any.", "There aren't any."),
        ("rib.(shown", "rib. (shown"),
        ("31 mm×27 mm, 31 mmx27 mm", "31 mm x 27 mm, 31 mm x 27 mm"),
        ("T2*-weighted", "T2 star weighted"),
    ],
)
def test_plain_text_repairs_what_misleads_a_tokenizer(published, plain):
    assert plain_text(published) == plain


@pytest.mark.parametrize(
    "text, denied",
    [
        ("No pleural effusion.", {"effusion"}),
        ("No mass, effusion or pneumothorax.", {"mass", "effusion", "pneumothorax"}),
        ("No mass, effusion and pneumothorax.", {"mass"}),
        ("No calcification in the left lung.", {"calcification"}),
        ("No evidence of a fracture.", {"fracture"}),
        ("Effusion was not seen.", {"effusion"}),
        ("Lymph nodes were not enlarged.", {"enlarged"}),
        ("Resolution of the abscess.", {"abscess"}),
        ("Abscess resolution.", {"abscess"}),
        ("CT head shows resolution of the hematoma.", {"hematoma"}),
        ("CT shows absent spleen.", {"spleen"}),
        ("CT without contrast showing infiltrates.", set()),
        ("Free fluid in the pelvis.", set()),
        ("High-resolution CT of the chest.", set()),
        ("A noncalcified nodule.", {"noncalcified"}),
        ("Mass without calcification, which invades the wall.", {"calcification"}),
    ],
)
def test_words_are_denied_where_that_is_certain(read, text, denied):
    assert certain(read(text), "denied") == denied


def test_the_wide_reach_of_negex_is_kept_apart(read):
    states = {word.text: word.states for word in read("No calcification in the lung.").words}
    assert states == {"calcification": {"denied"}, "lung": {"denied?"}}


def test_possible_and_historical_words(read):
    reading = read("Possible abscess; effusion cannot be excluded; history of lymphoma.")
    assert certain(reading, "possible") == {"abscess", "effusion"}
    assert certain(reading, "historical") == {"lymphoma"}
    assert certain(read("A 2-day history of cough."), "historical") == set()


def test_sides_belong_to_clauses(read):
    reading = read("Nodule in the left lung, effusion on the right, both kidneys; R pneumothorax.")
    sides = {word.text: set(word.sides) for word in reading.words}
    assert sides["lung"] == {"left"}
    assert sides["effusion"] == sides["pneumothorax"] == {"right"}
    assert sides["kidneys"] == {"both"}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a 2 cm mass", [("meter", 0.02)]),
        ("a 20-mm mass", [("meter", 0.02)]),
        ("3 x 4 cm", [("meter", 0.03), ("meter", 0.04)]),
        ("41*32 mm", [("meter", 0.041), ("meter", 0.032)]),
        ("volume of 5 mL or 5 cm3", [("meter ** 3", 5e-6), ("meter ** 3", 5e-6)]),
        ("density of 40 HU", [("HU", 40)]),
        ("after two weeks", [("second", 1209600)]),
        (".12 mm niche", [("meter", 0.00012)]),
        ("50% of 1,200 ml", [("%", 0.5), ("meter ** 3", 0.0012)]),
        ("lesion in segment 4 in the liver at T2", []),
    ],
)
def test_quantities_are_in_base_units(read, text, expected):
    found = [(q.unit, q.value) for q in read(text).quantities]
    assert [unit for unit, _ in found] == [unit for unit, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-8)


def test_bare_numbers_keep_the_words_beside_them(read):
    found = {q.value: q.stems for q in read("Fractures of five ribs, grade 4 laceration.").counts}
    assert found[5] == {"rib"}
    assert {"grade", "lacer"} <= found[4]


@pytest.mark.parametrize("text, value", [("three", 3), ("4,5", 4.5), ("19,150", 19150), ("1.2.3", 1)])
def test_number_reads_digits_and_words(text, value):
    assert number(text) == value


def test_british_and_american_words_have_one_stem(read):
    british, american = read("oedema haemorrhage tumour"), read("edema hemorrhage tumor")
    assert british.by_stem.keys() == american.by_stem.keys()


def test_pipeline_says_what_to_install(monkeypatch):
    monkeypatch.setattr(clinical_text, "LIBRARIES", ("spacy", "no_such_library"))
    assert libraries_missing() == ["no_such_library"]
    with pytest.raises(ConfigError, match=r"needs spacy, negspacy, .*: pip install 'radgen\[audit\]'"):
        ReadingPipeline()
