"""Scores by concept and image type: counts, baselines, and a fault of one group that is found in this group alone."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from radgen.core.files import read_json
from radgen.evaluation.alignment import ImageTextReads, concept_alignment
from radgen.evaluation.diversity import kernel_interval
from radgen.evaluation.groups import FEWEST, GROUP_COLUMNS, GroupSets, Members, group_frame, group_scores
from radgen.evaluation.results import ConceptAlignment, TypeAlignment, read_scores

TYPES = np.array(["CT", "MRI", "X-ray"])


def side(n, seed, shift=0.0):
    "Features of three image types and two concepts, and what each image has; X-rays may be shifted."
    rng = np.random.default_rng(seed)
    concepts, types = rng.random((n, 2)) < (0.5, 0.3), TYPES[rng.choice(3, n, p=(0.5, 0.4, 0.1))]
    f = rng.normal(size=(n, 6)) + 3 * concepts @ np.eye(2, 6) + shift * (types == "MRI")[:, None]
    return f, Members(concepts, types)


def scores(shift=0.0, n=200):
    "The groups of a model whose images of one type are wrong by `shift`."
    (f, asked), (f_test, real), (f_train, train) = side(n, 2, shift), side(300, 1), side(400, 0)
    probe = concept_alignment(f, asked.concepts, f_test, real.concepts, f_train, train.concepts, ["a", "b"])
    found = (asked.types != "CT").tolist()
    types = TypeAlignment(generated=0.5, hits=tuple(found), real_hits=(True,) * 300)
    images, texts = np.zeros((n, 16, 16), np.uint8), np.array(["same"] * n, object)
    rest = (images, texts, np.zeros((300, 16, 16), np.uint8), np.array([str(i) for i in range(300)], object))
    return {
        g.name: g
        for g in group_scores(["a", "b"], GroupSets(f, f_test, f_train, *rest, asked, real, train), probe, types)
    }


@pytest.fixture(scope="module")
def good():
    return scores()


def test_kernel_distance_of_all_images_is_the_unbiased_estimate():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 5)), rng.normal(0.3, 1, (40, 5))
    value, low, high = kernel_interval(a, b)
    assert value == pytest.approx(poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item(), rel=1e-9)
    assert low < value < high


def test_interval_of_a_kernel_distance_covers_the_truth():
    "Of two draws of one distribution, 0 lies within the interval about as often as it says."
    rng = np.random.default_rng(1)
    covered = [low < 0 < high for low, high in (kernel_interval(*rng.normal(size=(2, 60, 4)))[1:] for _ in range(40))]
    assert np.mean(covered) > 0.8


def test_counts_are_those_of_each_side(good):
    _, asked = side(200, 2)
    _, real = side(300, 1)
    assert [g.kind for g in good.values()] == ["concept"] * 2 + ["image type"] * 3
    assert [good["a"].generated, good["a"].real] == [asked.concepts[:, 0].sum(), real.concepts[:, 0].sum()]
    for name in TYPES:
        assert (good[name].generated, good[name].real) == ((asked.types == name).sum(), (real.types == name).sum())


def test_fault_of_one_type_is_found_in_this_type_alone(good):
    bad = scores(shift=1.5)
    for name in ("CT", "MRI"):
        assert good[name].kernel[1] < good[name].kernel_floor[2]
    assert bad["CT"].kernel == good["CT"].kernel
    assert bad["MRI"].kernel[1] > 5 * abs(good["MRI"].kernel[2])
    assert bad["MRI"].distance > 3 * good["MRI"].distance_floor > 0
    assert bad["MRI"].neighbourhoods.precision < good["MRI"].neighbourhoods.precision


def test_too_few_images_have_no_distance_and_few_are_marked(good):
    few = good["X-ray"]
    assert few.generated < FEWEST or few.real < FEWEST
    assert few.kernel is few.distance is few.neighbourhoods is None
    assert not good["CT"].is_reduced and good["CT"].distance_interval[0] < good["CT"].distance
    assert scores(n=60)["CT"].kernel is not None


def test_alignment_is_split(good):
    assert good["a"].concepts > 0.95 and good["a"].concepts_real_interval[0] > 0.9
    assert good["CT"].types == 0 and good["MRI"].types == 1 and good["CT"].types_real == 1
    assert good["MRI"].types_interval[1] == 1
    assert good["CT"].concepts > 0.9  # of both concepts, on images of this type
    assert good["CT"].likeness == (pytest.approx(1), good["CT"].generated // 2) and good["CT"].likeness_real is None


def test_dual_encoder_is_averaged_within_each_group():
    "The prompts of one group find their images, those of the other do not; an image without a prompt does not count."
    asked = Members(np.array([[True, False], [True, False], [True, False], [False, True]]), np.array([""] * 4))
    reads = ImageTextReads(np.array([1, 0, np.nan, 0]), np.array([0.5, 0.1, np.nan, -0.2]))
    real = ImageTextReads(np.ones(4), np.full(4, 0.6))
    pixels, texts = np.zeros((4, 16, 16), np.uint8), np.array([""] * 4, object)
    f = np.random.default_rng(0).normal(size=(4, 3))
    sets = GroupSets(f, f, f, pixels, texts, pixels, texts, asked, asked, asked, (reads, real))
    a, b = group_scores(["a", "b"], sets, ConceptAlignment(), TypeAlignment())
    assert (a.recall, a.recall_real, b.recall, b.recall_real) == (0.5, 1, 0, 1)
    assert (a.similarity, b.similarity) == (pytest.approx(0.3), pytest.approx(-0.2))
    frame = group_frame([a, b])
    assert frame.recall.tolist() == [0.5, 0]


def test_table_holds_every_number(good):
    frame = group_frame(list(good.values())).set_index("name")
    assert frame.kernel["MRI"] == good["MRI"].kernel[0] and frame.kernel_high["MRI"] == good["MRI"].kernel[2]
    assert frame.neighbourhoods_recall["CT"] == good["CT"].neighbourhoods.recall
    assert np.isnan(frame.kernel["X-ray"]) and frame.likeness_pairs["CT"] == good["CT"].likeness[1]


def test_report_json_and_table_agree(drawn):
    out = drawn.with_name("drawn-evaluation")
    r, table = read_scores(read_json(out / "evaluation.json")), pd.read_csv(out / "groups.csv")
    assert len(r.groups) > 4 and table.name.tolist() == [g.name for g in r.groups]
    assert table.generated.tolist() == [g.generated for g in r.groups]
    measured = [g.types for g in r.groups if g.types is not None]
    assert table.types.dropna().tolist() == pytest.approx(measured) and measured
    for kind in ("md", "html"):
        text = (out / f"report.{kind}").read_text()
        assert text.count("<details>") == text.count("</details>") == 1
        for g in r.groups:
            assert f"{g.name} ({g.kind})" in text
    lines = [line for line in (out / "report.md").read_text().splitlines() if "(image type)" in line]
    assert all(line.count("|") == len(GROUP_COLUMNS) + 1 for line in lines) and lines
