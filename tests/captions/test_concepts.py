"""Concepts of captions and labels, the table that radgen ships, and the messages for mistakes in one."""

import json
import time
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from radgen.captions.concepts import (
    caption_concepts,
    concept_names,
    label_columns,
    label_concepts,
    label_names,
    load_concepts,
    read_labels,
    shipped_concepts,
)
from radgen.captions.facts import concept_facts, source
from radgen.captions.lexicon import LEXICON
from radgen.core.errors import DataError
from radgen.data.kinds import NAMES, TABLE
from radgen.data.tables import CUI, IMAGE_TYPES, REGIONS, VIEWS

TEXT = (files("radgen.captions") / "concepts.toml").read_text(encoding="utf-8")
CUI_OF = {name: finding.cui for name, finding in shipped_concepts().findings.items()}
CT, XRAY, MRI, ULTRASOUND = "C0040405", "C1306645", "C0024485", "C0041618"
CHEST, ABDOMEN, PELVIS = "C0817096", "C0000726", "C0030797"


def concepts(caption):
    return caption_concepts(pd.Series([caption]))[0]


def findings(caption):
    name_of = {cui: name for name, cui in CUI_OF.items()}
    return [name_of[cui] for cui in concepts(caption) if cui in name_of]


# The table


def test_every_concept_is_a_cui_and_has_one_name():
    named = list(shipped_concepts().named())
    assert all(CUI.fullmatch(cui) and name.strip() == name for cui, name in named)
    assert len(named) == len(dict(named)) == len({name for _, name in named})
    assert len(CUI_OF) >= 150


def test_image_types_and_body_parts_of_the_lexicon_have_a_concept():
    table = shipped_concepts()
    assert set(table.image_types) == set(LEXICON.image_types)
    assert set(table.regions) == set(LEXICON.regions)


@pytest.mark.parametrize("section, curated", [("image_types", IMAGE_TYPES), ("regions", REGIONS), ("views", VIEWS)])
def test_concepts_agree_with_those_curated_for_rocov2(section, curated):
    for name, cui in getattr(shipped_concepts(), section).items():
        assert curated.get(cui, name) == name


def test_concepts_agree_with_those_of_the_phantoms():
    for name, cui in TABLE.findings.items():
        if cui != CUI_OF["Implant"]:  # the phantoms call prostheses and plates implants
            assert cui in CUI_OF.values(), name


def test_each_finding_is_read_by_each_of_its_phrases():
    for name, finding in shipped_concepts().findings.items():
        for phrase in (name, *finding.phrases):
            assert name in findings(f"CT shows {phrase}.") or name in findings(f"CT shows {phrase.lower()}."), phrase


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("[views]", "[planes]", "section [views] is missing"),
        ("\n[findings]\n", "\n[findings]\nPain = 1\n", "section [findings], entry 'Pain', must be a table"),
        ('cui = "C0032326"', 'cui = "C32326"', "'Pneumothorax', has 'C32326': a CUI is a C and seven digits"),
        ('Knee = "C0022742"', 'Knee = "Knee"', "section [regions], entry 'Knee', has 'Knee': a CUI is"),
        ('Knee = "C0022742"', 'Knie = "C0022742"', "section [regions] names 'Knie', which lexicon.toml does not have"),
        ('Mass = { cui = "C0577559" }', 'Mass = { cui = "C0028259" }', "C0028259 is that of 'Mass' and of 'Nodule'"),
        ('["micronodule"]', '["masses"]', "has the words of 'masses' in the entries 'Mass' and 'Nodule'"),
        ('["micronodule"]', '["the"]', "has only words that are passed over in captions"),
        ('["micronodule"]', '["resolved nodule"]', "holds a word that lexicon.toml has in [modifiers]"),
        ('["micronodule"]', '"micronodule"', "section [findings], entry 'Nodule', must be a list"),
        ('"lung opacity" = ["C4728208"]', '"lung opacity" = ["C9999999"]', "C9999999, which no other section names"),
        ('"pleural effusion" = ["C0032227"]', '"pleural effusion" = []', "has other concepts than in another data set"),
        ('["micronodule"]', '["micronodule"', "cannot be read as TOML"),
    ],
)
def test_load_concepts_reports_a_mistake_in_one_sentence(tmp_path, old, new, message):
    assert old in TEXT
    path = tmp_path / "concepts.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_concepts(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_load_concepts_reports_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read as TOML"):
        load_concepts(tmp_path / "absent.toml")


def test_concept_names_are_those_of_the_table_and_of_the_phantoms():
    names = concept_names()
    assert names.items() >= NAMES.items()
    assert set(names) == set(NAMES) | set(dict(shipped_concepts().named()))
    assert names[CUI_OF["Renal cell carcinoma"]] == "Renal cell carcinoma"


# Captions


