"""The distance on real Inception code, against closed forms and other libraries, and all that is refused."""

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from PIL import Image
from torch_fidelity import metric_fid, metric_prc

from radgen.core.errors import AssetError, ConfigError, DataError
from radgen.evaluation.compare import compare, load_statistics, read_folder, save_statistics
from radgen.evaluation.config import CompareConfig
from radgen.evaluation.distance import Statistics, bootstrap, extrapolated, floor, frechet_distance, matrix_root, statistics, thinned
from radgen.evaluation.diversity import kernel_distance, likeness_within, neighbourhoods
from radgen.evaluation.features import Features, cached_features, make_features


@pytest.fixture
def hub(tmp_path):
    "An empty torch hub cache."
    old = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path
    torch.hub.set_dir(old)


@pytest.fixture
def inception_weights(hub, monkeypatch):
    "Inception's file where the real one would lie: right layout, random numbers."
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    path = hub / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir()
    torch.save({}, path)
    with monkeypatch.context() as m:
        m.setattr(Inception, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        net = Inception("inception-v3-compat", ["2048"], str(path))
    torch.save(net.state_dict(), path)


def pictures(n, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size)).astype(np.uint8)


def test_fid_is_inception_and_nothing_else(inception_weights):
    f = make_features("auto")
    assert f.name == "FID" and f.is_fid
    out = f(pictures(3))
    assert out.shape == (3, 2048) and np.isfinite(out).all() and out.std() > 0


def test_without_inception_the_stand_in_is_named(hub):
    f = make_features("auto")
    assert not f.is_fid and "not FID" in f.name
    with pytest.raises(AssetError, match="download"):
        make_features("inception")
    with pytest.raises(ConfigError, match="auto, inception, vgg16, efficientnet, astra or timm:NAME"):
        make_features("resnet")
    with pytest.raises(ConfigError, match="timm knows no network 'resnet7'"):
        make_features("timm:resnet7")


def test_efficientnet_is_a_named_stand_in():
    f = make_features("efficientnet")
    a = f(pictures(2))
    assert (
        a.shape == (2, 1280)
        and a.std() > 0
        and f.name == "FD-EfficientNet-Lite0 (stand-in, not FID)"
        and not f.net.training
    )


def test_inflated_kernels_are_summed_over_depth(tmp_path, monkeypatch):
    "The CT network's checkpoint, made on the spot from a flat one: what its slices sum to must come out."
    import timm
    import radgen.distance as D

    torch.manual_seed(0)
    flat = timm.create_model("resnet152", num_classes=0).eval()
    depth = torch.tensor([0.25, 0.5, 0.25]).view(3, 1, 1)
    torch.save(
        {"state_dict": {k: v[:, :, None] * depth if v.ndim == 4 else v for k, v in flat.state_dict().items()}},
        tmp_path / "astra.pt",
    )
    monkeypatch.setattr(D, "fetch_asset", lambda name: tmp_path / f"{name}.pt")
    f, u = make_features("astra"), pictures(2)
    with torch.inference_mode():
        expected = flat(
            torch.nn.functional.interpolate(
                torch.from_numpy(u)[:, None].expand(-1, 3, -1, -1) / 255, (224, 224), mode="bilinear", antialias=True
            )
        )
    assert f(u) == pytest.approx(expected.numpy(), abs=1e-4) and f.name == "FD-CT-ResNet-152 (stand-in, not FID)"


def test_network_of_the_hub_is_a_named_stand_in(monkeypatch):
    import timm

    made = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, num_classes: made(name, num_classes=num_classes)
    )  # without the download
    f = make_features("timm:resnet10t")
    assert f(pictures(2)).shape == (2, 512) and f.name == "FD-resnet10t (stand-in, not FID)"

    def fails(*a, **k):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(AssetError, match="resnet10t could not be had from the hub .OSError."):
        make_features("timm:resnet10t")


@pytest.mark.parametrize("n,d", [(20, 128), (60, 60), (500, 16)])
def test_distance_agrees_with_other_libraries(n, d):
    rng = np.random.default_rng(n)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    a, b = rng.normal(size=(n, d)) @ mix + 0.3, rng.normal(0, 1.3, size=(n + 10, d))
    ours = frechet_distance(statistics(a), statistics(b))
    moments = lambda x: (x.mean(0), np.cov(x, rowvar=False))
    theirs = metric_fid.fid_statistics_to_metric(*({"mu": m, "sigma": s} for m, s in map(moments, (a, b))), False)[
        "frechet_inception_distance"
    ]
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours == pytest.approx(cleanfid.frechet_distance(*moments(a), *moments(b)), rel=1e-3)


