"""The registry of denoisers: what its entries say, and a new denoiser that is registered in one place."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import Module

from radgen.core.errors import ConfigError, DataError
from radgen.data.phantoms import make_phantoms
from radgen.diffusion.pipeline import RadGenPipeline
from radgen.networks.registry import DENOISERS, DenoiserEntry, denoiser_classes, make_denoiser
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare
from radgen.training.config import TrainConfig
from radgen.training.train import train

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", list(DENOISERS))
@pytest.mark.parametrize("preset", ["paper", "radgen"])
def test_every_entry_makes_its_class_from_its_preset(name, preset):
    entry = DENOISERS[name]
    with torch.device("meta"):
        model = make_denoiser(name, preset, "tiny", 32, text_dim=24)
    assert type(model) is entry.load()
    assert (type(model).__module__, type(model).__name__) == entry.location
    assert model.config.block == preset
    assert hasattr(model, "vgg") == entry.pretrained
    assert entry.pretrained or entry.frozen_share == 0


def test_frozen_shares_are_those_of_the_names():
    shares = {name: DENOISERS[name].frozen_share for name in DENOISERS if DENOISERS[name].pretrained}
    assert shares == {"VGG16UNet": 0, "VGG16UNet_FrozenStart": 0.5, "VGG16UNet_Frozen": 1}


def test_options_given_take_precedence_over_the_preset_and_none_does_not():
    with torch.device("meta"):
        assert make_denoiser("UNet", "paper", "tiny", 32, attention_max=0).config.attention_max == 0
        assert make_denoiser("UNet", "paper", "tiny", 32, attention_max=None).config.attention_max == 1024


def test_names_cost_no_import_of_torch():
    code = "import sys; import radgen.networks.registry, radgen.diffusion.config; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def example(name):
    "A tested block of CONTRIBUTING."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- test: {name} -->\n```py\n(.*?)```", text, re.S)[1]


@pytest.fixture
def plain(tmp_path, monkeypatch):
    "The example of CONTRIBUTING as a module of its own, imported and so registered."
    (tmp_path / "plain_denoiser.py").write_text(example("denoiser") + example("registration"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(DENOISERS, "entries", dict(DENOISERS.entries))
    import plain_denoiser

    yield plain_denoiser.Plain
    del sys.modules["plain_denoiser"]


def test_a_registered_denoiser_is_trained_and_loaded(plain: type[Module], tmp_path):
    data = prepare(PrepareConfig(make_phantoms(tmp_path / "raw", 60, 10, 10), tmp_path / "prepared", llm="rules"))
    options = dict(image_size=16, batch_size=4, steps=2, encoder="minilm", device="cpu", preview_every=0)
    run = train(TrainConfig(data.dir, model="Plain", size="tiny", runs=tmp_path / "runs", **options))
    pipe = RadGenPipeline.from_pretrained(run.final())
    assert type(pipe.denoiser) is plain
    assert pipe.denoiser.config.sample_size == 16
    DENOISERS.entries.pop("Plain")
    with pytest.raises(DataError, match="plain_denoiser.*as the denoiser"):
        RadGenPipeline.from_pretrained(run.final())


def test_an_unregistered_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="choose one of UNet, VGG16UNet"):
        TrainConfig(tmp_path, model="Plain")
    assert ("radgen.networks.unet", "UNet") in denoiser_classes()
    assert DenoiserEntry(Module).options(sample_size=32) == {"sample_size": 32}