def test_image_type_comes_first_then_body_parts_views_and_findings():
    caption = "Pleural effusion and atelectasis on a PA chest X-ray."
    effusion, atelectasis = CUI_OF["Pleural effusion"], CUI_OF["Atelectasis"]
    assert concepts(caption) == [XRAY, CHEST, "C1996865", effusion, atelectasis]
    assert concepts("Axial CT of the abdomen and pelvis.") == [CT, ABDOMEN, PELVIS, "C0205106"]
    assert concepts("Axial and coronal CT of the chest.") == [CT, CHEST, "C0205106", "C0205123"]


def test_a_concept_is_listed_once():
    assert findings("CT shows a nodule in the breast. Another nodule; nodules in both breasts.") == ["Nodule"]


@pytest.mark.parametrize(
    "caption",
    [
        "Chest CT without pneumothorax.",
        "Chest X-ray: no pneumothorax, effusion or fracture.",
        "Chest CT, pneumothorax was excluded.",
        "Chest X-ray with possible pneumothorax.",
        "Chest X-ray suspicious for pneumothorax.",
        "Chest X-ray, pneumothorax cannot be excluded.",
        "Skin fold mimicking a pneumothorax.",
        "Chest X-ray after resolution of the pneumothorax.",
        "The pneumothorax has resolved.",
        "Chest X-ray of a man with a history of pneumothorax.",
        "Chest X-ray with previous pneumothorax.",
    ],
)
def test_findings_that_are_denied_doubted_or_past_do_not_count(caption):
    assert findings(caption) == []


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("Increased pneumothorax.", ["Pneumothorax"]),
        ("Stable pneumothorax without effusion.", ["Pneumothorax"]),
        ("No effusion, but a pneumothorax.", ["Pneumothorax"]),
        ("Cyst of the left kidney.", ["Renal cyst"]),
        ("Renal cysts in both kidneys.", ["Renal cyst"]),
        ("Haemorrhagic cyst.", ["Hemorrhagic cyst"]),
        ("Intracerebral haemorrhage on CT.", ["Cerebral hemorrhage"]),
        ("Enlarged left atrium.", ["Left atrial dilatation"]),
        ("Enlarged right atrium.", ["Right atrial dilatation"]),
        ("Multiple sclerosis on MRI of the brain.", ["Multiple sclerosis"]),
        ("Thrombosis of the portal vein.", ["Portal vein thrombosis"]),
        ("Dilated cystic duct.", ["Dilatation"]),
        ("Polyp in the nasal cavity.", ["Polyp"]),
        ("Fixation plate and screws.", ["Bone plate", "Screw"]),
        ("Fracture of the growth plate.", ["Fracture"]),
        ("Midline shift due to mass effect.", []),
        ("Normal chest radiograph.", []),
    ],
)
def test_findings_of_a_caption(caption, expected):
    assert findings(caption) == expected


def test_a_sentence_about_an_image_of_another_kind_is_left_out():
    assert CUI_OF["Infarction"] not in concepts("Ultrasound shows gallstones. MRI showed an infarction.")


@pytest.mark.parametrize("caption", ["", "   ", None, np.nan, "before surgery"])
def test_a_caption_without_content_has_no_concepts(caption):
    assert concepts(caption) == []


def test_facts_are_the_same_with_and_without_the_concepts_of_the_caption():
    names = concept_names()
    for caption in ("PA chest radiograph with nodule.", "Sagittal MRI of the lumbar spine.", "X-ray of the left knee."):
        alone, together = source(caption, [], {}).facts, source(caption, concepts(caption), names).facts
        assert together[:3] == alone[:3]
    assert concept_facts(concepts("Coronal CT of the chest."), names).view == "Coronal view"


def test_several_hundred_captions_per_second():
    captions = [f"Axial CT of the chest, case {i}: {i} mm nodule, no effusion." for i in range(300)]
    caption_concepts(pd.Series(captions[:20]))
    started = time.perf_counter()
    caption_concepts(pd.Series(captions))
    assert 300 / (time.perf_counter() - started) > 100


# Labels

CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
).split(",")
CHESTXRAY14 = (
    "Atelectasis|Cardiomegaly|Effusion|Infiltration|Mass|Nodule|Pneumonia|Pneumothorax|Consolidation|Edema|Emphysema|"
    "Fibrosis|Pleural_Thickening|Hernia|No Finding"
).split("|")


@pytest.mark.parametrize("labels", [CHEXPERT, CHESTXRAY14])
def test_labels_of_public_data_sets_are_known(labels):
    rows, unknown = label_concepts(pd.Series(labels), read_labels())
    assert unknown == {}
    assert [label for label, cuis in zip(labels, rows) if not cuis] == ["No Finding"]


EFFUSION, INFILTRATION = CUI_OF["Effusion"], CUI_OF["Infiltration"]


