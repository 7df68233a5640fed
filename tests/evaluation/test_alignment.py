"""Readers that are right on pictures that obey, and say so of pictures that do not."""

import numpy as np
import pytest

from radgen.evaluation.alignment import auroc, clip_retrieval, concept_labels, read_concepts, read_types
from radgen.evaluation.truth import grid_features, read_truth, truth_of
from radgen.evaluation.tstr import usefulness
from radgen.text.clip import small_clip
from radgen.core.errors import ConfigError


def world(n, seed, listens=1.0):
    "Features in which three concepts shift three directions, and their labels."
    rng = np.random.default_rng(seed)
    y = rng.random((n, 3)) < (0.5, 0.3, 0.1)
    return rng.normal(size=(n, 12)) + listens * 4 * y @ np.eye(3, 12), y


def test_auroc_by_hand():
    y = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]], bool)
    s = np.array([[4, 1, 0.1], [3, 2, 0.2], [2, 3, 0.3], [1, 4, 0.3]])
    a = auroc(y, s)
    assert a[0] == 0.75 and np.isnan(a[1]) and a[2] == pytest.approx(2.5 / 3)


def test_concept_labels():
    assert concept_labels([["A", "B"], [], ["C"]], ["A", "C"]).tolist() == [
        [True, False],
        [False, False],
        [False, True],
    ]


def test_concepts_are_read_and_a_deaf_model_is_told():
    (f_train, train), (f_test, test) = world(400, 0), world(200, 1)
    obeys, asked = world(150, 2)
    table, r = read_concepts(obeys, asked, f_test, test, f_train, train, ["a", "b", "c"])
    assert (
        r["concepts"] > 0.97
        and r["concepts_real"] > 0.97
        and r["concepts_interval"][0] <= r["concepts"] <= r["concepts_interval"][1]
    )
    assert table.asked.tolist() == asked.sum(0).tolist() and list(table.concept) == ["a", "b", "c"]
    deaf, _ = world(150, 3, listens=0)
    _, r = read_concepts(deaf, asked, f_test, test, f_train, train, ["a", "b", "c"])
    assert r["concepts_interval"][0] < 0.5 < r["concepts_interval"][1] and r["concepts_real"] > 0.97


def test_concepts_that_no_or_every_training_image_has_are_left_out():
    f, y = world(100, 0)
    y[:, 0], y[:, 1] = True, False
    table, r = read_concepts(f, y, f, y, f, y, ["all", "none", "some"])
    assert list(table.concept) == ["some"] and r["concepts"] > 0.9
    table, r = read_concepts(f, y[:, :2], f, y[:, :2], f, y[:, :2], ["all", "none"])
    assert len(table) == 0 and r["concepts"] is r["concepts_real"] is None


def test_image_type_of_phantoms(prepared):
    rows = {s: prepared.rows(s) for s in ("train", "test")}
    mean = {s: np.array(prepared.images(s, 16)).reshape(len(r), -1) / 255 for s, r in rows.items()}
    r = read_types(mean["test"], rows["test"], mean["test"], mean["train"], prepared, "test")
    assert r["types"] == r["types_real"] > 0.9 and len(r["doubt"]) == len(rows["test"]) and 0.2 < r["types_deaf"] < 0.5
    wrong = np.random.default_rng(0).permutation(len(rows["test"]))
    r = read_types(mean["test"][wrong], rows["test"], mean["test"], mean["train"], prepared, "test")
    assert r["types"] < 0.5 < r["types_real"] and np.mean(r["doubt"]) < 0.5


def test_mirrored_phantoms_have_the_wrong_sides(prepared):
    grid, rows = grid_features(), prepared.rows("test").assign(prompt=prepared.texts("test", 0))[:120]
    images = np.array(prepared.images("test", 32))[:120]
    t = read_truth(images, rows, prepared, "test", 32, False, grid)
    assert (
        t.readable["side"]
        and t.readable["finding"]
        and t.generated["side"] > 0.85
        and t.real["side"] > 0.85
        and t.real["finding"] > 3 * t.deaf["finding"]
        and 20 < t.asked["side"] < t.asked["finding"]
    )
    mirrored = read_truth(images[:, :, ::-1], rows, prepared, "test", 32, False, grid)
    assert mirrored.generated["side"] < 0.3 and mirrored.real["side"] == t.real["side"]


