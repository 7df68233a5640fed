"""Options of evaluation: what is accepted, and the sentence for what is not."""

import subprocess
import sys

import pytest

from radgen.core.errors import ConfigError
from radgen.evaluation.config import CompareConfig, EvaluateConfig, FEATURES, Table3


@pytest.mark.parametrize("name", ["auto", *FEATURES, "timm:resnet10t", "hf:owner/name", "hf:/a/folder"])
def test_features_of_the_registry_are_accepted(name):
    assert EvaluateConfig("runs/r", features=name).features == name


@pytest.mark.parametrize("Config, args", [(EvaluateConfig, ("r",)), (CompareConfig, ("a", "b")), (Table3, ("d",))])
def test_unknown_features_are_rejected_with_the_choices(Config, args):
    with pytest.raises(
        ConfigError, match=f"--features is 'resnet': choose one of auto, {', '.join(FEATURES)}, timm:NAME or hf:"
    ):
        Config(*args, features="resnet")
    with pytest.raises(ConfigError, match="--features is 'hf:': choose one of auto"):
        Config(*args, features="hf:")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(models=("GAN",)), "--models is 'GAN': choose one of UNet"),
        (dict(caption_modes=(7,)), "--caption-modes is 7: it must be one of 0, 1, 2, 3"),
        (dict(seeds=()), "--seeds is .*: give at least one"),
        (dict(scales=(0,)), "--scales is 0"),
        (dict(steps=0), "--steps is 0"),
        (dict(sampler_steps=0), "--sampler-steps is 0: it must be a whole number between 1 and 1000"),
        (dict(guidance=-1.0), "--guidance is -1.0: it must be between 0 and 100"),
        (dict(budget="much"), "--budget is 'much': it must be one of cpu, evening, paper"),
    ],
)
def test_wrong_options_of_a_table_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Table3("d", **options)


def test_zero_repeats_of_a_comparison_are_rejected():
    with pytest.raises(ConfigError, match="--repeats is 0"):
        CompareConfig("a", "b", repeats=0)


def test_options_import_nothing_heavy():
    heavy = "{'torch', 'numpy', 'pandas', 'matplotlib', 'transformers'}"
    code = f"import sys, radgen.evaluation.config; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
