"CLIP with both towers: which checkpoints are refused, its pairs, its loss and retrieval."

import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small_encoders import Evil
from torchvision.transforms import v2
from transformers import AutoTokenizer, CLIPTextModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from radgen.core.errors import AssetError, ConfigError, DataError
from radgen.text.clip import (
    MAX_SCALE,
    Pairs,
    contrastive_loss,
    load_clip,
    loss_floor,
    read_pairs,
    retrieval,
    small_clip,
)


@pytest.fixture(scope="module")
def start(few, tmp_path_factory):
    "A small CLIP that knows the words of the phantoms."
    folder = tmp_path_factory.mktemp("clip") / "start"
    return small_clip(folder, few.texts("train", 2), image_size=16, patch_size=8, width=32, layers=1)


def unit(*shape, seed):
    "Random unit vectors."
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# Checkpoints


def tensors_with(changes):
    "Replace tensors; None removes one."

    def change(folder):
        tensors = load_file(folder / "model.safetensors") | changes
        kept = {name: value for name, value in tensors.items() if value is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def as_pickle(folder, **extra):
    torch.save(load_file(folder / "model.safetensors") | extra, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncated(folder):
    os.truncate(folder / "model.safetensors", 5000)


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def more_words(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"new{i}" for i in range(5)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (tensors_with({"visual_projection.weight": None}), "tensors are missing: visual_projection.weight"),
        (tensors_with({"visual_projection.weight": torch.full((32, 32), math.nan)}), "projection.weight holds NaN"),
        (tensors_with({"text_projection.weight": torch.zeros(3, 32)}), "other sizes than config.json says: text_proj"),
        (lambda folder: as_pickle(folder, x=Evil()), "could run code"),
        (truncated, "weights.*could not be loaded"),
        (no_weights, "lacks weights"),
        (more_words, "tokenizer.*tokens and the weights"),
    ],
    ids=["missing", "nan", "size", "pickle_with_code", "truncated", "no_weights", "vocabulary"],
)
def test_load_clip_refuses_a_bad_checkpoint(start, tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("EVIL_FILE", str(tmp_path / "code_ran"))
    folder = Path(shutil.copytree(start, tmp_path / "clip"))
    change(folder)
    with pytest.raises(AssetError, match=message) as err:
        load_clip(str(folder))
    assert "\n" not in str(err.value)
    assert str(folder) in str(err.value)
    assert [p.name for p in tmp_path.iterdir()] == ["clip"]


def test_load_clip_reads_tensors_in_a_pickle(start, tmp_path):
    folder = Path(shutil.copytree(start, tmp_path / "clip"))
    as_pickle(folder)
    model, _ = load_clip(str(folder))
    saved = load_file(start / "model.safetensors")
    assert model.state_dict().keys() == saved.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name]), name
    assert all(p.requires_grad for p in model.parameters())


def test_load_clip_needs_both_towers(start, tmp_path):
    folder = str(tmp_path / "text")
    CLIPTextModel.from_pretrained(start).save_pretrained(folder)
    AutoTokenizer.from_pretrained(start).save_pretrained(folder)
    for name in (folder, "minilm"):
        with pytest.raises(ConfigError, match=f"--model {re.escape(name)} is no CLIP with both towers"):
            load_clip(name)


# The loss and retrieval


def test_contrastive_loss_equals_a_second_implementation():
    c = [0, 1, 0, 2, 1, 0]
    t, v = unit(6, 8, seed=1), unit(6, 8, seed=2)
    s = (5 * t @ v.T).double().numpy()
    log_p = s - np.log(np.exp(s).sum(1, keepdims=True))
    log_q = s - np.log(np.exp(s).sum(0, keepdims=True))
    expected = 0.0
    for i in range(6):
        same = [j for j in range(6) if c[j] == c[i]]
        expected -= np.mean([(log_p[i, j] + log_q[j, i]) / 2 for j in same]) / 6
    assert contrastive_loss(t, v, torch.tensor(5.0), torch.tensor(c)).item() == pytest.approx(expected, abs=1e-6)


def test_contrastive_loss_is_clips_where_all_captions_differ():
    t, v = unit(32, 16, seed=0), unit(32, 16, seed=100)
    expected = image_text_contrastive_loss(20 * t @ v.T).item()
    assert contrastive_loss(t, v, torch.tensor(20.0), torch.arange(32)).item() == pytest.approx(expected, abs=1e-6)


