"""Probes that are right on images that follow their prompts, and at chance on images that do not."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from radgen.evaluation.alignment import (
    auroc,
    auroc_draws,
    concept_alignment,
    concept_labels,
    image_text_reads,
    type_alignment,
)
from radgen.evaluation.image_text import load_dual_encoder
from radgen.text.clip import small_clip


def world(n, seed, aligned=1.0):
    "Features in which three concepts shift three directions, and their labels."
    rng = np.random.default_rng(seed)
    y = rng.random((n, 3)) < (0.5, 0.3, 0.1)
    return rng.normal(size=(n, 12)) + aligned * 4 * y @ np.eye(3, 12), y


@pytest.fixture(scope="module")
def features():
    "Features and labels of real test images, and of real training images."
    return *world(200, 1), *world(400, 0)


def test_auroc_of_a_worked_example():
    y = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]], bool)
    s = np.array([[4, 1, 0.1], [3, 2, 0.2], [2, 3, 0.3], [1, 4, 0.3]])
    a = auroc(y, s)
    assert a[0] == 0.75
    assert np.isnan(a[1])
    assert a[2] == pytest.approx(2.5 / 3)


def test_auroc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    y, s = rng.random((80, 5)) < 0.3, rng.normal(size=(80, 5)).round(1)
    assert auroc(y, s) == pytest.approx(roc_auc_score(y, s, average=None), abs=1e-12)


def test_resamplings_are_those_that_are_ranked_one_by_one():
    rng = np.random.default_rng(0)
    y, s = rng.random((30, 3)) < (0.5, 0.03, 0.03), rng.normal(size=(30, 3)).round(1)
    for columns in ([0], [0, 1, 2], [2]):  # with ties; the rare ones are missing from some resamplings
        some, scores = y[:, columns], s[:, columns]
        areas = [auroc(some[i], scores[i]) for i in np.random.default_rng(5).integers(0, 30, (40, 30))]
        expected = [np.nanmean(a) for a in areas if not np.isnan(a).all()]
        assert auroc_draws(some, scores, 40, 5) == pytest.approx(expected, abs=1e-12)


def test_concept_labels():
    labels = concept_labels([["A", "B"], [], ["C"]], ["A", "C"])
    assert labels.tolist() == [[True, False], [False, False], [False, True]]


def test_concepts_are_found_if_images_follow_their_prompts(features):
    f, asked = world(150, 2)
    r = concept_alignment(f, asked, *features, ["a", "b", "c"])
    assert r.generated > 0.97
    assert r.real > 0.97
    assert r.interval[0] <= r.generated <= r.interval[1]
    assert [c.asked for c in r.by_concept] == asked.sum(0).tolist()
    assert [c.concept for c in r.by_concept] == ["a", "b", "c"]
    ignoring, _ = world(150, 3, aligned=0)
    r = concept_alignment(ignoring, asked, *features, ["a", "b", "c"])
    assert r.interval[0] < 0.5 < r.interval[1]
    assert r.real > 0.97


def test_concepts_of_no_or_every_training_image_are_left_out():
    f, y = world(100, 0)
    y[:, 0], y[:, 1] = True, False
    r = concept_alignment(f, y, f, y, f, y, ["all", "none", "some"])
    assert [c.concept for c in r.by_concept] == ["some"]
    assert r.generated > 0.9
    y = y[:, :2]
    r = concept_alignment(f, y, f, y, f, y, ["all", "none"])
    assert r.by_concept == ()
    assert r.generated is r.real is r.interval is None


def test_rare_concept_has_an_interval(features):
    f, asked = world(60, 2)
    asked[:, 1:] = False
    asked[:, 0] = np.arange(60) == 0  # a third of the resamplings lack it
    assert np.isfinite(concept_alignment(f, asked, *features, ["a", "b", "c"]).interval).all()


def test_one_concept_is_enough(features):
    f_test, test, f_train, train = features
    r = concept_alignment(f_test, test[:, :1], f_test, test[:, :1], f_train, train[:, :1], ["a"])
    assert len(r.by_concept) == 1
    assert r.generated > 0.97


def test_image_type_of_phantoms(few):
    rows = {s: few.rows(s) for s in ("train", "test")}
    mean = {s: np.array(few.images(s, 16)).reshape(len(r), -1) / 255 for s, r in rows.items()}
    r = type_alignment(mean["test"], rows["test"], mean["test"], mean["train"], few, "test")
    assert r.generated == r.real > 0.9
    assert len(r.doubt) == len(rows["test"])
    assert 0.2 < r.chance < 0.5
    shuffled = np.random.default_rng(0).permutation(len(rows["test"]))
    r = type_alignment(mean["test"][shuffled], rows["test"], mean["test"], mean["train"], few, "test")
    assert r.generated < 0.5 < r.real
    assert np.mean(r.doubt) < 0.5


def test_image_text_reads_of_a_perfect_encoder():
    "Images are one-hot vectors, and so are the prompts; the last prompt is that of another image."

    class Exact:
        def texts(self, prompts):
            unique, caption = np.unique(prompts, return_inverse=True)
            return torch.eye(8)[[int(p) for p in unique]], torch.from_numpy(caption)

        def images(self, images):
            return torch.eye(8)[images[:, 0, 0].tolist()]

    images = np.arange(8, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    numbers, reads = image_text_reads(images, [*"0123456", "0"], Exact(), ks=(1,))
    assert reads.similarity.tolist() == [1] * 7 + [0]
    assert numbers["similarity"] == pytest.approx(7 / 8)
    assert reads.found[:7].tolist() == [1] * 7
    assert numbers["recall_1"] == 1


def test_retrieval_by_an_untrained_clip_is_at_chance(few, tmp_path):
    texts = few.texts("test", 2)
    towers = load_dual_encoder(str(small_clip(tmp_path / "clip", texts)))
    r, _ = image_text_reads(few.images("test", 32), texts, towers)
    assert set(r) == {"recall_1", "chance_1", "recall_5", "chance_5", "similarity"}
    assert abs(r["recall_5"] - r["chance_5"]) < 0.15
