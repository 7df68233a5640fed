"""Sentences of reports: what only denies, what goes with a recommendation, and what a redaction mark takes along."""

import pytest

from radgen.captions.report_sentences import (
    Says,
    load_report_words,
    mark_redactions,
    sentence_says,
    without_advice,
    without_asides,
    without_marks,
)
from radgen.core.errors import DataError

NORMAL = [
    "No focal consolidation, pleural effusion, or pneumothorax",
    "There is no evidence of acute fracture or dislocation",
    "The liver, spleen, pancreas and kidneys are unremarkable",
    "Heart size is normal, and there is no evidence of effusion",
    "Pleural effusion is not seen",
    "The heart is not enlarged",
    "Lungs are free of focal airspace disease",
    "Negative for pneumothorax",
    "Lungs and pleura: Clear",
    "No free air or free fluid",
    "No abnormal enhancement",
    "Lines and tubes: None",
    "Pleura: No effusion",
    "Lungs are clear of airspace disease",
]
POSITIVE = [
    "No pneumothorax, small left pleural effusion",
    "No pneumothorax but small effusion",
    "No effusion, but a small pneumothorax",
    "No pneumothorax and left effusion",
    "No acute abnormality other than a rib fracture",
    "No flow in the left internal carotid artery",
    "No spleen is identified",
    "No change in the large left pneumothorax",
    "The ACL is not intact",
    "Pneumothorax cannot be excluded",
    "Heart size at the upper limits of normal",
    "Normal pressure hydrocephalus",
    "Patent foramen ovale",
    "Lungs are clear except for a nodule",
    "Free fluid in the pelvis",
    "Absent right kidney",
    "No evidence of pneumonia, previously seen consolidation has resolved",
    "Symmetric pulmonary edema",
    "Pneumonia or edema",
    "Free gas in the abdomen",
    "The gallbladder is not seen",
    "The left kidney is not identified",
    "Anterior fat pad sign, no fracture",
    "Suspicious area in the left breast, otherwise normal",
    "Large liver, normal echotexture",
    "Alveolar pattern in the left lung, heart normal",
    "Central venous line",
    "Lines and tubes are intact",
    "Pelvic kidney, normal size",
    "Right aortic arch, normal heart",
    "No enhancement of the left kidney",
    "No signal in the left carotid artery",
    "No compression of the femoral vein",
    "Clear cell carcinoma",
    "Midline sternotomy",
    "Nonobstructive renal calculus",
    "Noncompressible popliteal vein",
    "Lungs",
    "",
]


@pytest.mark.parametrize("sentence", NORMAL)
def test_denials_and_normal_sentences(sentence):
    assert sentence_says(sentence) is Says.NORMAL
    assert sentence_says(sentence.upper()) is Says.NORMAL


@pytest.mark.parametrize("sentence", POSITIVE)
def test_what_is_not_understood_counts_as_a_finding(sentence):
    assert sentence_says(sentence) is Says.POSITIVE


@pytest.mark.parametrize("sentence", NORMAL)
@pytest.mark.parametrize(
    "finding", ["except for a nodule", "with a small effusion", "and a 4 mm stone", "; rib fracture"]
)
def test_no_denial_swallows_a_finding_that_follows(sentence, finding):
    assert sentence_says(f"{sentence} {finding}") is Says.POSITIVE


@pytest.mark.parametrize("sentence", ["No new consolidation", "Lungs are otherwise clear", "No residual pneumothorax"])
def test_denials_that_leave_room_for_something_old(sentence):
    assert sentence_says(sentence) is Says.HEDGED


def test_unchanged_is_no_finding():
    assert sentence_says("No significant interval change") is Says.UNCHANGED


@pytest.mark.parametrize(
    "sentence, kept, named",
    [
        ("Further evaluation with contrast-enhanced CT is recommended", "", ""),
        ("Clinical correlation is advised", "", ""),
        ("Findings were discussed with Dr. Jones at 10:30 am", "", ""),
        ("Small effusion", "Small effusion", ""),
        ("Scar in the apex for which follow-up is recommended", "Scar in the apex", ""),
        ("Renal mass; MRI is recommended", "Renal mass", ""),
        ("6 mm nodule requires follow-up CT", "6 mm nodule", ""),
        ("CT is recommended, 4 mm nodule in the right lung", "4 mm nodule in the right lung", ""),
        ("5 mm stone, discussed with Dr. Lee, in the left ureter", "5 mm stone in the left ureter", ""),
        ("Sarcoidosis should be considered", "Sarcoidosis should be considered", ""),
        ("Consider MRI for further characterization of the 1.5 cm adrenal nodule", "", "1.5 cm adrenal nodule"),
    ],
)
def test_recommendations_go_and_findings_stay(sentence, kept, named):
    assert without_advice(sentence) == (kept, named)


@pytest.mark.parametrize(
    "sentence, clean",
    [
        ("Midline sternotomy XXXX", "Midline sternotomy"),
        ("Stable left XXXX", ""),
        ("Left XXXX and right effusion", "right effusion"),
        ("Opacity in the left XXXX", "Opacity on the left"),
        ("There are no XXXX of a pleural effusion", "There are no pleural effusion"),
        ("No XXXX or effusion", "No effusion"),
        ("Unchanged since [**2101-3-4**]", "Unchanged"),
        ("Seen by <NAME> at ___", ""),
        ("Chest x-XXXX", "Chest X-ray"),
        ("There is XXXX", ""),
    ],
)
def test_redaction_marks_leave_no_stump(sentence, clean):
    assert " ".join(without_marks(mark_redactions(sentence)).split()) == clean


@pytest.mark.parametrize(
    "sentence, clean",
    [
        ("Effusion, as compared with the prior CT of 2019", "Effusion"),
        ("Opacity seen on the lateral view only", "Opacity"),
        ("Opacities are better seen in prior CT", "Opacities"),
        ("PA and lateral chest radiograph", "chest radiograph"),
        ("Lateral meniscus tear", "Lateral meniscus tear"),
    ],
)
def test_comparisons_and_views_go(sentence, clean):
    assert without_asides(sentence).strip() == clean


@pytest.mark.parametrize(
    "text, message",
    [
        ("[views]\nPA = ['pa']", "missing or unknown"),
        ("[views]\nPA = ['Pa']", "views.PA.0 is 'Pa'"),
        ("[views]\nPA = []", "views.PA is"),
        ("[views", "cannot be read as TOML"),
    ],
)
def test_a_mistake_in_the_words_is_reported_with_its_place(tmp_path, text, message):
    path = tmp_path / "reports.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_report_words(path)
