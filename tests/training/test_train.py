"""What a finished run is, for every network, recipe and objective."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import radgen.training.loop
from radgen.training.batches import initial_model
from radgen.training.run import schedule_of
from radgen.training.train import train
from training_tools import cut_off_before, final_weights, largest_difference


@pytest.mark.parametrize(
    "model, recipe",
    [
        ("UNet", "paper"),
        ("VGG16UNet", "paper"),
        pytest.param("VGG16UNet_FrozenStart", "radgen", marks=pytest.mark.soak),
        pytest.param("VGG16UNet_Frozen", "radgen", marks=pytest.mark.soak),
    ],
)
def test_every_model_trains_and_loads(cfg, model, recipe):
    run = train(replace(cfg, model=model, recipe=recipe))
    pipe = run.pipeline()
    assert pipe.scheduler.config.prediction_type == {"paper": "epsilon", "radgen": "v_prediction"}[recipe]
    assert type(pipe.denoiser).__name__ == ("UNet" if model == "UNet" else "VGG16UNet")
    for pattern in ("*.bin", "*.ckpt"):
        assert not list(run.dir.rglob(pattern)), pattern
    start = initial_model(run.config, text_dim=384).state_dict()
    weights = final_weights(run)
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    slices = [name for name in weights if name.startswith("vgg.")]
    if model in ("VGG16UNet_FrozenStart", "VGG16UNet_Frozen"):  # two steps: the first half is one of them
        unchanged = all(torch.equal(weights[name], start[name]) for name in slices)
        assert unchanged == (model == "VGG16UNet_Frozen")
    elif slices:
        assert not torch.equal(weights[slices[0]], start[slices[0]])


def test_same_seed_gives_the_same_weights_and_another_seed_others(cfg, two_steps):
    assert largest_difference(final_weights(train(cfg)), final_weights(two_steps)) == 0
    assert train(replace(cfg, name="other", seed=1)).weights() != two_steps.weights()


@pytest.mark.parametrize(
    "options",
    [
        dict(prediction="epsilon"),
        dict(prediction="sample", zero_snr=True, betas="cosine", snr_gamma=0.0),
        dict(betas="linear", shift=2.0, lr_schedule="warmup_cosine"),
    ],
    ids=str,
)
def test_every_objective_reaches_the_saved_schedule(cfg, options):
    run = train(replace(cfg, **options))
    saved, expected = run.pipeline().scheduler, schedule_of(run.config)
    assert saved.config.prediction_type == run.config.prediction
    assert torch.equal(saved.alphas_cumprod, expected.alphas_cumprod)
    assert np.isfinite(run.metrics().loss).all()
    assert run.pipeline().config.about["options"]["precision"] == "no"  # what auto became


@pytest.mark.soak
def test_compiled_and_checkpointed_run_goes_on_without(cfg, four_steps, monkeypatch):
    torch._dynamo.reset()
    counter, accelerator = CompileCounterWithBackend("eager"), radgen.training.loop.Accelerator

    def compiling(dynamo_backend="no", **options):
        "The graph is made; what inductor does with it needs a C++ compiler."
        acc = accelerator(**options)
        prepare = acc.prepare

        def compiled(model, optimizer):
            return torch.compile(prepare(model), backend=counter, fullgraph=True), prepare(optimizer)

        if dynamo_backend != "no":
            acc.prepare = compiled
        return acc

    monkeypatch.setattr("radgen.training.loop.Accelerator", compiling)
    cfg = replace(cfg, steps=4)
    with cut_off_before(2):
        train(replace(cfg, compile=True, gradient_checkpointing=True, checkpoint_every=8))
    assert counter.frame_count == 1  # texts are padded to one length, so that two batches make one graph
    assert largest_difference(final_weights(train(cfg)), final_weights(four_steps)) < 1e-4
