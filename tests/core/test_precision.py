"The precision on each kind of machine; GPUs are imitated by the answers that PyTorch gives on them."

import pytest
import torch

from radgen.core import precision
from radgen.core.errors import ConfigError
from radgen.core.precision import autocast, choose_precision, full_float32, speed_up


@pytest.fixture
def gpu(monkeypatch):
    "Makes the GPU one of a name and a compute capability."

    def make(name, *capability):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)  # as a T4 answers
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: name)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: capability)

    precision._say_fp16.cache_clear()
    return make


@pytest.fixture
def settings():
    "Reads the settings of CUDA; they are restored afterwards."
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def read():
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = read()
    yield read
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.mark.parametrize(
    "name, capability, chosen",
    [
        ("GeForce GTX 1080", (6, 1), "no"),
        ("Tesla V100-SXM2-16GB", (7, 0), "fp16"),
        ("Tesla T4", (7, 5), "fp16"),
        ("NVIDIA A100", (8, 0), "bf16"),
        ("GeForce RTX 3090", (8, 6), "bf16"),
        ("NVIDIA H200", (9, 0), "bf16"),
    ],
)
def test_auto_follows_the_hardware_and_says_so_for_fp16(name, capability, chosen, gpu, capsys):
    gpu(name, *capability)
    for device in ("cuda", torch.device("cuda", 0)):
        assert choose_precision("auto", device) == chosen
    line = f"{name} has no bfloat16: computing in float16.\n" if chosen == "fp16" else ""
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_auto_is_float32_off_cuda_whatever_the_gpu(device, gpu, capsys):
    gpu("NVIDIA H200", 9, 0)
    assert choose_precision("auto", device) == "no"
    assert capsys.readouterr().err == ""


def test_a_named_precision_is_kept(gpu, capsys):
    gpu("Tesla T4", 7, 5)
    assert [choose_precision(name, "cuda") for name in ("no", "bf16", "fp16")] == ["no", "bf16", "fp16"]
    assert [choose_precision(name, "cpu") for name in ("no", "bf16")] == ["no", "bf16"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_fp16_off_cuda_is_refused(device):
    with pytest.raises(ConfigError, match=f"--precision fp16 needs a CUDA GPU and this is {device}: use bf16 or no"):
        choose_precision("fp16", device)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="no precision is called 'float32': use auto, no, bf16 or fp16"):
        choose_precision("float32", "cpu")


@pytest.mark.parametrize("name, dtype", [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_casts_products_inside_and_nothing_outside(name, dtype):
    layer, x = torch.nn.Linear(3, 3), torch.ones(2, 3)
    with autocast("cpu", name):
        assert layer(x).dtype == dtype
    assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("name, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_on_a_gpu_has_the_type_of_the_precision(name, dtype, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.autocast", lambda device, dtype: asked.append((device, dtype)))
    autocast("cuda:1", name)
    assert asked == [("cuda", dtype)]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_speed_up_changes_nothing_off_cuda(device, settings):
    before = settings()
    speed_up(device)
    assert settings() == before


def test_speed_up_sets_cuda_alone(settings):
    torch.backends.cudnn.allow_tf32 = False
    speed_up("cuda:0")
    assert settings() == (True, True, True)
    assert torch.backends.mkldnn.matmul.fp32_precision not in ("tf32", "bf16")  # products on the CPU


def test_full_float32_switches_off_tf32_and_autocast_and_restores_them(settings):
    layer, x = torch.nn.Linear(3, 3), torch.ones(2, 3)
    speed_up("cuda")
    with autocast("cpu", "bf16"):
        with pytest.raises(ZeroDivisionError), full_float32("cpu"):
            assert settings() == (False, False, True)
            assert layer(x).dtype == torch.float32
            raise ZeroDivisionError
        assert layer(x).dtype == torch.bfloat16
    assert settings() == (True, True, True)
