"Which device computes, and that it is never another one in silence."

from importlib import import_module

import pytest
import torch

from radgen.core.devices import index_generator, pick_device, set_seed
from radgen.core.errors import ConfigError


@pytest.fixture
def machine(monkeypatch):
    "Makes this machine one with these kinds of device."

    def make(*kinds):
        monkeypatch.setattr("radgen.core.devices.is_available", lambda kind: kind in kinds)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)

    return make


@pytest.mark.parametrize(
    ("kinds", "wanted", "got", "line"),
    [
        (("cuda", "mps", "cpu"), "auto", "cuda", ""),
        (("mps", "cpu"), "auto", "mps", "No cuda device is available here: running on mps.\n"),
        (("cpu",), "auto", "cpu", "No cuda device is available here: running on the CPU.\n"),
        (("cuda", "mps", "cpu"), "cuda", "cuda", ""),
        (("cuda", "mps", "cpu"), "mps", "mps", ""),
        (("cuda", "cpu"), "cuda:1", "cuda:1", ""),
        (("mps", "cpu"), "cuda", "mps", "No cuda device is available here: running on mps.\n"),
        (("cpu",), "cuda", "cpu", "No cuda device is available here: running on the CPU.\n"),
        (("cuda", "cpu"), "mps", "cpu", "No mps device is available here: running on the CPU.\n"),
        (("cuda", "cpu"), "cpu", "cpu", ""),
    ],
)
def test_pick_device_falls_back_from_cuda_to_mps_to_cpu_and_says_so(kinds, wanted, got, line, machine, capsys):
    machine(*kinds)
    assert str(pick_device(wanted)) == got
    assert capsys.readouterr().err == line


def test_the_default_is_the_best_device_of_the_machine(machine):
    machine("cuda", "cpu")
    assert str(pick_device()) == "cuda"
    machine("cpu")
    assert str(pick_device()) == "cpu"


OPTIONS = [  # and the field that names a device
    ("radgen.training.config:TrainConfig", "device"),
    ("radgen.training.config:SampleConfig", "device"),
    ("radgen.evaluation.config:EvaluateConfig", "device"),
    ("radgen.evaluation.config:CompareConfig", "device"),
    ("radgen.text.config:ClipConfig", "device"),
    ("radgen.captions.config:RewriteConfig", "device"),
    ("radgen.prepared.config:PrepareConfig", "llm_device"),
    ("radgen.tools.config:DemoConfig", "device"),
    ("radgen.tools.config:AppConfig", "device"),
]


@pytest.mark.parametrize("place, field", OPTIONS)
def test_every_command_takes_the_best_device_by_default(place, field):
    module, name = place.split(":")
    assert getattr(import_module(module), name).__dataclass_fields__[field].default == "auto"


@pytest.mark.parametrize("name", ["gpu0", "meta", "cuda:-1", "cuda:x", "", "auto:1"])
def test_pick_device_rejects_a_name_that_is_none(name):
    with pytest.raises(ConfigError, match="no device is called .* use auto, cuda, cuda:0, mps or cpu"):
        pick_device(name)


def test_pick_device_rejects_a_gpu_that_is_not_there(machine):
    machine("cuda", "cpu")
    with pytest.raises(ConfigError, match="no GPU number 2 here: this machine has 2"):
        pick_device("cuda:2")


@pytest.mark.parametrize("seed", [-(10**30), -1, 0, 2**63, 2**64, 10**30])
def test_every_whole_number_is_a_seed(seed):
    set_seed(seed)
    drawn = torch.rand(3)
    set_seed(seed)
    assert torch.equal(torch.rand(3), drawn)
    assert index_generator(seed, 1).initial_seed() == index_generator(seed, 1).initial_seed()


@pytest.mark.parametrize("other", [2**32, -1])
def test_seeds_that_agree_in_32_bits_give_other_images(other):
    drawn = [torch.rand(3, generator=index_generator(seed, 0)) for seed in (other % 2**32, other)]
    assert not torch.equal(*drawn)
