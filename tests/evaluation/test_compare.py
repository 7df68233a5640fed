"""Two folders of images: what is refused, and statistics that are saved."""

import numpy as np
import pytest
from PIL import Image

from radgen.core.errors import ConfigError, DataError
from radgen.evaluation.compare import compare, load_statistics, read_folder, save_statistics
from radgen.evaluation.config import CompareConfig
from radgen.evaluation.distance import Statistics
from radgen.evaluation.features import make_features

from evaluation_helpers import random_images, write_images


@pytest.fixture
def folders(tmp_path):
    return write_images(tmp_path / "real", random_images(60, 8)), write_images(
        tmp_path / "fake", random_images(60, 8, 1)
    )


def test_the_grid_of_radgen_sample_is_no_picture(folders):
    _, fake = folders
    Image.new("RGBA", (90, 40)).save(fake / "grid.png")
    with pytest.raises(DataError, match="grid.png is of mode RGBA"):
        read_folder(fake)
    (fake / "samples.csv").write_text("index,id,prompt,seed\n")
    assert read_folder(fake)[0].shape == (60, 8, 8)


def one_more(folder, image):
    "Add an image of another kind, the last by name."
    image.save(folder / "zzz.png")


def broken(kind, real, fake, tmp_path):
    "Make one mistake; return the two sides."
    other = dict(
        empty=[],
        one=random_images(1, 8),
        few=random_images(20, 8, 2),
        large=random_images(60, 16),
        copy=random_images(60, 8)[::-1],
    )
    if kind in other:
        return real, write_images(tmp_path / kind, other[kind])
    if kind == "alpha":
        return real, write_images(tmp_path / "alpha", random_images(60, 8), "RGBA")
    if kind == "rgb":
        return real, write_images(tmp_path / "rgb", random_images(60, 8, 3), "RGB")
    if kind == "absent":
        return real, tmp_path / "nowhere"
    if kind == "same":
        return real, real
    if kind == "sizes":
        one_more(fake, Image.fromarray(random_images(1, 9)[0]))
    if kind == "colour":
        one_more(fake, Image.fromarray(random_images(1, 8)[0]).convert("RGB"))
    if kind == "damaged":
        (fake / "zzz.png").write_bytes((fake / "000.png").read_bytes()[:40])
    return real, fake


@pytest.mark.parametrize(
    "kind, message",
    [
        ("empty", "holds no images"),
        ("absent", "holds no images"),
        ("one", "holds one image"),
        ("sizes", "mixes sizes: 000.png has 8 x 8 pixels and zzz.png has 9 x 9"),
        ("colour", "mixes colour and grey: 000.png is L and zzz.png is RGB"),
        ("alpha", "is of mode RGBA"),
        ("rgb", "are L and those of .* RGB: write colour and grey"),
        ("damaged", "zzz.png cannot be read"),
        ("few", "20 images are too few"),
        ("large", "8 x 8 pixels and those of .* 16 x 16"),
        ("copy", "hold the same images"),
        ("same", "distance 0 from itself"),
    ],
)
def test_folders_that_cannot_be_compared_are_rejected_by_name(kind, message, folders, tmp_path):
    real, fake = broken(kind, *folders, tmp_path)
    with pytest.raises((DataError, ConfigError), match=message):
        compare(CompareConfig(real, fake, features="vgg16", device="cpu"))


def test_comparison_and_saved_statistics_agree(folders, tmp_path):
    real, fake = folders
    common = dict(features="vgg16", device="cpu", repeats=10, seed=-1)
    r = compare(CompareConfig(real, fake, save=tmp_path / "s.safetensors", **common))
    name = "FD-VGG16 (stand-in, not FID)"
    assert r["lower end of 95 %"] < r[name] < r["upper end of 95 %"]
    assert (r["generated"], r["real"]) == (60, 60)
    assert 0 <= r["coverage"] <= 1
    again = compare(CompareConfig(tmp_path / "s.safetensors", fake, **common))
    assert again[name] == pytest.approx(r[name], rel=1e-6)
    assert "coverage" not in again
    assert load_statistics(tmp_path / "s.safetensors").n == 60


@pytest.mark.parametrize(
    "what, message",
    [
        ("size", "are of images in L, 9 x 8 pixels"),
        ("few", "are of 49 images, too few"),
        ("nameless", "does not hold statistics"),
        ("nan", "does not hold statistics"),
        ("width", "does not hold statistics"),
        ("network", "two kinds of features do not compare"),
        ("bytes", "does not hold statistics"),
    ],
)
def test_saved_statistics_that_do_not_fit_are_rejected(folders, tmp_path, what, message):
    path = tmp_path / "s.safetensors"
    kind = "L, 9 x 8 pixels" if what == "size" else "L, 8 x 8 pixels"
    features = {"nameless": "", "network": "FD-VGG16, 96 px"}.get(what, make_features("vgg16").identity)
    s = Statistics(np.zeros(512), np.eye(512), 49 if what == "few" else 99, features, kind)
    if what == "nan":
        s.mean[3] = np.nan
    if what == "width":
        s.root = np.eye(7)
    save_statistics(s, path)
    if what == "bytes":
        path.write_bytes(b"nothing")
    with pytest.raises((ConfigError, DataError), match=message):
        compare(CompareConfig(path, folders[1], features="vgg16", device="cpu"))


def test_no_program_is_started_for_a_picture(folders):
    real, fake = folders
    (fake / "000.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(DataError, match="000.png cannot be read as an image .UnidentifiedImageError"):
        read_folder(fake)
