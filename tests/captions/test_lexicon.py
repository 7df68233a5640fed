"""The lexicon that radgen ships, and the messages for mistakes in one."""

from importlib.resources import files

import pytest

from radgen.captions.lexicon import LEXICON, is_finding, load_lexicon, phrase_tables
from radgen.captions.reading import seen
from radgen.core.errors import DataError

TEXT = (files("radgen.captions") / "lexicon.toml").read_text(encoding="utf-8")
SECTIONS = [
    ("image_types", "types"),
    ("contrast", "contrasts"),
    ("sequences", "sequences"),
    ("regions", "regions"),
    ("views", "views"),
]


@pytest.mark.parametrize("section, field", SECTIONS)
def test_each_phrase_is_read_as_its_entry(section, field):
    for entry, phrases in phrase_tables(LEXICON)[section].items():
        for phrase in phrases:
            text = phrase.replace("*", "")
            found = getattr(seen(text), field) + seen(f"{text} view").views
            assert set(entry.split(" and ")) <= set(found), (entry, phrase)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("[contrast]", "[contrasts]", "section [contrast] is missing"),
        ("[image_types]", "[colours]\nred = 1\n[image_types]", "section [colours] is unknown"),
        ("[words]", "[words]\npraise = ['fine']", "section [words], entry 'praise', is unknown"),
        ('["coronal*", "mid coronal"]', "[]", "section [views], entry 'Coronal view', is empty"),
        ('["coronal*", "mid coronal"]', '"coronal*"', "section [views], entry 'Coronal view', must be a list"),
        ('["coronal*", "mid coronal"]', "[3]", "section [views], entry 'Coronal view', must be text"),
        ('"coronal*"', '"Coronal views"', "section [views], entry 'Coronal view', has 'Coronal views': write words"),
        ('"coronal*"', '"coronal*", "axial*"', "the phrase 'axial*' in the entries 'Axial view' and 'Coronal view'"),
        ('"coronal*"', '"coronal*", "coronal*"', "section [views] has the phrase 'coronal*'"),
        ('"Coronal view"', '"Coronal, view"', "has 'Coronal, view': a name must not hold a comma"),
        ('Heart = "Chest"', 'Heart = "Thorax"', "section [part_of] names 'Thorax', which is not an entry of [regions]"),
        ('C0205106 = "Axial view"', 'C0205106 = "Axial"', "section [concepts] names 'Axial'"),
        ('CT = "computed tomography"', "CT = 1", "section [abbreviations], entry 'CT', must be text"),
        ('["coronal*", "mid coronal"]', '["coronal*", "mid coronal"', "cannot be read as TOML"),
    ],
)
def test_load_lexicon_reports_a_mistake_in_one_sentence(tmp_path, old, new, message):
    assert old in TEXT
    path = tmp_path / "lexicon.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_lexicon(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_load_lexicon_reports_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_lexicon(tmp_path / "lexicon.toml")


def test_load_lexicon_accepts_a_new_phrase(tmp_path):
    path = tmp_path / "lexicon.toml"
    path.write_text(TEXT.replace('"coronal*"', '"coronal*", "frontal plane*"', 1), encoding="utf-8")
    assert load_lexicon(path).views["Coronal view"] == ("coronal*", "frontal plane*", "mid coronal")


@pytest.mark.parametrize(
    "word",
    (
        "pneumothorax hematoma haemorrhage cholecystitis osteoma hydronephrosis tumour stones cirrhosis tuberculosis"
    ).split(),
)
def test_is_finding_knows_findings_by_their_form(word):
    assert is_finding(word)


@pytest.mark.parametrize("word", "lung cystogram hypopharynx masseter coma diagnosis tuberosity".split())
def test_is_finding_rejects_words_that_only_look_so(word):
    assert not is_finding(word)
