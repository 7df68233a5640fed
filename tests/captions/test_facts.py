"""What concepts and captions state, and which of them decides."""

import pytest
from caption_cases import AN, AP, CHEST, CT, EFFUSION, LIVER, MR, NAMES, PA, XR

from radgen.captions.history import plain_caption
from radgen.captions.facts import Facts, concept_facts, join_names, own_text, possible_views, resolve, source, type_of


@pytest.mark.parametrize(
    "text, region",
    [
        ("mass of the liver on chest CT", "Chest"),
        ("CT of the abdomen and pelvis", "Abdomen and Pelvis"),
        ("head of the femur fracture on X-ray", "Hip"),
        ("neck of the humerus on X-ray", "Shoulder"),
        ("axial skeleton", ""),
        ("pneumothorax on X-ray", "Chest"),
        ("echocardiogram", "Heart"),
        ("mammography", "Breast"),
        ("MRI of the lumbar spine", "Spine"),
        ("head of the pancreas", "Abdomen"),
        ("chest wall mass", "Chest"),
        ("brain MRI", "Head"),
        ("right knee radiograph", "Knee"),
    ],
)
def test_region_from_the_caption(text, region):
    assert resolve(plain_caption(text), Facts()).facts.region == region


@pytest.mark.parametrize(
    "cuis, field, value",
    [
        ([XR, AN], "image_type", "Angiogram"),
        ([MR, AN], "image_type", "Magnetic resonance imaging"),
        (["C4028269"], "image_type", "Computed tomography"),
        (["C0000000", CHEST], "region", "Chest"),
        ([AP, PA], "view", ""),
        ([XR, EFFUSION, "C0027651"], "findings", ("pleural effusion", "neoplasms")),
        ([CT, LIVER], "options", ((), ("Liver",), ())),
    ],
)
def test_concepts_state_a_field(cuis, field, value):
    assert getattr(concept_facts(cuis, NAMES), field) == value


def test_concepts_that_contradict_each_other_say_nothing():
    assert concept_facts([CT, MR], NAMES) == Facts()


@pytest.mark.parametrize(
    "name",
    [
        "Pelvic cavity structure",
        "Masseter muscle structure",
        "Hypothalamic structure",
        "Pleural cavity",
        "Entire right fallopian tube",
    ],
)
def test_anatomy_is_no_finding(name):
    assert not concept_facts(["C9"], {"C9": name}).findings


@pytest.mark.parametrize(
    "caption, cuis, sources",
    [
        ("Chest CT with nodule, axial view", [CT], ("concept", "caption", "caption")),
        ("Nodule", [XR, CHEST, PA], ("concept", "concept", "concept")),
        ("Nodule", [], ("", "", "")),
    ],
)
def test_sources_tell_who_decided(caption, cuis, sources):
    assert source(caption, cuis, NAMES).facts.sources == sources


def test_concepts_take_precedence_over_the_caption():
    facts = source("MRI of the abdomen, coronal view", [CT, CHEST], NAMES).facts
    assert facts[:3] == ("Computed tomography", "Chest", "Coronal view")
    assert source("Follow-up", [CT, LIVER], NAMES).facts.region == "Liver"


def test_sentences_about_another_image_are_left_out():
    text = "CT shows a 2 cm mass. On MRI it measures 3 cm"
    assert own_text(text, "Computed tomography") == "CT shows a 2 cm mass"
    assert own_text("MRI shows a mass", "Computed tomography") == "MRI shows a mass"  # nothing else to go by


def test_views_that_a_type_can_have():
    views = ["Antero-posterior view", "Axial view"]
    assert possible_views(views, "X-ray") == views
    assert possible_views(views, "Computed tomography") == ["Axial view"]


def test_type_of_any_words():
    assert type_of("a CXR") == "X-ray"
    assert type_of("T2-weighted image") == "Magnetic resonance imaging"
    assert type_of("picture") == ""


def test_join_names_keeps_abbreviations():
    assert join_names(["Fat-suppressed", "T1-weighted", "Spin-echo"]) == "Fat-suppressed and T1-weighted and spin-echo"
    assert join_names([]) == ""


@pytest.mark.parametrize(
    "caption, cuis, label",
    [
        ("MRA of the head shows an aneurysm", [MR, AN], "Magnetic resonance imaging angiography"),
        ("MR angiography with stenosis", [MR], "Magnetic resonance imaging angiography"),
        ("CT angiography with dissection", [CT], "Computed tomography angiography"),
        ("CT with dissection", [CT, AN], "Computed tomography angiography"),
        ("PET/CT with avid nodule", [CT], "Computed tomography with positron emission tomography"),
        ("CT with nodule", [CT], "Computed tomography"),
    ],
)
def test_combined_image_types_are_kept(caption, cuis, label):
    facts = source(caption, cuis, NAMES).facts
    assert facts.label == label
    assert type_of(label) == facts.image_type


@pytest.mark.parametrize(
    "caption, image_type",
    [
        ("MDCT of the liver", "Computed tomography"),
        ("MSCT of the liver", "Computed tomography"),
        ("CTPA with embolus", "Computed tomography"),
        ("TAC of the chest", "Computed tomography"),
        ("TDM of the chest", "Computed tomography"),
        ("Micro-CT of a tooth", "Computed tomography"),
        ("IRM of the brain", "Magnetic resonance imaging"),
        ("CMR with fibrosis", "Magnetic resonance imaging"),
        ("RTG of the hand", "X-ray"),
        ("Rx of the chest", "X-ray"),
        ("IVU shows a stone", "X-ray"),
        ("MCUG shows reflux", "X-ray"),
        ("OPT shows a cyst", "X-ray"),
        ("IOPA radiograph", "X-ray"),
        ("Transthoracic echo showing a thrombus", "Ultrasonography"),
        ("Thyroid scintiscan", "Scintigraphy"),
        ("OCT of a stent", "Optical coherence tomography"),
        ("LAD with 90 % stenosis, LAO view", "Angiogram"),
        ("Occlusion of the RCA", "Angiogram"),
        ("H&E stain of the tumour", ""),
        ("Photograph of the patient's hand", ""),
    ],
)
def test_image_types_by_words_of_older_captions(caption, image_type):
    assert source(caption, [], NAMES).facts.image_type == image_type
