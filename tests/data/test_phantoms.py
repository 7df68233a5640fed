"The embedded data: repeatable, complete, honest about sides, and in ROCOv2's proportions."

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radgen.core.errors import ConfigError
from radgen.data.canvas import Finding
from radgen.data.kinds import KINDS, NAMES
from radgen.data.phantoms import BAD, draw_phantom, make_phantoms

ROCOV2_LEADING = [
    "X-Ray Computed Tomography",
    "Plain x-ray",
    "Magnetic Resonance Imaging",
    "Ultrasonography",
    "Chest",
    "Anterior-Posterior",
    "angiogram",
    "Postero-Anterior",
    "Bone structure of cranium",
    "Abdomen",
]


@pytest.fixture(scope="module")
def truth(phantoms):
    return pd.read_csv(phantoms / "truth.csv", keep_default_na=False)


def read(phantoms, name):
    return pd.read_csv(phantoms / name, dtype=str, keep_default_na=False)


@pytest.mark.parametrize(("split", "n"), [("train", 1600), ("valid", 100), ("test", 400)])
def test_phantoms_have_the_layout_of_rocov2(phantoms, split, n):
    captions = read(phantoms, f"{split}_captions.csv")
    concepts = read(phantoms, f"{split}_concepts.csv")
    assert captions.columns.tolist() == ["ID", "Caption"]
    assert concepts.columns.tolist() == ["ID", "CUIs"]
    assert len(captions) == n
    assert captions.ID.is_unique
    assert captions.ID.tolist() == concepts.ID.tolist()
    assert captions.Caption.str.len().min() > 3
    assert {path.stem for path in (phantoms / f"{split}_images").iterdir()} == set(captions.ID)
    assert read(phantoms, "cui_mapping.csv").columns.tolist() == ["CUI", "Canonical name"]


def test_images_are_grey_bytes_of_256_pixels(phantoms, truth):
    for name in truth[(truth.split == "train") & (truth.bad == "")].ID.head(20):
        with Image.open(phantoms / "train_images" / f"{name}.jpg") as im:
            assert (im.size, im.mode, im.format) == ((256, 256), "L", "JPEG"), name


def test_every_kind_occurs_with_all_its_findings(truth):
    assert set(truth.kind) == set(KINDS)
    assert truth.modality.nunique() == 5
    for name, kind in KINDS.items():
        found = {f["name"] for cell in truth[truth.kind == name].findings for f in json.loads(cell)}
        assert found == set(kind.findings), name


def test_a_known_share_of_the_images_is_bad(truth):
    assert 0.025 < (truth.bad != "").mean() < 0.055
    assert set(truth.bad) == {"", *BAD}


def test_bad_images_are_bad_on_disk(phantoms, truth):
    for row in truth[(truth.bad != "") & (truth.split == "train")].itertuples():
        path = phantoms / f"{row.split}_images" / f"{row.ID}.jpg"
        if row.bad == "truncated":
            with pytest.raises(OSError, match="truncated"):
                Image.open(path).load()
            continue
        a = np.asarray(Image.open(path), float)
        if row.bad == "near-blank":
            assert a.mean() < 15, row.ID
        if row.bad == "saturated":
            assert a.mean() > 220, row.ID
        if row.bad == "noise":
            assert a.std() > 60, row.ID
            assert abs(np.corrcoef(a[:, :-1].ravel(), a[:, 1:].ravel())[0, 1]) < 0.1, row.ID


def test_concepts_have_the_order_of_rocov2_and_a_tail(phantoms):
    counts = read(phantoms, "train_concepts.csv").CUIs.str.split(";").explode().value_counts()
    assert [NAMES[cui] for cui in counts.index[:10]] == ROCOV2_LEADING
    assert len(counts) > 40
    assert (counts < 20).sum() > 15
    assert set(counts.index) - set(NAMES) != set(), "some concepts have no name"


def test_manual_concepts_are_modalities(phantoms):
    manual = set(read(phantoms, "valid_concepts_manual.csv").CUIs)
    assert {NAMES[cui] for cui in manual} == set(ROCOV2_LEADING[:4]) | {"angiogram"}


def test_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path):
    def digests(name, seed, workers):
        folder = make_phantoms(tmp_path / name, 10, 2, 3, seed=seed, workers=workers)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    one = digests("a", seed=3, workers=1)
    assert digests("b", seed=3, workers=2) == one
    assert digests("c", seed=4, workers=2) != one


# Captions, concepts and truth of version 1: a change of words or probabilities shows here and needs a new VERSION.
VERSION_1 = {
    (0, 0): "c7e2c42528a37a05",
    (0, 7): "98c6b9b49492403c",
    (1, 3): "996d2d332a1bdf04",
}


@pytest.mark.parametrize(("seed", "index"), VERSION_1)
def test_draw_phantom_gives_the_words_of_version_1(seed, index):
    p = draw_phantom(seed, index)
    words = json.dumps([p.caption, p.cuis, p.truth], sort_keys=True)
    assert hashlib.sha256(words.encode()).hexdigest()[:16] == VERSION_1[seed, index]


def test_draw_phantom_takes_any_integer_as_seed():
    caption = draw_phantom(-1, 0).caption
    assert caption == draw_phantom(2**32 - 1, 0).caption
    assert caption != draw_phantom(0, 0).caption


def test_splits_share_no_image(phantoms):
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in phantoms.glob("*_images/*.jpg")]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        ("ct_head", "haemorrhage"),
        ("ct_head", "subdural haematoma"),
        ("ct_chest", "consolidation"),
        ("xray_chest_ap", "pleural effusion"),
        ("mri_brain_t2", "tumour"),
    ],
)
@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
def test_a_finding_brightens_its_side_of_the_image(kind, finding, side, sign):
    "The patient's left is at image right."

    def draw(i, f):
        return KINDS[kind].draw(np.random.default_rng(i), f).clip(0, 255)

    d = sum(draw(i, Finding(finding, side, 35)) - draw(i, Finding()) for i in range(4))
    assert sign * (d[:, 128:].mean() - d[:, :128].mean()) > 0


def test_make_phantoms_leaves_a_finished_folder_alone(tmp_path):
    out = make_phantoms(tmp_path / "p", 2, 1, 1, workers=1)
    stamp = (out / "manifest.json").stat().st_mtime_ns
    make_phantoms(out, 2, 1, 1, workers=1)
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    make_phantoms(out, 3, 1, 1, workers=1)
    assert len(list((out / "train_images").iterdir())) == 3, "other sizes replace it"


def test_make_phantoms_rejects_a_folder_with_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        make_phantoms(tmp_path, 2, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