def test_contrastive_loss_reaches_its_limits():
    c = torch.tensor([0] * 5 + [1] * 3 + [2])
    perfect, scale = torch.eye(3)[c], torch.tensor(MAX_SCALE)
    floor = (5 * math.log(5) + 3 * math.log(3)) / 9
    assert loss_floor(c) == pytest.approx(floor, abs=1e-6)
    assert contrastive_loss(perfect, perfect, scale, c).item() == pytest.approx(floor, abs=1e-5)
    assert contrastive_loss(perfect, perfect, 0 * scale, c).item() == pytest.approx(math.log(9), abs=1e-6)
    assert contrastive_loss(perfect, perfect.roll(1, 1), scale, c).item() > 50


def test_equal_captions_attract_where_clip_repels():
    "At equal scores the gradient between two pairs of one caption is (1/4 - 1/2)/4; CLIP's is (1/4 - 0)/4."
    c, v = torch.tensor([0, 0, 1, 2]), torch.zeros(4, 4, requires_grad=True)
    (ours,) = torch.autograd.grad(contrastive_loss(torch.eye(4), v, torch.tensor(1.0), c), v)
    (clips,) = torch.autograd.grad(image_text_contrastive_loss(torch.eye(4) @ v.T), v)
    assert (ours[0, 1].item(), ours[1, 0].item()) == pytest.approx((-1 / 16, -1 / 16))
    assert (ours[0, 2].item(), clips[0, 1].item()) == pytest.approx((1 / 16, 1 / 16))


def test_retrieval_equals_a_loop():
    text, image, c = unit(7, 4, seed=3), unit(20, 4, seed=4), torch.arange(20) % 7
    found = retrieval(text, image, c, ks=(1, 3, 50))
    for k in (1, 3):
        hits = []
        for u in range(7):
            nearest = (image @ text[u]).argsort(descending=True)[:k]
            hits.append(bool((c[nearest] == u).any()))
        assert found[f"recall_{k}"] == pytest.approx(np.mean(hits))
    assert found["chance_1"] == pytest.approx(1 / 7)
    assert (found["recall_50"], found["chance_50"]) == (1, 1)


def test_retrieval_chance_equals_random_draws():
    text, image, c = unit(7, 4, seed=3), unit(20, 4, seed=4), torch.arange(20) % 7
    rng, hits = np.random.default_rng(0), []
    for _ in range(4000):
        drawn = c.numpy()[rng.choice(20, 3, replace=False)]
        hits.append(len(set(drawn)) / 7)
    assert retrieval(text, image, c, ks=(3,))["chance_3"] == pytest.approx(np.mean(hits), abs=0.01)


# Pairs


def test_read_pairs_truncates_and_merges_captions(few, tmp_path, capsys):
    folder = small_clip(tmp_path / "short", few.texts("train", 2), 16, 8, width=32, layers=1, max_length=8)
    model, tokenizer = load_clip(str(folder))
    pairs, texts = read_pairs(few, "valid", 2, model, tokenizer), few.texts("valid", 2)
    message = f"{len(texts)} of {len(texts)} valid captions (100.0%) are longer than 8 tokens"
    assert message in capsys.readouterr().err
    assert pairs.ids.shape[1] == 8
    assert (pairs.ids == tokenizer.eos_token_id).any(1).all()
    assert len(pairs.texts) <= len(set(texts))
    for i, text in enumerate(texts):
        c = pairs.caption[i]
        assert tokenizer(text, truncation=True).input_ids == pairs.ids[c][pairs.mask[c].bool()].tolist()


@pytest.mark.parametrize(
    "distinct, message", [(0, "0 valid images with 0 distinct captions"), (1, "with 1 distinct captions")]
)
def test_read_pairs_needs_two_captions(few, start, distinct, message):
    table = few.table[few.table.keep]
    valid = table.split == "valid"
    kept = valid & (table.transformed == table[valid].transformed.iloc[0]) if distinct else valid & False
    with pytest.raises(DataError, match=message):
        read_pairs(replace(few, table=table[~valid | kept]), "valid", 2, *load_clip(str(start)))


def test_crops_neither_mirror_nor_lose_a_tenth():
    ramp = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (32, 40, 1))
    pairs = Pairs(ramp, torch.zeros(32).long(), torch.zeros(1, 2).long(), torch.ones(1, 2).long(), [""])
    torch.manual_seed(0)
    plain = pairs.image_inputs(range(32), "cpu")
    crops = pairs.image_inputs(range(32), "cpu", v2.RandomResizedCrop(40, scale=(0.9, 1.0), ratio=(1.0, 1.0)))
    assert crops.shape == plain.shape == (32, 3, 40, 40)
    assert (crops.diff(dim=-1) >= 0).all()  # left stays left
    assert len({image.sum().item() for image in crops}) > 3
    width = (crops[:, 0, 0, -1] - crops[:, 0, 0, 0]) / (plain[0, 0, 0, -1] - plain[0, 0, 0, 0])
    assert width.min() > 0.9
