"""Which images, texts and learning rate a step gets."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from radgen.text.encoders import TextEncoder
from radgen.training.batches import batch_indices, initial_model, lr_factor, make_batches, prepared_folder
from radgen.training.config import TrainConfig
from radgen.training.run import resolve


@pytest.mark.parametrize("n, size", [(37, 5), (3, 8)])
def test_every_image_is_seen_before_any_is_seen_again(n, size):
    seen = np.concatenate([batch_indices(n, size, step, 3) for step in range(40)])
    for start in range(0, len(seen) - n + 1, n):
        assert sorted(seen[start : start + n]) == list(range(n))


def test_seeds_that_agree_in_32_bits_give_other_batches():
    orders = [batch_indices(37, 37, 0, seed).tolist() for seed in (3, 3 + 2**32)]
    assert orders[0] != orders[1]


def test_batches_of_a_step_are_those_of_one_larger_batch(cfg, small):
    parts = make_batches(resolve(replace(cfg, batch_size=2, grad_accum=3)), small).read(7)
    [(images, text)] = make_batches(resolve(replace(cfg, batch_size=6)), small).read(7)
    assert torch.equal(torch.cat([part[0] for part in parts]), images)
    assert torch.allclose(torch.cat([part[1].pooled for part in parts]), text.pooled)


@pytest.mark.soak
def test_caption_mode_decides_the_embedding_of_a_batch(cfg, small):
    encoder, pooled = TextEncoder("minilm"), []
    for mode in (0, 1, 3):
        batches = make_batches(resolve(replace(cfg, caption_mode=mode)), small)
        [(_, text)] = batches.read(0)
        captions = [small.texts("train", mode)[i] for i in batches.indices(0)]
        assert torch.allclose(text.pooled.float(), encoder(captions).pooled, atol=1e-2), mode
        pooled.append(text.pooled)
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-2)
    assert not torch.allclose(pooled[0], pooled[2], atol=1e-2)


@pytest.mark.parametrize("schedule", ["constant_linear", "warmup_linear", "warmup_cosine"])
@pytest.mark.parametrize("total", [1, 2, 7])
def test_learning_rate_of_short_runs_stays_in_its_bounds(schedule, total):
    factors = [lr_factor(step, total, schedule) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)


def test_frozen_model_has_no_gradient_in_pretrained_weights(cfg):
    model = initial_model(resolve(replace(cfg, model="VGG16UNet_Frozen")), text_dim=384)
    assert not any(p.requires_grad for p in model.vgg.parameters())
    assert any(p.requires_grad for p in model.parameters())


def test_two_sources_of_one_name_are_prepared_to_two_folders(tmp_path):
    one, other = (prepared_folder(TrainConfig(tmp_path / side / "data", llm="a/b:c")) for side in ("left", "right"))
    assert one != other
    assert one.name.startswith("data-")
    assert one.name.endswith("-k10-a-b-c")


def test_cut_captions_are_reported_at_the_length_that_the_encoder_reads(cfg, small, capsys):
    "The limit is what was kept, as the store says, and may be lower than --max-length."
    batches = make_batches(resolve(cfg), small)
    longest = int(batches.store.full[batches.rows].max())
    assert "captions are cut" not in capsys.readouterr().err
    make_batches(resolve(replace(cfg, max_length=longest - 1)), small)
    assert f"captions are cut at {longest - 1} tokens" in capsys.readouterr().err
