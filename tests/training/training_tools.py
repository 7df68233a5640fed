"""What the tests of training share: a tiny run's options, its weights, and a training that is cut off."""

from contextlib import contextmanager

import pytest
from safetensors.torch import load_file

import radgen.training.train
from radgen.training.config import TrainConfig


def tiny(prepared, runs):
    "Options of a training of two steps, which takes about a second."
    return TrainConfig(
        prepared.dir,
        image_size=16,
        batch_size=4,
        size="tiny",
        encoder="minilm",
        steps=2,
        runs=runs,
        name="r",
        device="cpu",
        preview_every=0,
    )


def final_weights(run):
    "Name -> tensor of the finished model."
    return load_file(run.final() / "denoiser" / "diffusion_pytorch_model.safetensors")


def last_weights(run, part="model"):
    "Name -> tensor of the newest checkpoint: of the model, or of its average ('ema')."
    return load_file(run.dir / "checkpoints" / (run.dir / "last").read_text().strip() / f"{part}.safetensors")


def largest_difference(a, b):
    "Of any two weights of the same name."
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@contextmanager
def cut_off_before(step):
    "Within the block a training is cut off before it takes this step (0-based)."
    original = radgen.training.train.train_step

    def train_step(state, index, batch):
        if index == step:
            raise MemoryError
        original(state, index, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("radgen.training.train.train_step", train_step)
        yield
