"""Views, body parts and numbers in many wordings."""

import pytest

from radgen.captions.reading import clauses, read, seen


@pytest.mark.parametrize(
    "text, views, hints",
    [
        ("lateral view", ["Lateral view"], []),
        ("lateral chest radiograph", ["Lateral view"], []),
        ("lateral ventricle", [], []),
        ("lateral to the liver", [], ["Lateral view"]),
        ("transverse process", [], []),
        ("transverse image", ["Axial view"], []),
        ("AP radiograph", ["Antero-posterior view"], []),
        ("severe AP with stranding", [], ["Antero-posterior view"]),
        ("axial and coronal images", ["Axial view", "Coronal view"], []),
        ("sagittal sinus thrombosis", [], []),
        ("long-axis", ["Long-axis view"], []),
        ("4-chamber view", ["Four-chamber view"], []),
        ("apical 4 chamber", ["Four-chamber view"], []),
        ("right anterior oblique projection", ["Right anterior oblique view"], []),
    ],
)
def test_view_is_named_next_to_a_word_for_the_image(text, views, hints):
    assert seen(text).views == views
    assert seen(text).view_hints == hints


@pytest.mark.parametrize(
    "text, imaged",
    [
        ("mass of the liver on chest computed tomography", ["Chest"]),
        ("computed tomography of the abdomen and pelvis", ["Abdomen", "Pelvis"]),
        ("computed tomography after resection of the liver", []),
        ("mass of the liver", []),
        ("mammography", ["Breast"]),
    ],
)
def test_body_part_next_to_the_image_type_is_imaged(text, imaged):
    assert seen(text).imaged == imaged


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("3 cm", {("3", "cm")}),
        ("3cm", {("3", "cm")}),
        ("3-mm", {("3", "mm")}),
        ("3 x 4 x 5 cm", {("3", "cm"), ("4", "cm"), ("5", "cm")}),
        ("5*3.5*4 cms", {("5", "cm"), ("3.5", "cm"), ("4", "cm")}),
        ("5.1 cm x 3.4 cm", {("5.1", "cm"), ("3.4", "cm")}),
        ("2-3 mm", {("2", "mm"), ("3", "mm")}),
        ("45%", {("45", "percent")}),
        ("60 HU", {("60", "hu")}),
        ("30°", {("30", "degree")}),
        ("45-year-old woman", set()),
        ("after 3 months", {("3", "time")}),
        ("segment 4", {("4", "")}),
        ("L4", set()),
        ("4-chamber view", set()),
        ("120 mmHg", {("120", "mmhg")}),
    ],
)
def test_number_gets_its_unit(text, numbers):
    reading = read(text)
    found = {(reading.words[start], m.unit) for start, _, m in reading.phrases if m.unit is not None}
    assert found == numbers


def test_clauses_end_at_full_stops_and_semicolons():
    reading = read("a mass; 2.5 cm. No edema, no shift")
    assert [reading.original(start, end) for start, end in clauses(reading)] == [
        "a mass",
        "2.5 cm",
        "No edema, no shift",
    ]


@pytest.mark.parametrize(
    "text, views",
    [
        ("Chest X-ray, AP erect view", ["Antero-posterior view"]),
        ("Chest X-ray AP supine", ["Antero-posterior view"]),
        ("Erect PA chest X-ray", ["Postero-anterior view"]),
        ("Semi-erect AP chest radiograph", ["Antero-posterior view"]),
        ("AP semi-erect portable chest film, radiograph", ["Antero-posterior view"]),
        ("PA and lateral chest radiographs", ["Postero-anterior view", "Lateral view"]),
        ("frontal and lateral views", ["Frontal view", "Lateral view"]),
        ("left lateral decubitus radiograph", ["Decubitus view"]),
        (
            "coronary angiogram in right anterior oblique cranial projection",
            ["Right anterior oblique view", "Cranial view"],
        ),
        ("left anterior oblique caudal view", ["Left anterior oblique view", "Caudal view"]),
        ("anteroposterior cranial view", ["Antero-posterior view", "Cranial view"]),
        ("anteroposterior and transverse diameter", []),
        ("lateral wall of the orbit", []),
    ],
)
def test_views_with_position_words(text, views):
    assert seen(text).views == views


@pytest.mark.parametrize(
    "text, regions", [("cranial CT", ["Head"]), ("angiogram, left anterior oblique cranial view", [])]
)
def test_cranial_is_a_projection_beside_another_view(text, regions):
    assert seen(text).regions == regions
