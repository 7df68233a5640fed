"""Clinical history is left out of captions, and findings are not."""

import pytest

from radgen.captions.history import plain_caption, without_history


@pytest.mark.parametrize(
    "caption, kept",
    [
        ("O2 saturation was initially 58 % on room air. Chest X-ray with infiltrates", "Chest X-ray with infiltrates"),
        ("His blood pressure was 90/60 mmHg. Abdominal CT", "Abdominal CT"),
        ("CT of a man with C-reactive protein of 120 mg/l", "CT of a man"),
        ("Patient presented to the emergency department with a two day history of cough. CT", "CT"),
        ("No wheeze, hypoxia or tachypnea. CT", "CT"),
        (
            "CT of a man who presented with severe left flank pain and fever shows an abscess",
            "CT of a man shows an abscess",
        ),
        ("X-ray of a child with fever, cough and dyspnea", "X-ray of a child"),
        ("MRI of a woman with a history of breast cancer", "MRI of a woman"),
        ("The patient underwent surgery and recovered. CT with an abscess", "CT with an abscess"),
        ("CT was performed to rule out pulmonary embolism", "CT"),
        ("X-ray of a boy from Kenya with a fracture", "X-ray of a patient with a fracture"),
        ("A 12-year-old girl complaining of knee pain. Radiograph", "Radiograph"),
    ],
)
def test_history_is_left_out(caption, kept):
    assert without_history(caption) == kept


@pytest.mark.parametrize(
    "caption",
    [
        "A woman presented with a hypoechoic mass (1.7 cm) in the left breast",
        "The lesion presented with a circumscribed margin",
        "A man presented with a pneumothorax on chest X-ray",
        "Acute respiratory distress syndrome with diffuse opacities",
        "The patient has a fracture of the left tibia",
        "CT shows a drain after surgery",
        "Stent in the right coronary artery, received in a second intervention",
        "No effusion or pneumothorax",
    ],
)
def test_what_is_seen_stays(caption):
    assert without_history(caption) == caption


@pytest.mark.parametrize(
    "caption, kept",
    [
        ("Chest radiograph on day 36 after admission showing effusion", "Chest radiograph showing effusion"),
        ("CT on the fourth day of hospitalization: abscess", "CT: abscess"),
        ("X-ray taken in January 2020 shows caries", "X-ray taken shows caries"),
        ("CT, 12/03/2019, with nodule", "CT, with nodule"),
        ("Chest X-ray on postoperative day 3", "Chest X-ray postoperative"),
        ("Ultrasound (Philips EPIQ 7, Bothell, USA) of the liver", "Ultrasound of the liver"),
        ("Brain MRI at the time of admission to the hospital", "Brain MRI"),
        ("16-slice CT of the chest", "CT of the chest"),
    ],
)
def test_dates_days_and_devices_are_left_out(caption, kept):
    text = plain_caption(caption)
    assert text == plain_caption(kept), text


def test_a_caption_of_history_alone_becomes_empty():
    assert plain_caption("The patient presented to the hospital with fever and cough.") == ""