@pytest.mark.parametrize(
    "cell",
    [
        "Effusion|Infiltration",
        "effusion;INFILTRATION",
        "effusion, infiltration",
        " effusion | infiltration ",
        '["Effusion", "Infiltration"]',
        '["Effusion","Infiltration"]',
        "['effusion' 'infiltration']",
        "['effusion'\n 'infiltration']",
        "['effusion', ' infiltration', '']",
        "[effusion, infiltration]",
        "Effusion|Infiltration|Effusion",
        ["Effusion", "Infiltration"],
        np.array(["Effusion", "Infiltration"]),
    ],
)
def test_forms_of_a_cell_with_labels(cell):
    rows, unknown = label_concepts(pd.Series([cell]), read_labels())
    assert rows == [[EFFUSION, INFILTRATION]]
    assert unknown == {}


@pytest.mark.parametrize("cell", ["", " ", "[]", "No Finding", "no_finding", None, np.nan, []])
def test_cells_without_concepts(cell):
    assert label_concepts(pd.Series([cell]), read_labels()) == ([[]], {})


def test_unknown_labels_are_counted_and_the_known_ones_of_their_row_kept():
    cells = pd.Series(["Effusion|Wibble", "Wibble", "Wobble", "Mass"])
    rows, unknown = label_concepts(cells, read_labels())
    assert rows == [[EFFUSION], [], [], [CUI_OF["Mass"]]]
    assert list(unknown.items()) == [("Wibble", 2), ("Wobble", 1)]


def test_a_csv_file_adds_labels_and_takes_precedence(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "Label,CUI,Canonical name\nWobble,C1234567,Wobbling\nEffusion,C0032227,\n"
        "Both,C1234567;C0032227,\nNone at all,,\n",
        encoding="utf-8",
    )
    mapping = read_labels(path)
    rows, unknown = label_concepts(pd.Series(["wobble", "effusion", "both", "none_at_all", "mass"]), mapping)
    assert rows == [["C1234567"], ["C0032227"], ["C1234567", "C0032227"], [], [CUI_OF["Mass"]]]
    assert unknown == {}
    assert label_names(path) == {"C1234567": "Wobbling"}


def test_a_label_of_a_file_may_hold_a_separator(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('label,CUI\n"Fracture, open",C0016658\n', encoding="utf-8")
    assert label_concepts(pd.Series(["Fracture, open"]), read_labels(path)) == ([["C0016658"]], {})


def test_a_toml_file_of_labels(tmp_path):
    path = tmp_path / "labels.toml"
    path.write_text('wobble = "C1234567"\nboth = ["C1234567", "C0032227"]\n[names]\nC1234567 = "Wobbling"\n')
    mapping = read_labels(path)
    assert (mapping["wobble"], mapping["both"]) == (["C1234567"], ["C1234567", "C0032227"])
    assert label_names(path) == {"C1234567": "Wobbling"}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("labels.csv", "label,CUI\nmass,C12\n", "the label 'mass' has 'C12': a CUI is a C and seven digits"),
        ("labels.csv", "name,code\nmass,C0577559\n", "no column label in labels.csv"),
        ("labels.toml", 'mass = "C12"', "the label 'mass' has 'C12': a CUI is a C and seven digits"),
        ("labels.toml", "mass = 5", "the label 'mass' has no CUI"),
        ("labels.toml", "mass = [5]", "the label 'mass' has 5: a CUI is"),
        ("labels.toml", "mass = ", "it cannot be read as TOML"),
    ],
)
def test_mistakes_in_a_file_of_labels(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_labels(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["absent.csv", "absent.toml"])
def test_an_absent_file_of_labels_says_which_form_it_has(tmp_path, name):
    with pytest.raises(DataError, match="label,CUI"):
        read_labels(tmp_path / name)


def test_columns_of_labels_count_one_and_nothing_else():
    table = pd.DataFrame(
        {"Path": list("abcde"), "Edema": ["1.0", "0.0", "-1.0", "", None], "Fracture": [1, 1, 0, -1, np.nan]}
    )
    labels = label_columns(table, ["Edema", "Fracture"])
    assert labels.tolist() == [["Edema", "Fracture"], ["Fracture"], [], [], []]
    rows, unknown = label_concepts(labels, read_labels())
    assert rows[:3] == [[CUI_OF["Edema"], CUI_OF["Fracture"]], [CUI_OF["Fracture"]], []]
    assert unknown == {}


def test_columns_of_labels_keep_the_index_of_the_table():
    table = pd.DataFrame({"Edema": [0, 1]}, index=[7, 3])
    assert label_columns(table, ["Edema"]).to_dict() == {7: [], 3: ["Edema"]}


@pytest.mark.parametrize(
    "names, message", [(["Path"], "has 'a.jpg'"), (["Wibble"], "no column Wibble: the table has Path")]
)
def test_columns_that_are_no_labels_are_reported(names, message):
    with pytest.raises(DataError, match=message):
        label_columns(pd.DataFrame({"Path": ["a.jpg"], "Edema": [1]}), names)


def test_concepts_do_not_depend_on_the_order_of_captions():
    captions = pd.Series(["CT with renal cyst.", "No cyst.", "Chest X-ray with nodule."])
    backwards = caption_concepts(captions[::-1])
    assert json.dumps(caption_concepts(captions)) == json.dumps(backwards[::-1])
