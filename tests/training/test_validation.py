"""Validation, previews and the log for TensorBoard leave no trace in the weights, and show what they should."""

import json
from dataclasses import replace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from radgen.training.train import train
from training_tools import cut_off_before


@pytest.fixture(scope="module")
def watched(small, tmp_path_factory):
    "A run of four steps that validates and saves after each, and previews after every second one."
    from training_tools import tiny

    cfg = tiny(small, tmp_path_factory.mktemp("watched"))
    return train(replace(cfg, steps=4, valid_every=4, preview_every=8, checkpoint_every=4, log_every=8))


def events(run):
    "What TensorBoard reads."
    return EventAccumulator(str(next((run.dir / "logs").rglob("events*")).parent)).Reload()


def test_observation_changes_no_weight(watched, cfg, four_steps):
    assert watched.weights() == four_steps.weights()
    assert train(replace(cfg, steps=4, valid_every=0)).weights() == four_steps.weights()


def test_validation_loss_is_logged_when_it_is_due(watched, four_steps):
    assert watched.metrics().step.tolist() == [1, 2, 3, 4]
    assert watched.metrics().valid_loss.notna().all()
    assert four_steps.metrics().valid_loss.notna().tolist() == [False, False, False, True]  # once, at the end


def test_previews_say_what_they_show(watched):
    strips = sorted((watched.dir / "samples").glob("step-*.png"))
    assert [strip.name for strip in strips] == ["step-00000002.png", "step-00000004.png"]
    assert (watched.dir / "previews.png").exists()
    image = Image.open(strips[0])
    assert image.size == (8 * 16, 16)
    assert image.text["synthetic"] == "true"
    prompts = json.loads(image.text["prompts"])
    assert len(prompts) == 8
    assert set(prompts) <= set(watched.prepared.texts("valid", 2))


def test_tensorboard_holds_curve_and_images(watched):
    log, metrics = events(watched), watched.metrics()
    assert [e.step for e in log.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.value for e in log.Scalars("valid_loss")] == pytest.approx(metrics.valid_loss.tolist())
    assert [e.step for e in log.Images("samples")] == [2, 4]


def test_tensorboard_holds_every_step_once_of_a_run_that_goes_on(cfg):
    cfg = replace(cfg, steps=6, log_every=1, checkpoint_every=12)
    with cut_off_before(5):
        train(cfg)
    run = train(cfg)
    assert [e.step for e in events(run).Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert run.metrics().step.tolist() == [1, 2, 3, 4, 5, 6]
