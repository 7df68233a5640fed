"Rewritten captions with the differences that a person finds in them, shared by the tests of the audit."

import csv

import pandas as pd

CT, XR, MR, US, CHEST, HEAD, AP, PNEUMONIA = (
    "C0040405",
    "C1306645",
    "C0024485",
    "C0041618",
    "C0817096",
    "C0006104",
    "C1999039",
    "C0032285",
)
NAMES = {
    CT: "X-Ray Computed Tomography",
    XR: "Plain x-ray",
    MR: "Magnetic Resonance Imaging",
    US: "Ultrasonography",
    CHEST: "Chest",
    HEAD: "Head",
    AP: "Anterior-Posterior",
    PNEUMONIA: "Pneumonia",
}
NODULE = "Chest CT shows a 3 cm nodule in the left lung and no effusion."
FLAIR = "Axial contrast-enhanced FLAIR MRI of the brain shows a mass."

WORKED = [  # caption, concepts, rewritten, what is wrong
    (NODULE, [CT], "Computed tomography, Chest, Unspecified view, 3 cm nodule in the left lung and no effusion", []),
    (NODULE, [CT], "CT, Lungs, Unspecified view, Nodule of 3 cm in left lung, no effusion.", []),
    (NODULE, [CT], "X-ray, Chest, Unspecified view, 3 cm nodule in the left lung and no effusion", ["image type"]),
    (
        NODULE,
        [CT, CHEST],
        "Computed tomography, Knee, Unspecified view, 3 cm nodule in the left lung and no effusion",
        ["body part"],
    ),
    ("Chest radiograph shows a nodule.", [XR, CHEST, AP], "X-ray, Chest, Lateral view, Nodule", ["view"]),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Axial view, 3 cm nodule in the left lung and no effusion",
        ["plane invented"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, MRI shows a 3 cm nodule in the left lung and no effusion",
        ["other modality"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 5 cm nodule in the left lung and no effusion",
        ["number invented", "number left out"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 3 mm nodule in the left lung and no effusion",
        ["number invented", "number left out"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, Nodule in the left lung and no effusion",
        ["number left out"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 3 cm nodule in the right lung and no effusion",
        ["side swapped", "side left out"],
    ),
    ("Chest CT shows a nodule.", [CT], "Computed tomography, Chest, Unspecified view, Left nodule", ["side invented"]),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 3 cm nodule in the lung and no effusion",
        ["side left out"],
    ),
    (
        "CT: left nodule and right effusion",
        [CT],
        "Computed tomography, Chest, Unspecified view, Right nodule and left effusion",
        ["side moved"],
    ),
    (
        "CT: 3 cm nodule and 5 mm cyst",
        [CT],
        "Computed tomography, Chest, Unspecified view, 5 mm nodule and 3 cm cyst",
        ["number moved"],
    ),
    (
        NODULE,
        [CT],
        "Computed tomography, Chest, Unspecified view, 3 cm nodule in the left lung and effusion",
        ["negation lost"],
    ),
    (NODULE, [CT], "Computed tomography, Chest, Unspecified view, 3 cm nodule in the left lung", ["negation left out"]),
    (
        "CT shows a nodule and effusion",
        [CT],
        "Computed tomography, Chest, Unspecified view, Nodule and no effusion",
        ["negation invented"],
    ),
    (
        "CT: nodule with edema, cyst without edema",
        [CT],
        "Computed tomography, Unspecified region, Unspecified view, Nodule without edema, cyst with edema",
        ["negation moved"],
    ),
    (
        FLAIR,
        [MR],
        "Contrast-enhanced fluid-attenuated inversion recovery magnetic resonance imaging, Head, Axial view, Mass",
        [],
    ),
    (
        FLAIR,
        [MR],
        "Contrast-enhanced T1-weighted magnetic resonance imaging, Head, Axial view, Mass",
        ["sequence invented", "sequence left out"],
    ),
    (
        FLAIR,
        [MR],
        "Non-contrast fluid-attenuated inversion recovery magnetic resonance imaging, Head, Axial view, Mass",
        ["contrast invented", "contrast left out"],
    ),
    (FLAIR, [MR], "MRI, Brain, Unspecified view, Mass", ["contrast left out", "plane left out", "sequence left out"]),
    (
        "CT shows a nodule.",
        [CT],
        "Computed tomography, Unspecified region, Unspecified view, Malignant nodule",
        ["new word"],
    ),
    (
        "Chest CT shows a nodule.",
        [CT],
        "Computed tomography, Chest, Unspecified view, Normal",
        ["'Normal' beside a finding"],
    ),
    (
        "Chest radiograph.",
        [XR, CHEST, PNEUMONIA],
        "X-ray, Chest, Unspecified view, Normal",
        ["'Normal' beside a finding"],
    ),
    (
        "Chest CT shows a nodule in the apex.",
        [CT],
        "Computed tomography, Chest, Unspecified view, Apex",
        ["finding left out"],
    ),
    ("Chest radiograph: no acute abnormality", [XR, CHEST], "X-ray, Chest, Unspecified view, Normal.", []),
    ("Chest radiograph: no fracture", [XR, CHEST], "X-ray, Chest, Unspecified view, Normal.", ["negation left out"]),
    ("Chest radiograph.", [XR, CHEST, AP], "X-ray, Chest, Frontal view of Normal", []),
    (
        "CT: unilateral nodule",
        [CT],
        "Computed tomography, Unspecified region, Unspecified view, Left nodule",
        ["side invented", "side left out"],
    ),
    (
        "CT: bilateral effusion",
        [CT],
        "Computed tomography, Unspecified region, Unspecified view, Left and right effusion",
        [],
    ),
    ("CT of the parotid gland shows a mass", [CT, HEAD], "CT, Parotid gland, Unspecified view, Mass", []),
    ("Lateral chest radiograph with a nodule", [XR, CHEST, AP], "X-ray, Chest, Antero-posterior view, Nodule", []),
    ("Something else", [], "invalid", []),
]


def table(rows=WORKED):
    "Rows as a table."
    lines = []
    for i, (caption, cuis, text, _) in enumerate(rows):
        verdict = "ok" if i % 2 else "rules"
        lines.append(dict(id=f"R{i}", caption=caption, cuis=cuis, transformed=text, verdict=verdict))
    return pd.DataFrame(lines)


INDEPENDENT = {  # kind of the independent reading -> kinds of `WORKED` that are the same difference
    "negation lost": {"negation lost"},
    "negation invented": {"negation invented"},
    "side differs": {"side swapped", "side moved"},
}
CELLS = [(f"R{i}", c, ";".join(k), t, "ok", "concept;caption;") for i, (c, k, t, _) in enumerate(WORKED)]
HEADER = ("ID", "Caption", "CUIs", "Transformed", "Verdict", "Sources")


def write_csv(path, cells=CELLS, header=HEADER):
    "A CSV file with the names of its concepts beside it."
    path.parent.mkdir(exist_ok=True, parents=True)
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *cells])
    with open(path.parent / "cui_mapping.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("CUI", "Canonical name"), *NAMES.items()])
    return path
