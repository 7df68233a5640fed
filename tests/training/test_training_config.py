"""The options of training and sampling: constraints on the fields, no heavy import, and what a recipe leaves open."""

import subprocess
import sys
from dataclasses import asdict, fields, replace

import pytest

from radgen.core.errors import ConfigError
from radgen.networks.registry import DENOISERS
from radgen.training.config import RECIPES, ResolvedConfig, SampleConfig, TrainConfig
from radgen.training.run import resolve

NAN = float("nan")


def test_import_of_the_options_loads_nothing_heavy():
    code = "import sys, radgen.training.config; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "transformers", "diffusers", "numpy", "pandas", "matplotlib"]
    assert subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(epochs=0), "--epochs is 0: it must be a whole number of at least 1."),
        (dict(epochs=True), "--epochs is True: it must be a whole number of at least 1."),
        (dict(steps=-1), "--steps is -1: it must be a whole number of at least 0."),
        (dict(keep_checkpoints=1), "--keep-checkpoints is 1: it must be a whole number of at least 2."),
        (dict(max_length=1), "--max-length is 1: it must be a whole number of at least 2."),
        (dict(image_size=30), "--image-size is 30: it must be a whole number of at least 8 and a multiple of 8."),
        (dict(lr=1.0), "--lr is 1.0: it must be above 0 and below 1."),
        (dict(lr=NAN), "--lr is nan"),
        (dict(crop=0.0), "--crop is 0.0: it must be above 0 and at most 1."),
        (dict(snr_gamma=float("inf")), "--snr-gamma is inf"),
        (dict(text_drop=1.0), "--text-drop is 1.0: it must be at least 0 and below 1."),
        (dict(model="unet"), f"--model is 'unet': choose one of {', '.join(DENOISERS)}."),
        (dict(recipe="best"), "--recipe is 'best': it must be one of radgen, paper."),
        (dict(prediction="image"), "--prediction is 'image': it must be one of epsilon, v_prediction, sample, flow."),
        (dict(patch=3), "--patch is 3: it must be one of 1, 2, 4."),
        (dict(valid_every=0.5), "--valid-every is 0.5: it must be a whole number of at least 0."),
        (dict(log_with="aim"), "--log-with is 'aim': it must be one of tensorboard, wandb, mlflow, none."),
        (dict(balance="views"), "--balance is 'views': it must be one of none, types, concepts."),
        (dict(name="a/b"), "--name is 'a/b': it must be a plain folder name"),
        (dict(name=".hidden"), "--name is '.hidden': it must be a plain folder name"),
    ],
    ids=str,
)
def test_value_out_of_bounds_is_reported_with_its_bounds(wrong, message):
    with pytest.raises(ConfigError) as e:
        TrainConfig("data", **wrong)
    assert message in str(e.value)


@pytest.mark.parametrize("wrong", [dict(n=0), dict(batch_size=0), dict(steps=0), dict(guidance=NAN), dict(sampler="x")])
def test_request_out_of_bounds_is_rejected(wrong):
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong)).replace('_', '-')} is"):
        SampleConfig("runs/r", **wrong)


def test_clipping_may_be_switched_off():
    assert TrainConfig("data", max_grad_norm=float("inf")).max_grad_norm == float("inf")


def test_resolved_options_keep_the_order_of_the_fields():
    given = [f.name for f in fields(TrainConfig)]
    names = [f.name for f in fields(ResolvedConfig)]
    assert names[: len(given)] == given
    latent = ["latent_channels", "latent_factor", "vae_weights"]
    assert names[len(given) :] == ["channels", *latent, "base_weights", "base_schedule"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_resolve_fills_what_is_open_and_keeps_what_is_given(recipe):
    resolved = asdict(resolve(TrainConfig("data", recipe=recipe, lr=0.5, crop=0.7)))
    assert resolved["lr"] == 0.5
    assert resolved["crop"] == 0.7
    for name, value in (RECIPES[recipe] | {"crop": 0.7}).items():
        assert resolved[name] == value, name
    open_options = {name for name, value in resolved.items() if value is None}
    events = {"checkpoint_every", "valid_every", "preview_every", "log_every"}
    pretrained = {"vgg_weights", "vae_weights", "init", "latents", "base_weights", "base_schedule"}
    assert open_options == events | pretrained | {"steps", "log_with"}


def test_resolving_twice_changes_nothing():
    once = resolve(TrainConfig("data", model="VGG16UNet", image_size=256))
    assert resolve(once) == once
    assert replace(once, lr=0.1).lr == 0.1


@pytest.mark.parametrize(
    "options, expected",
    [
        (dict(), dict(patch=2, optimizer="muon", lr=5e-3, t_sampling="uniform", snr_gamma=5.0)),
        (dict(image_size=32), dict(patch=1)),
        (dict(image_size=72), dict(patch=1)),  # 36 patches cannot be halved three times
        (dict(image_size=72, size="tiny"), dict(lr=5e-3)),
        (dict(optimizer="adamw"), dict(lr=3e-4)),
        (dict(optimizer="adamw", size="tiny"), dict(lr=1e-3)),
        (dict(recipe="paper"), dict(patch=1, optimizer="adamw", lr=3e-4, ema_width=0.0)),
        (dict(recipe="paper", optimizer="muon"), dict(lr=5e-3)),
        (dict(prediction="flow"), dict(t_sampling="logit_normal", snr_gamma=0.0)),
        (dict(prediction="flow", t_sampling="uniform"), dict(t_sampling="uniform")),
        (dict(ema_decay=0.0), dict(ema_width=0.0)),
        (dict(ema_decay=0.0, ema_width=0.1), dict(ema_width=0.1)),
    ],
    ids=str,
)
def test_options_that_depend_on_others(options, expected):
    resolved = asdict(resolve(TrainConfig("data", **options)))
    assert {name: resolved[name] for name in expected} == expected


def test_options_that_contradict_each_other_are_rejected():
    with pytest.raises(ConfigError, match="divides by zero"):
        resolve(TrainConfig("data", prediction="epsilon", zero_snr=True))
    with pytest.raises(ConfigError, match="--image-size 72 with --patch 2 is not a multiple of 16"):
        resolve(TrainConfig("data", image_size=72, patch=2))
    with pytest.raises(ConfigError, match="--snr-floor 0.1 is without min-SNR weighting"):
        resolve(TrainConfig("data", prediction="flow", snr_floor=0.1))
    with pytest.raises(ConfigError, match="--snr-floor 0.1 with --prediction epsilon"):
        resolve(TrainConfig("data", prediction="epsilon", snr_floor=0.1))
    with pytest.raises(ConfigError, match="--snr-floor 6 is above --snr-gamma 5"):
        resolve(TrainConfig("data", snr_floor=6.0))
    with pytest.raises(ConfigError, match="contradict each other"):
        resolve(TrainConfig("data", use_clip=True, encoder="minilm"))