def test_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(5000, 4))
    assert frechet_distance(statistics(a), statistics(a + [3, 0, 0, 0])) == pytest.approx(9, abs=1e-6)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[
        0
    ]  # covariances that commute: the roots of their eigenvalues are subtracted
    u, v, shift = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6), rng.normal(size=6)
    s = lambda m, values: Statistics(m, matrix_root(basis * values @ basis.T), 100)
    assert frechet_distance(s(shift, u), s(np.zeros(6), v)) == pytest.approx(
        (shift**2).sum() + ((np.sqrt(u) - np.sqrt(v)) ** 2).sum(), rel=1e-9
    )


@pytest.mark.parametrize("n,d", [(20, 128), (500, 16)])
def test_shuffled_copy_is_at_zero_and_the_sides_may_be_exchanged(n, d):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, d)), rng.normal(size=(n + 10, d))
    assert frechet_distance(statistics(a), statistics(rng.permutation(a))) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(
        frechet_distance(statistics(b), statistics(a)), rel=1e-9
    )


def test_singular_covariance_has_a_root():
    s = np.diag([2.0, 0, 3])
    assert matrix_root(s).T @ matrix_root(s) == pytest.approx(s)
    constant = np.ones((50, 4))
    assert frechet_distance(statistics(constant), statistics(constant)) == 0


def test_statistics_are_those_of_numpy_in_parts_too():
    f = np.random.default_rng(0).normal(2, 3, size=(9000, 5)).astype(np.float32)
    s = statistics(f)
    assert s.mean == pytest.approx(f.mean(0, dtype=float)) and s.covariance == pytest.approx(
        np.cov(f.astype(float), rowvar=False)
    )
    wide = statistics(f[:4].T)
    assert wide.covariance == pytest.approx(np.cov(f[:4].T.astype(float), rowvar=False), abs=1e-9)


def test_kernel_distance_agrees_with_clean_fid():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(80, 8)), rng.normal(0.5, 1, size=(80, 8))
    assert kernel_distance(a, b, subsets=1, size=80)[0] == pytest.approx(
        cleanfid.kernel_distance(a, b, num_subsets=1, max_subset_size=80), rel=1e-9
    )
    mean, std = kernel_distance(a, rng.normal(size=(80, 8)), size=40)
    assert abs(mean) < std


def test_precision_and_recall_agree_with_torch_fidelity():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.6, size=(150, 4)), rng.normal(size=(120, 4))
    r = neighbourhoods(a, b, k=3)
    assert (r["precision"], r["recall"]) == pytest.approx(
        metric_prc.calculate_precision_recall_full(
            torch.from_numpy(a).float(), torch.from_numpy(b).float(), neighborhood=3
        )[:2]
    )


def test_density_and_coverage_by_hand():
    real, fake = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [0.6], [30]])
    r = neighbourhoods(
        fake, real, k=1
    )  # balls of radius 1, 1, 1 and 8: the first two hold both near ones, the third none, the last none
    assert r["density"] == pytest.approx(4 / 3) and r["coverage"] == 0.5 and r["precision"] == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="too few for neighbourhoods of 5"):
        neighbourhoods(fake, real)


def test_floor_and_kernel_distance_know_the_same_from_the_other():
    rng = np.random.default_rng(0)
    train, test, other = rng.normal(size=(500, 8)), rng.normal(size=(200, 8)), rng.normal(1, 1, size=(200, 8))
    assert frechet_distance(statistics(other), statistics(test)) > 5 * floor(train, test, 200)[0]
    assert kernel_distance(other, test)[0] > 10 * abs(kernel_distance(train, test)[0])


def test_interval_holds_the_distance_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    f, real = rng.normal(0.3, 1, size=(800, 8)), statistics(rng.normal(size=(300, 8)))
    width = lambda n: np.ptp(bootstrap(f[:n], real))
    lo, hi = bootstrap(f, real)
    assert lo < frechet_distance(statistics(f), real) < hi and width(800) < 0.8 * width(200)


