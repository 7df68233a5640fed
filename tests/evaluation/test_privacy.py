"""Patients that are recognised, and training images that their loss tells."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_helpers import quick

from radgen.core.errors import ConfigError
from radgen.core.files import read_json
from radgen.diffusion.exact import FiniteDenoiser, label_text
from radgen.diffusion.process import make_schedule
from radgen.evaluation import reidentification
from radgen.evaluation.config import EvaluateConfig
from radgen.evaluation.membership import auroc_interval, image_losses, membership
from radgen.evaluation.reidentification import (
    fit_matcher,
    groups_fault,
    groups_of,
    own_and_other,
    reidentify,
    training_patients,
    unmeasured_privacy,
)
from radgen.evaluation.report import evaluate
from radgen.evaluation.results import MEMBERSHIP, REIDENTIFIED, read_scores

MIX = np.random.default_rng(9).normal(size=(28, 28))


def features(who, seed):
    "Twenty-four numbers of a patient and four of the pose, mixed."
    rng = np.random.default_rng(seed)
    pose = 5 * rng.normal(size=(len(who), 4))
    return np.column_stack([who, pose]) @ MIX + 0.2 * rng.normal(size=(len(who), 28))


@pytest.fixture(scope="module")
def world():
    "Two images each of 150 patients, their names, and 200 strangers."
    rng = np.random.default_rng(0)
    who, others = rng.normal(size=(150, 24)), rng.normal(size=(200, 24))
    number = np.repeat(np.arange(150), 2)
    return who, features(who[number], 1), [f"p{n}" for n in number], features(others, 2)


def test_patients_are_recognised_and_strangers_are_not(world):
    who, f, names, strangers = world
    new = features(np.random.default_rng(5).normal(size=(200, 24)), 3)
    r = reidentify(new, strangers, [""] * 200, f, names)
    assert r.recognised > 0.8 and r.share < 0.05 and r.held_out < 0.05
    assert r.recognised_interval[0] < r.recognised <= r.recognised_interval[1]
    assert (r.patients, r.images) == (150, 150)  # half of the patients test the matcher
    assert reidentify(features(who, 4), strangers, [""] * 200, f, names).share > 0.8
    assert reidentify(new, strangers, [""] * 200, f, names) == r


def test_held_out_images_of_training_patients_are_no_strangers(world):
    who, f, names, strangers = world
    again = features(who[:50], 6)
    both, theirs = np.concatenate([strangers, again]), [""] * 200 + names[:100:2]
    assert reidentify(strangers, both, theirs, f, names).held_out < 0.05
    assert reidentify(strangers, both, [""] * 250, f, names).held_out > 0.1  # as if nobody knew


def test_images_without_a_patient_do_not_count(world):
    _, f, names, strangers = world
    unknown = np.concatenate([f, strangers])  # the strangers themselves, of unknown patients
    r = reidentify(strangers, strangers, [""] * 200, unknown, [*names, *[""] * 200])
    assert r == reidentify(strangers, strangers, [""] * 200, f, names) and r.share < 0.05


def test_search_is_that_of_a_loop(monkeypatch):
    monkeypatch.setattr(reidentification, "BLOCK", 3)
    rng = np.random.default_rng(0)
    x = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(10, 4))), dim=1)
    groups, s = np.array([0, 0, 1, 1, 1, 2, 3, 3, 4, 4]), (x @ x.T).numpy()
    own, other = own_and_other(np.arange(10), x, groups)
    for i in range(10):
        mine = [s[i, j] for j in range(10) if groups[j] == groups[i] and j != i]
        assert np.isclose(own[i], max(mine, default=-np.inf))
        assert np.isclose(other[i], max(s[i, j] for j in range(10) if groups[j] != groups[i]))
    assert np.allclose(reidentification.best_similarities(x, x[:4]), s[:, :4].max(1))


def test_matcher_whitens_what_differs_within_patients():
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(2000), 2)
    spread = np.array([3.0, 1.0, 0.2])
    f = rng.normal(size=(2000, 3))[number] + spread * rng.normal(size=(4000, 3))
    assert np.allclose(fit_matcher(f, number).whiten, np.diag(1 / spread), atol=0.3)


@pytest.mark.parametrize(
    "groups, why",
    [
        (None, "do not say which images belong to one patient"),
        ([""] * 300, "do not say which images belong to one patient"),
        ([str(i) for i in range(300)], "no training patient has two images"),
        ([str(i // 2) for i in range(30)], "only 15 training patients have two images"),
        ([str(i // 2) for i in range(100)], "only 100 training images have a patient"),
        ([str(i // 2) for i in range(200)], ""),
    ],
    ids=["none", "unknown", "single", "few patients", "few images", "enough"],
)
def test_data_that_cannot_say_it(groups, why):
    assert why in groups_fault(groups) and bool(why) == bool(groups_fault(groups))
    if why and groups:
        with pytest.raises(ConfigError, match="patients cannot be recognised"):
            reidentify(np.ones((2, 3)), np.ones((2, 3)), ["", ""], np.ones((len(groups), 3)), groups)


def test_groups_of_a_prepared_folder(few):
    assert groups_of(few, "train") is None
    images, test = len(few.rows("train")), len(few.rows("test"))
    rng = np.random.default_rng(0)
    f, f_test = rng.normal(size=(images, 4)), rng.normal(size=(test, 4))
    assert training_patients(few, "test", f[:9], f_test, f, 0) is None
    table = few.table.assign(group=[str(i // 2) for i in range(len(few.table))])
    grouped = replace(few, table=table)
    if images < 200:
        assert "training images have a patient" in unmeasured_privacy(grouped, EvaluateConfig("r"))[REIDENTIFIED]
    else:
        assert training_patients(grouped, "test", f[:9], f_test, f, 0).patients > 100


def test_what_is_left_out_is_named(few):
    missing = unmeasured_privacy(few, EvaluateConfig(images="a", data="b"))
    assert set(missing) == {REIDENTIFIED, MEMBERSHIP} and "not at hand" in missing[MEMBERSHIP]
    assert "not requested" in unmeasured_privacy(few, EvaluateConfig("r", membership=0))[MEMBERSHIP]
    assert MEMBERSHIP not in unmeasured_privacy(few, EvaluateConfig("r"))


def test_loss_tells_what_a_model_knows_by_heart():
    x0, schedule = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, make_schedule("flow")
    text = label_text(torch.zeros(40, dtype=torch.long), 1)
    losses = image_losses(FiniteDenoiser(schedule, x0[:20]), schedule, x0, text)
    m = membership(losses[:20].numpy(), losses[20:].numpy())
    assert m.auroc == 1 and m.interval[0] > 0.75 and m.found is None
    alone = image_losses(FiniteDenoiser(schedule, x0[:20]), schedule, x0[7:8], text[7:8])
    assert torch.allclose(alone, losses[7:8], atol=1e-5)  # the noise does not depend on the batch


def test_losses_of_one_kind_tell_nothing():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        m = membership(rng.normal(size=(60, 3)), rng.normal(size=(60, 3)))
        inside += m.interval[0] <= 0.5 <= m.interval[1]
    assert 0.9 * 200 <= inside <= 200
    m = membership(rng.normal(size=(400, 3)), rng.normal(size=(400, 3)))
    assert m.found < 0.05 and m.found_interval[0] <= m.found


def test_each_step_counts_alike():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + [1.0, 0]
    scale = np.array([1e-3, 1e6])
    assert membership(a, b).auroc == pytest.approx(membership(a * scale, b * scale).auroc)
    assert membership(a, b).auroc > 0.6 > 0.4 > membership(b, a).auroc


def test_interval_covers_the_area():
    rng, inside = np.random.default_rng(0), 0
    truth = 0.9214  # of two normal distributions two standard deviations apart
    for _ in range(300):
        a, b = rng.normal(2, 1, 40), rng.normal(0, 1, 40)
        low, high = auroc_interval(float((a[:, None] > b).mean()), 40, 40)
        inside += low <= truth <= high
    assert 0.9 * 300 < inside
    assert auroc_interval(0.0, 30, 30) == pytest.approx([1 - x for x in auroc_interval(1.0, 30, 30)[::-1]])


def test_report_of_a_run_has_the_loss(sampled):
    run, folder = sampled
    scores = evaluate(quick(run, membership=10))
    assert scores.membership.members == scores.membership.held_out == 10
    assert scores.membership.interval[0] < 0.5 < scores.membership.interval[1]  # two steps of training
    page = (run.dir / "report.md").read_text()
    assert f"| {MEMBERSHIP} | " in page and f"- {REIDENTIFIED}: cannot be measured: the data do not say" in page
    assert read_scores(read_json(folder / "evaluation.json")).membership == scores.membership
