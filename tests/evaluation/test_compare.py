"""Two folders of images: what is refused, and statistics that are saved."""

import numpy as np
import pytest
from PIL import Image

from radgen.core.errors import ConfigError, DataError
from radgen.evaluation.compare import compare, folder_rows, load_statistics, save_statistics
from radgen.evaluation.config import CompareConfig
from radgen.evaluation.distance import Statistics, frechet_distance, statistics

from evaluation_helpers import pixel_features, random_images, write_images


QUICK = dict(features="vgg16", device="cpu", repeats=5)


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    "Features that cost nothing."
    monkeypatch.setattr("radgen.evaluation.compare.make_features", pixel_features)


@pytest.fixture
def folders(tmp_path):
    real, fake = (write_images(tmp_path / name, random_images(60, 16, i)) for i, name in enumerate(("real", "fake")))
    return real, fake


def test_the_grid_of_radgen_sample_is_no_image(folders):
    _, fake = folders
    Image.new("RGBA", (90, 40)).save(fake / "grid.png")
    assert len(folder_rows(fake)) == 61
    (fake / "samples.csv").write_text("index,id,prompt,seed\n")
    assert len(folder_rows(fake)) == 60


def broken(kind, real, fake, tmp_path):
    "Make one mistake; return the two sides."
    other = dict(empty=[], one=random_images(1, 16), few=random_images(20, 16, 2), copy=random_images(60, 16)[::-1])
    if kind in other:
        return real, write_images(tmp_path / kind, other[kind])
    if kind == "absent":
        return real, tmp_path / "nowhere"
    if kind == "same":
        return real, real
    if kind == "damaged":
        for path in fake.iterdir():
            path.write_bytes(b"nothing")
    if kind == "run":
        (fake / "config.json").write_text('{"data_path": "d", "recipe": "radgen"}')
    return real, fake


@pytest.mark.parametrize(
    "kind, message",
    [
        ("empty", "holds no images"),
        ("absent", "there is no folder .*nowhere: give two folders"),
        ("one", "holds one image"),
        ("damaged", "none of 60 images can be used; the first is 000.png"),
        ("few", "20 images are too few"),
        ("copy", "hold the same images"),
        ("same", "distance 0 from itself"),
        ("run", "is a run with .*: give --run .* to radgen evaluate"),
    ],
)
def test_folders_that_cannot_be_compared_are_rejected_by_name(kind, message, folders, tmp_path):
    real, fake = broken(kind, *folders, tmp_path)
    with pytest.raises((DataError, ConfigError), match=message):
        compare(CompareConfig(real, fake, **QUICK))


def test_too_few_images_and_absent_statistics_are_named_with_what_to_do(folders, tmp_path):
    real, fake = folders
    few = write_images(tmp_path / "few", random_images(20, 16, 2))
    with pytest.raises(ConfigError, match="few: 20 images are too few .* or lower --min-images 50"):
        compare(CompareConfig(few, fake, **QUICK))
    with pytest.raises(DataError, match="there is no file .*none.safetensors"):
        compare(CompareConfig(tmp_path / "none.safetensors", fake, **QUICK))


def test_extrapolation_from_few_images_per_feature_is_called_reduced(folders, monkeypatch):
    "Sixty images of 48 features leave a part of the bias in FD-infinity; a third of the features would not."
    real, fake = folders
    assert "FD-infinity, reduced" in compare(CompareConfig(real, fake, **QUICK))
    monkeypatch.setattr("radgen.evaluation.compare.ENOUGH", 1)
    assert "FD-infinity" in compare(CompareConfig(real, fake, **QUICK))


def test_images_of_one_size_are_compared_as_they_are(folders):
    real, fake = folders
    r = compare(CompareConfig(real, fake, **QUICK))
    f, f_real = (pixel_features()(random_images(60, 16, i)) for i in (1, 0))
    assert r["FD-pixels"] == frechet_distance(statistics(f), statistics(f_real))
    assert r["pixels per side"] == 16