def test_extrapolation_takes_the_bias_off():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 24)), rng.normal(size=(400, 24))
    assert abs(extrapolated(thinned(a, b))) < 0.5 * frechet_distance(statistics(a), statistics(b))


def test_features_are_written_in_parts_and_kept(tmp_path):
    calls = []

    class Net(torch.nn.Module):
        def forward(self, u):
            calls.append(len(u))
            return u.float().mean((2, 3))

    f, x = Features("FD-mean", "none", Net()), pictures(150, 4)
    kept = cached_features(x, f, tmp_path)
    assert (
        isinstance(kept, np.memmap)
        and calls == [64, 64, 22]
        and kept == pytest.approx(x.mean((1, 2))[:, None].repeat(3, 1), rel=1e-6)
    )
    assert (cached_features(x, f, tmp_path) == kept).all() and len(calls) == 3
    cached_features(x, Features("FD-other", "none", Net()), tmp_path)
    assert len(calls) == 6 and len(list(tmp_path.iterdir())) == 2


def test_features_that_are_no_numbers_are_refused(tmp_path):
    class Net(torch.nn.Module):
        def forward(self, u):
            return torch.where(u[:, :1, 0, 0] == 7, torch.nan, 1.0)

    x = np.zeros((100, 2, 2), np.uint8)
    x[70] = 7
    with pytest.raises(DataError, match="image 70 are not finite"):
        cached_features(x, Features("FD-nan", "none", Net()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_likeness_within_a_caption():
    x = pictures(40, 64)
    assert likeness_within(np.repeat(x[:5], 2, 0), list("aabbccddee")) == pytest.approx((1, 5))
    assert likeness_within(x, ["same"] * 40)[0] < 0.2 and likeness_within(x[:3], list("abc")) is None
    for size in (12, 16, 40, 44, 96, 99, 128, 168, 176):
        assert likeness_within(pictures(4, size), list("aabb"))[1] == 2
    assert likeness_within(pictures(4, 11), list("aabb")) is None


def write(folder, images, mode="L"):
    folder.mkdir()
    for i, a in enumerate(images):
        Image.fromarray(a).convert(mode).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def folders(tmp_path):
    return write(tmp_path / "real", pictures(60, 8)), write(tmp_path / "fake", pictures(60, 8, 1))


def test_the_grid_of_radgen_sample_is_no_picture(folders):
    _, fake = folders
    Image.new("RGBA", (90, 40)).save(fake / "grid.png")
    with pytest.raises(DataError, match="grid.png is of mode RGBA"):
        read_folder(fake)
    (fake / "samples.csv").write_text("index,id,prompt,seed\n")
    assert read_folder(fake)[0].shape == (60, 8, 8)


def broken(kind, real, fake, tmp_path):
    "Make one mistake; return the two sides."
    if kind == "empty":
        return real, write(tmp_path / "empty", [])
    if kind == "absent":
        return real, tmp_path / "nowhere"
    if kind == "one":
        return real, write(tmp_path / "one", pictures(1, 8))
    if kind == "sizes":
        Image.fromarray(pictures(1, 9)[0]).save(fake / "zzz.png")
    if kind == "colour":
        Image.fromarray(pictures(1, 8)[0]).convert("RGB").save(fake / "zzz.png")
    if kind == "alpha":
        return real, write(tmp_path / "alpha", pictures(60, 8), "RGBA")
    if kind == "damaged":
        (fake / "zzz.png").write_bytes((fake / "000.png").read_bytes()[:40])
    if kind == "text":
        (fake / "zzz.png").write_text("a picture")
    if kind == "few":
        return real, write(tmp_path / "few", pictures(20, 8, 2))
    if kind == "other size":
        return real, write(tmp_path / "large", pictures(60, 16))
    if kind == "copy":
        return real, write(tmp_path / "copy", pictures(60, 8)[::-1])
    if kind == "same":
        return real, real
    if kind == "statistics":
        (tmp_path / "s.safetensors").write_bytes(b"nothing")
        return tmp_path / "s.safetensors", fake
    if kind == "features":
        save_statistics(
            Statistics(np.zeros(512), np.eye(512), 99, "FID, Inception", "L, 8 x 8 pixels"), tmp_path / "s.safetensors"
        )
        return tmp_path / "s.safetensors", fake
    if kind == "resize":
        f = make_features("vgg16")
        save_statistics(
            Statistics(np.zeros(512), np.eye(512), 99, f.identity.replace("64 px", "96 px"), "L, 8 x 8 pixels"),
            tmp_path / "s.safetensors",
        )
        return tmp_path / "s.safetensors", fake
    return real, fake


@pytest.mark.parametrize(
    "kind,message",
    [
        ("empty", "holds no pictures"),
        ("absent", "holds no pictures"),
        ("one", "holds one picture"),
        ("sizes", "mixes sizes: 000.png has 8 x 8 pixels and zzz.png has 9 x 9"),
        ("colour", "mixes colour and grey: 000.png is L and zzz.png is RGB"),
        ("alpha", "is of mode RGBA"),
        ("damaged", "zzz.png cannot be read"),
        ("text", "zzz.png cannot be read"),
        ("few", "20 images are too few"),
        ("other size", "8 x 8 pixels and those of .* 16 x 16"),
        ("copy", "hold the same pictures"),
        ("same", "distance 0 from itself"),
        ("statistics", "does not hold statistics"),
        ("features", "two kinds of features do not compare"),
        ("resize", "two kinds of features do not compare"),
    ],
)
def test_folders_that_cannot_be_compared_are_refused_by_name(kind, message, folders, tmp_path):
    real, fake = broken(kind, *folders, tmp_path)
    with pytest.raises((DataError, ConfigError), match=message):
        compare(CompareConfig(real, fake, features="vgg16", device="cpu"))


def test_colour_on_one_side_and_grey_on_the_other_is_refused(folders, tmp_path):
    with pytest.raises(DataError, match="are L and those of .* RGB: write colour and grey"):
        compare(
            CompareConfig(
                folders[0], write(tmp_path / "rgb", pictures(60, 8, 3), "RGB"), features="vgg16", device="cpu"
            )
        )


def test_comparison_and_saved_statistics_agree(folders, tmp_path):
    real, fake = folders
    r = compare(CompareConfig(real, fake, features="vgg16", device="cpu", repeats=10, save=tmp_path / "s.safetensors"))
    name = "FD-VGG16 (stand-in, not FID)"
    assert (
        r["lower end of 95 %"] < r[name] < r["upper end of 95 %"]
        and (r["generated"], r["real"]) == (60, 60)
        and 0 <= r["coverage"] <= 1
    )
    again = compare(CompareConfig(tmp_path / "s.safetensors", fake, features="vgg16", device="cpu", repeats=10))
    assert again[name] == pytest.approx(r[name], rel=1e-6) and "coverage" not in again
    assert load_statistics(tmp_path / "s.safetensors").n == 60 and read_folder(real)[0].shape == (60, 8, 8)


@pytest.mark.parametrize(
    "what, message",
    [
        ("size", "are of pictures in L, 9 x 8 pixels"),
        ("few", "are of 49 images, too few"),
        ("nameless", "does not hold statistics"),
        ("nan", "does not hold statistics"),
        ("width", "does not hold statistics"),
    ],
)
def test_saved_statistics_are_held_to_the_same_rules(folders, tmp_path, what, message):
    name, (real, fake) = make_features("vgg16").identity, folders
    s = Statistics(
        np.zeros(512),
        np.eye(512),
        49 if what == "few" else 99,
        "" if what == "nameless" else name,
        "L, 9 x 8 pixels" if what == "size" else "L, 8 x 8 pixels",
    )
    if what == "nan":
        s.mean[3] = np.nan
    if what == "width":
        s.root = np.eye(7)
    save_statistics(s, tmp_path / "s.safetensors")
    with pytest.raises((ConfigError, DataError), match=message):
        compare(CompareConfig(tmp_path / "s.safetensors", fake, features="vgg16", device="cpu"))


def test_options_of_a_comparison(folders, tmp_path):
    real, fake = folders
    with pytest.raises(ConfigError, match="--repeats is 0"):
        compare(CompareConfig(real, fake, repeats=0))
    assert compare(CompareConfig(real, fake, features="vgg16", device="cpu", repeats=5, seed=-1))["real"] == 60


def test_no_program_is_started_for_a_picture(folders):
    real, fake = folders
    (fake / "000.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(DataError, match="000.png cannot be read as a picture .UnidentifiedImageError"):
        read_folder(fake)
