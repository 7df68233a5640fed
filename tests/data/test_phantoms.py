"""The embedded data: repeatable, complete, honest about sides, and in ROCOv2's proportions."""

import hashlib, json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radgen.core.errors import ConfigError
from radgen.data.canvas import Finding
from radgen.data.kinds import KINDS, NAMES
from radgen.data.phantoms import BAD, draw_phantom, make_phantoms

TOP = [
    "C0040405",
    "C1306645",
    "C0024485",
    "C0041618",
    "C0817096",
    "C1999039",
    "C0002978",
    "C1996865",
    "C0037303",
    "C0000726",
]  # ROCOv2's


@pytest.fixture(scope="module")
def truth(phantoms):
    return pd.read_csv(phantoms / "truth.csv", keep_default_na=False)


def read(phantoms, name):
    return pd.read_csv(phantoms / name, dtype=str, keep_default_na=False)


def test_layout(phantoms):
    for split, n in dict(train=1600, valid=100, test=400).items():
        captions, concepts = read(phantoms, f"{split}_captions.csv"), read(phantoms, f"{split}_concepts.csv")
        assert captions.columns.tolist() == ["ID", "Caption"] and concepts.columns.tolist() == ["ID", "CUIs"]
        assert (
            len(captions) == n
            and captions.ID.is_unique
            and (captions.ID == concepts.ID).all()
            and captions.Caption.str.len().gt(3).all()
        )
        assert {p.stem for p in (phantoms / f"{split}_images").iterdir()} == set(captions.ID)
    assert read(phantoms, "cui_mapping.csv").columns.tolist() == ["CUI", "Canonical name"]


def test_images_are_grey_bytes_of_256_pixels(phantoms, truth):
    for i in truth[(truth.split == "train") & (truth.bad == "")].ID.head(40):
        with Image.open(phantoms / "train_images" / f"{i}.jpg") as im:
            assert (im.size, im.mode, im.format) == ((256, 256), "L", "JPEG")


def test_every_kind_over_five_modalities(truth):
    assert set(truth.kind) == set(KINDS) and len(KINDS) >= 10 and truth.modality.nunique() == 5
    for key, kind in KINDS.items():
        names = {f["name"] for s in truth[truth.kind == key].findings for f in json.loads(s)}
        assert names == set(kind.findings), key


def test_known_share_is_bad_and_is_so_on_disk(phantoms, truth):
    assert 0.025 < (truth.bad != "").mean() < 0.055 and set(truth.bad) == {"", *BAD}
    for _, row in truth[truth.bad != ""].iterrows():
        path = phantoms / f"{row.split}_images" / f"{row.ID}.jpg"
        if row.bad == "truncated":
            with pytest.raises(OSError):
                Image.open(path).load()
            continue
        a = np.asarray(Image.open(path), float)
        if row.bad == "near-blank":
            assert a.mean() < 15
        if row.bad == "saturated":
            assert a.mean() > 220
        if row.bad == "noise":
            assert a.std() > 60 and abs(np.corrcoef(a[:, :-1].ravel(), a[:, 1:].ravel())[0, 1]) < 0.1


def test_concepts_have_the_order_of_rocov2_and_a_tail(phantoms):
    counts = read(phantoms, "train_concepts.csv").CUIs.str.split(";").explode().value_counts()
    assert counts.index[:10].tolist() == TOP
    assert len(counts) > 40 and (counts < 20).sum() > 15 and not set(counts.index) <= set(NAMES)


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    def digest(d):
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(d.rglob("*")) if p.is_file()}

    a, b, c = (
        make_phantoms(tmp_path / n, 30, 4, 6, seed=s, workers=w) for n, s, w in (("a", 3, 1), ("b", 3, 2), ("c", 4, 2))
    )
    assert digest(a) == digest(b) != digest(c)


def test_any_integer_is_a_seed():
    assert draw_phantom(-1, 0).caption == draw_phantom(2**32 - 1, 0).caption != draw_phantom(0, 0).caption


def test_splits_share_no_phantom(phantoms):
    seen = [hashlib.sha256(p.read_bytes()).hexdigest() for p in phantoms.glob("*_images/*.jpg")]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "key, name",
    [
        ("ct_head", "haemorrhage"),
        ("ct_head", "subdural haematoma"),
        ("ct_chest", "consolidation"),
        ("xray_chest_ap", "pleural effusion"),
        ("mri_brain_t2", "tumour"),
    ],
)
def test_the_side_in_words_is_the_side_in_the_picture(key, name):
    "The patient's left is at image right: there the finding brightens the picture."
    for side, sign in (("left", 1), ("right", -1)):
        d = sum(
            np.clip(KINDS[key].draw(np.random.default_rng(i), Finding(name, side, 35)), 0, 255)
            - np.clip(KINDS[key].draw(np.random.default_rng(i), Finding()), 0, 255)
            for i in range(10)
        )
        assert sign * (d[:, 128:].mean() - d[:, :128].mean()) > 0


def test_captions_never_name_another_side():
    for i in range(1500):
        p = draw_phantom(11, i)
        text = p.caption.lower()
        for f in p.truth["findings"]:
            other = {"left": "right", "right": "left"}.get(f["side"])
            if other:
                assert (
                    f" {other} "
                    not in f" {text.replace('r: right; l: left.', '').replace('right upper quadrant', '').replace('internal carotid artery', '')} ".replace(
                        "-sided", ""
                    )
                ), p.caption


def test_captions_read_like_papers():
    captions = [draw_phantom(5, i).caption for i in range(600)]
    for word in (
        "Fig",
        "(arrow",
        "year-old",
        "CT",
        "MRI",
        " mm ",
        "no evidence",
        "(a)",
        "Computed tomography",
        ";",
        '"',
    ):
        assert any(word.lower() in c.lower() for c in captions), word
    assert len(set(captions)) > 500
    silent = [
        c
        for c in captions
        if not any(
            w in c.lower()
            for w in (
                "ct",
                "mr",
                "x-ray",
                "radiograph",
                "cxr",
                "us ",
                "sono",
                "angio",
                "dsa",
                "tomograph",
                "film",
                "t1",
                "t2",
                "hrct",
            )
        )
    ]
    assert len(silent) > 20  # nothing about the modality


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        make_phantoms(tmp_path, 2, 1, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