def test_other_sizes_modes_formats_and_subfolders_are_read_alike(folders, tmp_path, capsys):
    real, fake = folders
    mixed = tmp_path / "mixed"
    for i, path in enumerate(sorted(fake.iterdir())):
        side, kind = (32, 48)[i % 2], (".png", ".tif")[i % 2]
        out = mixed / f"part-{i % 3}" / "deeper" / path.with_suffix(kind).name
        out.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(path).convert(("L", "RGB", "RGBA")[i % 3])
        image.resize((side, side), Image.Resampling.NEAREST).save(out)
    (mixed / "part-0" / "broken.png").write_bytes(b"nothing")
    r = compare(CompareConfig(real, mixed, **QUICK))
    assert (r["generated"], r["real"], r["pixels per side"]) == (60, 60, 16)
    err = capsys.readouterr().err
    assert "1 of 61 images" in err and "broken.png" in err
    other = compare(CompareConfig(real, mixed, size=24, **QUICK))
    assert other["pixels per side"] == 24
    assert "100% of the real images are smaller than 24 pixels and were enlarged" in capsys.readouterr().err
    plain = compare(CompareConfig(real, fake, size=24, **QUICK))
    assert other["FD-pixels"] == pytest.approx(plain["FD-pixels"], rel=0.5)


def test_jpeg_on_one_side_is_named(folders, tmp_path, capsys):
    real, fake = folders
    (tmp_path / "jpeg").mkdir()
    for path in fake.iterdir():
        Image.open(path).save(tmp_path / "jpeg" / f"{path.stem}.jpg")
    compare(CompareConfig(real, tmp_path / "jpeg", **QUICK))
    assert "100% of the evaluated and 0% of the real images are compressed as JPEG" in capsys.readouterr().err


def test_comparison_and_saved_statistics_agree(folders, tmp_path):
    real, fake = folders
    common = dict(features="vgg16", device="cpu", repeats=10, seed=-1)
    r = compare(CompareConfig(real, fake, save=tmp_path / "s.safetensors", **common))
    name = "FD-pixels"
    assert r["lower end of 95 %"] < r[name] < r["upper end of 95 %"]
    assert (r["generated"], r["real"]) == (60, 60)
    assert 0 <= r["coverage"] <= 1
    again = compare(CompareConfig(tmp_path / "s.safetensors", fake, **common))
    assert again[name] == pytest.approx(r[name], rel=1e-6)
    assert "coverage" not in again
    assert load_statistics(tmp_path / "s.safetensors").n == 60
    assert load_statistics(tmp_path / "s.safetensors").image_kind == "grey, 16 pixels"


@pytest.mark.parametrize(
    "what, message",
    [
        ("older", "are of images in L, 8 x 8 pixels: compute them again with --save"),
        ("size", "are of images in grey, 32 pixels, and --size asks for 16: leave --size out"),
        ("few", "are of 49 images, too few"),
        ("nameless", "does not hold statistics"),
        ("nan", "does not hold statistics"),
        ("width", "does not hold statistics"),
        ("network", "two kinds of features cannot be compared"),
        ("bytes", "does not hold statistics"),
    ],
)
def test_saved_statistics_that_do_not_fit_are_rejected(folders, tmp_path, what, message):
    path = tmp_path / "s.safetensors"
    kind = {"older": "L, 8 x 8 pixels", "size": "grey, 32 pixels"}.get(what, "grey, 16 pixels")
    features = {"nameless": "", "network": "FD-VGG16, 96 px"}.get(what, pixel_features().identity)
    s = Statistics(np.zeros(48), np.eye(48), 49 if what == "few" else 99, features, kind)
    if what == "nan":
        s.mean[3] = np.nan
    if what == "width":
        s.root = np.eye(7)
    save_statistics(s, path)
    if what == "bytes":
        path.write_bytes(b"nothing")
    with pytest.raises((ConfigError, DataError), match=message):
        compare(CompareConfig(path, folders[1], size=16 if what == "size" else None, **QUICK))


def test_no_program_is_started_for_an_image(folders, capsys):
    real, fake = folders
    (fake / "000.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    assert compare(CompareConfig(real, fake, **QUICK))["generated"] == 59
    assert "the first is 000.png (image unreadable" in capsys.readouterr().err


def test_shared_and_repeated_images_are_named(folders, tmp_path, capsys):
    real, fake = folders
    for i in range(3):
        (fake / f"{i:03d}.png").write_bytes((real / f"{i + 7:03d}.png").read_bytes())
    (fake / "010.png").write_bytes((fake / "011.png").read_bytes())
    compare(CompareConfig(real, fake, **QUICK))
    said = capsys.readouterr().err
    assert f"Warning: 3 of 60 images of {fake} are also in {real}." in said
    assert "1 of 60 images are identical to an earlier one" in said


@pytest.mark.parametrize("name", [".", "numbers.txt", "numbers"])
def test_statistics_are_saved_under_a_name_that_is_read_again(folders, tmp_path, name):
    with pytest.raises(ConfigError, match="give the name of a file that ends in .safetensors"):
        compare(CompareConfig(*folders, save=tmp_path / name, **QUICK))