def test_truth_is_known_for_phantoms_alone(prepared, monkeypatch):
    truth = truth_of(prepared)
    assert set(truth.side) == {"", "left", "right"} and set(prepared.rows("test").id) <= set(truth.index)
    monkeypatch.setitem(prepared.manifest["config"], "data_path", "elsewhere")
    assert truth_of(prepared) is None and read_truth(None, None, prepared, "test", 32, False, None) is None


def blobs(n, seed):
    "Pictures with a bright disc, a dark bar, both or neither, and which."
    rng = np.random.default_rng(seed)
    y, x = rng.random((n, 2)) < 0.5, rng.normal(128, 20, (n, 32, 32))
    v, u = np.mgrid[:32, :32]
    for a, (disc, bar) in zip(x, y):
        cx, cy = rng.integers(8, 24, 2)
        if disc:
            a[(u - cx) ** 2 + (v - cy) ** 2 < 20] += 90
        if bar:
            a[rng.integers(4, 28)] -= 90
    return np.clip(x, 0, 255).astype(np.uint8), y


def test_what_a_classifier_learns_from_good_and_bad_pictures():
    (train, labels), (test, truth), (good, asked) = blobs(200, 0), blobs(120, 1), blobs(200, 2)
    t = usefulness(good, asked, train, labels, test, truth, seeds=(0, 1), steps=150).groupby("trained_on").auroc.mean()
    assert t.min() > 0.9 and abs(t["generated"] - t["real"]) < 0.08
    bad = (
        usefulness(good, np.random.default_rng(0).permutation(asked), train, labels, test, truth, seeds=(0,), steps=150)
        .set_index("trained_on")
        .auroc
    )
    assert bad["generated"] < 0.7 < bad["real"]
    with pytest.raises(ConfigError, match="7 images a side are too few"):
        usefulness(good[:7], asked[:7], train, labels, test, truth)


def test_classifiers_depend_on_the_seed_alone():
    (train, labels), (test, truth), (good, asked) = blobs(60, 0), blobs(60, 1), blobs(60, 2)
    a, b = (usefulness(good, asked, train, labels, test, truth, seeds=(0, 1), steps=20) for _ in range(2))
    assert a.equals(b) and a.auroc.nunique() > 3


def test_retrieval_by_a_clip_that_knows_nothing_is_guessing(prepared, tmp_path):
    texts = prepared.texts("test", 2)
    r = clip_retrieval(prepared.images("test", 32), texts, str(small_clip(tmp_path / "clip", texts)))
    assert set(r) == {"recall_1", "chance_1", "recall_5", "chance_5"} and abs(r["recall_5"] - r["chance_5"]) < 0.1


def test_a_rare_concept_has_an_interval_all_the_same():
    (f_train, train), (f_test, test) = world(400, 0), world(200, 1)
    f, asked = world(60, 2)
    asked[:, 1:] = False
    asked[:, 0] = np.arange(60) == 0  # a third of the draws lack it
    _, r = read_concepts(f, asked, f_test, test, f_train, train, ["a", "b", "c"])
    assert np.isfinite(r["concepts_interval"]).all()


def test_one_concept_is_read_too():
    (f_train, train), (f_test, test) = world(400, 0), world(200, 1)
    table, r = read_concepts(f_test, test[:, :1], f_test, test[:, :1], f_train, train[:, :1], ["a"])
    assert table.shape == (1, 4) and r["concepts"] > 0.97


def test_without_a_concept_that_tells_images_apart_there_is_no_classifier():
    (train, labels), (test, truth), (good, asked) = blobs(60, 0), blobs(60, 1), blobs(60, 2)
    with pytest.raises(ConfigError, match="no concept tells"):
        usefulness(good, asked, train, labels, test, np.ones_like(truth))
