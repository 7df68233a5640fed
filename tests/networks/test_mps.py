"""Everything runs on MPS by construction. A guard looks at every operator on the compute path: none may touch
float64, which MPS has not, and each must have a kernel for MPS in PyTorch's own table."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchgen
import yaml
from networks_tools import NAMES
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, RobertaConfig, RobertaModel

from radgen.diffusion.config import SamplingTrajectory, samplers_for
from radgen.diffusion.generation import sample_batch
from radgen.diffusion.process import PREDICTIONS, make_schedule
from radgen.evaluation.features import Features, PooledVGG16
from radgen.evaluation.memorisation import find_replicas
from radgen.evaluation.tstr import train_and_score
from radgen.networks.pretrained import VGG16Features
from radgen.networks.registry import make_denoiser
from radgen.text.embedding import TextEmbedding
from radgen.text.encoders import embed_tokens
from radgen.training.averages import make_average
from radgen.training.batches import random_crop, step_noise
from radgen.training.config import TrainConfig
from radgen.training.minimal import step_loss
from radgen.training.optimizers import make_optimizer
from radgen.training.run import resolve, schedule_of

TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
WIDE = (torch.float64, torch.complex128)
# each kind of device has a kernel of its own behind scaled_dot_product_attention
BY_DEVICE = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
# a tensor made of a NumPy array lies in main memory, where it may be converted to another type
FROM_HOST = {
    "lift_fresh": False,
    "_to_copy": True,
    "to.device": True,
    "to.dtype": True,
}  # and whether its result counts


@functools.cache
def operators():
    "name.overload -> the entry of PyTorch's table."
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load(TABLE.read_text(encoding="utf-8"), loader)
    return {entry["func"].split("(")[0]: entry for entry in entries}


def runs_on_mps(name):
    "Whether an operator has a kernel for MPS, or is made of others."
    entry = operators().get(name)
    if entry is None:
        return False
    if "structured_delegate" in entry:
        return runs_on_mps(entry["structured_delegate"])
    kinds = [kind.strip() for key in entry.get("dispatch", {}) for kind in key.split(",")]
    return not kinds or any(kind == "MPS" or kind.startswith("Composite") for kind in kinds)


def name_of(func):
    "An operator's name in the table."
    overload = "" if func._overloadname == "default" else f".{func._overloadname}"
    return func._schema.name.removeprefix("aten::") + overload


class MpsGuard(TorchDispatchMode):
    "Raises where an operator touches float64 or has no kernel for MPS; counts what it saw."

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, name = func(*args, **(kwargs or {})), name_of(func)
        inputs = () if name in FROM_HOST else (args, kwargs)
        for x in tree_leaves((inputs, out if FROM_HOST.get(name, True) else ())):
            if isinstance(x, torch.Tensor) and x.dtype in WIDE:
                raise RuntimeError(f"{name} touches {x.dtype}, which MPS has not")
        if func.namespace == "aten" and name.split(".")[0] not in BY_DEVICE and not runs_on_mps(name):
            raise NotImplementedError(f"{name} has no kernel for MPS")
        self.seen += 1
        return out


def texts(n=2, length=5, width=24):
    "Vectors as a store gives them."
    mask = torch.ones(n, length, dtype=torch.bool)
    return TextEmbedding(torch.randn(n, length, width), mask, torch.randn(n, width)).to(torch.bfloat16)


def configuration(**options):
    "Options of a tiny run."
    defaults = dict(size="tiny", image_size=32, encoder="minilm")
    return resolve(TrainConfig("data", **{**defaults, **options}))


CASES = [dict(recipe="paper", model=name) for name in NAMES]
CASES += [dict(recipe="radgen", model=name, optimizer=kind) for name in NAMES for kind in ("adamw", "muon")]
CASES += [dict(recipe="radgen", model=NAMES[0], prediction=kind, patch=1) for kind in PREDICTIONS]
CASES += [dict(recipe="radgen", model=name, patch=2) for name in NAMES]


@pytest.mark.parametrize("options", CASES, ids=lambda options: "-".join(map(str, options.values())))
def test_a_training_step(options):
    cfg = configuration(**options)
    schedule = schedule_of(cfg)
    torch.manual_seed(0)
    model = make_denoiser(cfg.model, cfg.recipe, "tiny", 32, cfg.patch, text_dim=24)
    optimizer = make_optimizer(model, cfg.optimizer, cfg.lr)
    ema = make_average(model, cfg.ema_width, cfg.ema_decay)
    before = [p.detach().clone() for p in model.parameters()]
    with MpsGuard() as guard:
        noise = step_noise(cfg, 0, 2)
        x0 = random_crop(torch.rand(2, 1, 40, 40), 32, cfg.crop, noise.crop)
        step_loss(model, model, schedule, x0, texts(), noise, cfg).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.step(model.parameters())
    assert guard.seen > 100
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


PAIRS = [(sampler, kind) for kind in PREDICTIONS for sampler in samplers_for(kind)]


@pytest.mark.parametrize("sampler, prediction", PAIRS)
def test_sampling(sampler, prediction):
    schedule = make_schedule(prediction, shift=1.5)
    model = make_denoiser("UNet", "radgen", "tiny", 16, text_dim=24).eval()
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    way = SamplingTrajectory(sampler=sampler, num_inference_steps=3, guidance_rescale=0.5)
    text = texts().to("cpu", torch.float32)
    with torch.inference_mode(), MpsGuard() as guard:
        images = sample_batch(model, schedule, text, None, generators, way)
    assert guard.seen > 100
    assert images.shape == (2, 16, 16)


@pytest.mark.parametrize("kind, pooling", [("roberta", "mean"), ("clip", "eos")])
def test_a_text_encoder(kind, pooling):
    size = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    size["max_position_embeddings"] = 20
    if kind == "clip":
        model = CLIPTextModel(CLIPTextConfig(**size, eos_token_id=49)).eval()
    else:
        model = RobertaModel(RobertaConfig(**size), add_pooling_layer=False).eval()
    ids, mask = torch.randint(0, 49, (3, 8)), torch.arange(8) < torch.tensor([8, 3, 5])[:, None]
    with torch.inference_mode(), MpsGuard() as guard:
        e = embed_tokens(model, ids, mask, pooling)
    assert guard.seen > 30
    assert e.pooled.isfinite().all()


def images(n, seed=0):
    "Random images."
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32), dtype=np.uint8)


def test_features_and_replicas_and_the_small_classifier():
    with MpsGuard() as guard:
        features = Features("FD-VGG16", "random", PooledVGG16(VGG16Features("keras")).eval())
        assert features(images(3)).shape == (3, 512)
        assert len(find_replicas(images(2), images(3, 1))) == 2
        labels = np.arange(8)[:, None] % 2 == 0
        assert train_and_score(images(8), labels, images(4, 1), 0, steps=2).shape == (4, 1)
    assert guard.seen > 100


def test_the_guard_sees_float64_and_operators_without_a_kernel():
    x = torch.ones(2)
    with MpsGuard():
        with pytest.raises(RuntimeError, match="float64"):
            x.double()
        with pytest.raises(RuntimeError, match="float64"):
            torch.from_numpy(np.ones(2)) + x
        with pytest.raises(NotImplementedError, match="_linalg_eigh has no kernel|linalg_eig"):
            torch.linalg.eig(torch.eye(2))
    assert (torch.from_numpy(np.ones(2)).to(torch.float32) + x).dtype == torch.float32
