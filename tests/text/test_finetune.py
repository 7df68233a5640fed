"Fine-tuning CLIP: what is refused, which weights are kept, who can open them, and interruption."

import math
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextModel

import radgen.text.finetune
from radgen.cli import main
from radgen.core.errors import AssetError, ConfigError, DataError, RadgenError
from radgen.core.files import read_json
from radgen.text.clip import MAX_SCALE, Pairs, contrastive_loss, load_clip, read_pairs, small_clip, validate
from radgen.text.config import ClipConfig
from radgen.text.encoders import TextEncoder
from radgen.text.finetune import finetune_clip, make_optimizer, run_epoch
from radgen.text.store import store_key
from radgen.training.config import TrainConfig
from radgen.training.run import resolve


@pytest.fixture(scope="module")
def start(few, tmp_path_factory):
    "A small CLIP that knows the words of the phantoms."
    folder = tmp_path_factory.mktemp("clip") / "start"
    return small_clip(folder, few.texts("train", 2), image_size=16, patch_size=8, width=32, layers=1)


@pytest.fixture(scope="module")
def cfg(few, start):
    return ClipConfig(few.dir, Path("never"), str(start), epochs=4, batch_size=32, lr=2e-3, device="cpu")


@pytest.fixture(scope="module")
def tuned(cfg, start):
    return finetune_clip(replace(cfg, out=start.parent / "tuned"))


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What is refused


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(epochs=0), "--epochs is 0"),
        (dict(batch_size=1), "--batch-size is 1"),
        (dict(patience=0), "--patience is 0"),
        (dict(lr=0.0), "--lr is 0.0"),
        (dict(lr=math.nan), "--lr is nan"),
        (dict(warmup=1.0), "--warmup is 1.0"),
        (dict(weight_decay=-0.1), "--weight-decay is -0.1"),
        (dict(weight_decay=math.nan), "--weight-decay is nan"),
        (dict(device="tpu"), "no device is called"),
        (dict(model="RadBERT"), "no text encoder is called 'RadBERT'"),
    ],
)
def test_finetune_clip_refuses_options(cfg, tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        finetune_clip(replace(cfg, **{"out": tmp_path / "out", **wrong}))
    assert not any(tmp_path.iterdir())


def test_finetune_clip_keeps_what_is_in_the_way(cfg, tuned, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for out, message in ((tmp_path, "holds other files"), (tmp_path / "mine.txt", "is a file")):
        with pytest.raises(ConfigError, match=message):
            finetune_clip(replace(cfg, out=out, overwrite=True))
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="--overwrite True"):
        finetune_clip(replace(cfg, out=tuned))


def test_finetune_clip_needs_a_prepared_folder(cfg, tmp_path):
    with pytest.raises(DataError, match="not a prepared folder"):
        finetune_clip(replace(cfg, data_path=tmp_path, out=tmp_path / "out"))


@pytest.mark.parametrize("name", ["clip", "owner/name"])
def test_finetune_clip_asks_an_unreachable_hub_once(cfg, tmp_path, monkeypatch, name):
    from huggingface_hub import HfApi

    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    asked, ask = [], HfApi.model_info

    def model_info(*args, **kwargs):
        asked.append(kwargs["timeout"])
        return ask(*args, **kwargs)

    monkeypatch.setattr(HfApi, "model_info", model_info)
    with pytest.raises(AssetError, match="the hub cannot be reached") as err:
        finetune_clip(replace(cfg, model=name, out=tmp_path / "out"))
    assert str(tmp_path / "cache" / "encoders" / name) in str(err.value)
    assert asked == [5]
    assert not (tmp_path / "out").exists()


# What comes out


def test_finetune_clip_writes_metrics_and_notes(few, tuned):
    assert sorted(p.name for p in tuned.iterdir()) == [
        "config.json",
        "curves.png",
        "finetune.json",
        "metrics.csv",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]  # no pickles
    metrics, notes = pd.read_csv(tuned / "metrics.csv"), read_json(tuned / "finetune.json")
    assert metrics.epoch.tolist() == [0, 1, 2, 3, 4]
    assert metrics.train_loss.isna().tolist() == [True] + [False] * 4
    best = metrics.loc[metrics.valid_loss.idxmin()]
    assert best.epoch > 0
    assert best.valid_loss < best.uniform
    assert best.recall_5 > best.chance_5
    assert notes["best"]["epoch"] == best.epoch
    assert notes["data"] == few.manifest["content"]


def test_finetuned_folder_holds_the_best_epoch(few, tuned):
    metrics = pd.read_csv(tuned / "metrics.csv")
    best = metrics.loc[metrics.valid_loss.idxmin()]
    model, tokenizer = CLIPModel.from_pretrained(tuned), AutoTokenizer.from_pretrained(tuned)
    again = validate(model, read_pairs(few, "valid", 2, model, tokenizer), 32)
    assert again == pytest.approx({name: best[name] for name in again}, abs=1e-6)


def test_finetuned_folder_opens_as_a_text_encoder(few, tuned):
    encoder, texts = TextEncoder(str(tuned)), few.texts("test", 2)[:3]
    assert (encoder.pooling, encoder.width, encoder.max_length) == ("eos", 32, 32)
    model, tokenizer = load_clip(str(tuned))
    with torch.no_grad():
        expected = model.eval().text_model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
    assert torch.allclose(encoder(texts).pooled, expected, atol=1e-5)


def test_store_key_depends_on_the_weights_and_not_on_the_notes(tuned, tmp_path):
    bare = Path(shutil.copytree(tuned, tmp_path / tuned.name))
    for name in ("finetune.json", "metrics.csv", "curves.png"):
        (bare / name).unlink()
    assert store_key(str(bare)) == store_key(str(tuned))
    changed = weights(bare) | {"text_model.final_layer_norm.bias": torch.ones(32)}
    save_file(changed, bare / "model.safetensors", metadata={"format": "pt"})
    assert store_key(str(bare)) != store_key(str(tuned))


def test_same_seed_gives_the_same_weights(cfg, tuned, tmp_path):
    assert same(weights(tuned), weights(finetune_clip(replace(cfg, out=tmp_path / "again"))))
    assert not same(weights(tuned), weights(finetune_clip(replace(cfg, out=tmp_path / "other", seed=1, epochs=1))))


def test_early_stopping_keeps_the_model_as_it_came(cfg, tuned, tmp_path, capsys):
    "With a learning rate at which the model forgets, patience allows two epochs."
    out = finetune_clip(replace(cfg, model=str(tuned), out=tmp_path / "out", lr=0.5, epochs=20, patience=2))
    metrics = pd.read_csv(out / "metrics.csv")
    assert metrics.epoch.tolist() == [0, 1, 2]
    assert (metrics.valid_loss[1:] > metrics.valid_loss[0]).all()
    assert same(weights(out), weights(tuned))
    assert "holds its weights unchanged" in capsys.readouterr().err


def test_run_epoch_clamps_the_scale(few, start, cfg):
    model, tokenizer = load_clip(str(start))
    model.logit_scale.data.fill_(10.0)
    run_epoch(model, *make_optimizer(model, cfg, 100), read_pairs(few, "train", 2, model, tokenizer), cfg, 1, False)
    assert model.logit_scale.exp().item() <= MAX_SCALE * (1 + 1e-6)


def test_loss_that_is_not_finite_leaves_what_was_there(cfg, start, tuned, tmp_path):
    model, tokenizer = load_clip(str(start))
    model.logit_scale.data.fill_(200.0)  # its exponential is infinite
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    before = weights(tuned)
    for out in (tmp_path / "out", tuned):
        with pytest.raises(RadgenError, match="validation loss after epoch 0 is not finite"):
            finetune_clip(replace(cfg, model=str(tmp_path / "broken"), out=out, overwrite=True))
    assert same(before, weights(tuned))
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]
    ids, mask = torch.ones(2, 4, 3).long()
    pairs = Pairs(np.zeros((4, 16, 16), np.uint8), torch.arange(4), ids, mask, list("abcd"))
    with pytest.raises(RadgenError, match="loss in epoch 1 is not finite: start again with a --lr below 0.002"):
        run_epoch(model, *make_optimizer(model, cfg, 10), pairs, cfg, 1, bf16=False)


def test_finetune_clip_trains_in_bf16(cfg, tmp_path):
    out = finetune_clip(replace(cfg, out=tmp_path / "out", precision="bf16", epochs=2))
    metrics = pd.read_csv(out / "metrics.csv")
    assert metrics.valid_loss.iloc[-1] < metrics.valid_loss.iloc[0]
    assert {value.dtype for value in weights(out).values()} == {torch.float32}


def test_step_stays_on_the_device():
    "On fake CUDA tensors, which raise on every mix of host and device."
    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, projection_dim=32)
    text = dict(tower, vocab_size=50, max_position_embeddings=8, eos_token_id=49)
    config = CLIPConfig(text_config=text, vision_config=dict(tower, image_size=16, patch_size=8), projection_dim=32)
    with FakeTensorMode(allow_non_fake_inputs=False), torch.device("cuda"):
        model = CLIPModel(config)
        out = model(
            input_ids=torch.randint(0, 50, (4, 8)),
            attention_mask=torch.ones(4, 8, dtype=torch.long),
            pixel_values=torch.randn(4, 3, 16, 16),
        )
        loss = contrastive_loss(out.text_embeds, out.image_embeds, model.logit_scale.exp(), torch.randint(0, 3, (4,)))
        assert loss.device.type == "cuda"
        assert loss.shape == ()


# From the command line to a run


def test_use_clip_takes_a_folder_that_holds_a_clip(tuned, start, tmp_path):
    tower = str(tmp_path / "text")
    CLIPTextModel.from_pretrained(start).save_pretrained(tower)
    for folder in (str(tuned), tower):
        assert resolve(TrainConfig("d", use_clip=True, encoder=folder)).encoder == folder
    for other in ("radbert", "minilm", str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(ConfigError, match="contradict"):
            resolve(TrainConfig("d", use_clip=True, encoder=other))


def test_command_line_leads_from_pairs_to_a_run(few, start, tmp_path, capsys):
    clip, runs = tmp_path / "clip", tmp_path / "runs"
    args = f"finetune-clip --data-path {few.dir} --out {clip} --model {start} --epochs 1 --device cpu".split()
    assert main([*args, "--dry-run"]) == 0
    assert not clip.exists()
    assert ["batch_size", "128"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(args) == 0
    assert capsys.readouterr().out.strip() == str(clip)
    assert main(args) == 2
    assert "replace it with --overwrite True" in capsys.readouterr().err
    assert main([*args, "--overwrite", "True"]) == 0
    train = f"train --data-path {few.dir} --use-clip True --encoder {clip} --image-size 16 --batch-size 4 --size tiny "
    train += f"--device cpu --steps 2 --preview-every 0 --runs {runs} --name r"
    assert main(train.split()) == 0
    assert read_json(runs / "r" / "config.json")["encoder"] == str(clip)
    assert (runs / "r" / "final").exists()


# Interruption


def interrupted_in(epoch, monkeypatch):
    "A signal arrives within this epoch."
    original = radgen.text.finetune.run_epoch

    def run_epoch(model, optimizer, schedule, train, cfg, number, bf16, asked):
        if number == epoch:
            asked.append(signal.SIGINT)
        return original(model, optimizer, schedule, train, cfg, number, bf16, asked)

    monkeypatch.setattr(radgen.text.finetune, "run_epoch", run_epoch)


def test_interruption_keeps_the_best_epoch_so_far(few, cfg, tmp_path, monkeypatch):
    interrupted_in(3, monkeypatch)
    out = tmp_path / "clip"
    with pytest.raises(KeyboardInterrupt, match=re.escape(f"{out} holds epoch")):
        finetune_clip(replace(cfg, out=out))
    metrics, notes = pd.read_csv(out / "metrics.csv"), read_json(out / "finetune.json")
    assert metrics.epoch.tolist() == [0, 1, 2]
    assert notes["interrupted"] is True
    best = metrics.loc[metrics.valid_loss.idxmin()]
    assert notes["best"]["epoch"] == best.epoch > 0
    model, tokenizer = load_clip(str(out))
    again = validate(model, read_pairs(few, "valid", 2, model, tokenizer), 32)
    assert again == pytest.approx({name: best[name] for name in again}, abs=1e-6)
    monkeypatch.undo()
    further = finetune_clip(replace(cfg, model=str(out), out=tmp_path / "further", epochs=1))
    assert read_json(further / "finetune.json")["interrupted"] is False


@pytest.mark.parametrize("epoch, lr", [(1, 2e-3), (2, 0.5)], ids=["at_once", "no_epoch_improved"])
def test_interruption_before_an_improvement_leaves_what_was_there(cfg, tuned, tmp_path, monkeypatch, epoch, lr):
    interrupted_in(epoch, monkeypatch)
    there = Path(shutil.copytree(tuned, tmp_path / "there"))
    before = weights(there)
    for out in (there, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt, match="nothing is kept"):
            finetune_clip(replace(cfg, model=str(tuned), out=out, lr=lr, overwrite=True))
    assert same(before, weights(there))
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.soak
def test_ctrl_c_keeps_the_best_epoch_so_far(few, start, tmp_path):
    options = f"--data-path {few.dir} --out {tmp_path / 'clip'} --model {start} --device cpu"
    args = f"finetune-clip {options} --epochs 100000 --patience 100000 --lr 1e-4 --warmup 0"
    radgen = Path(sys.executable).parent / "radgen"
    process = subprocess.Popen([radgen, *args.split()], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 2:"):
            break
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Traceback" not in err, err[-3000:]
    assert "interrupted, but" in err
    assert "holds epoch" in err
    assert [p.name for p in tmp_path.iterdir()] == ["clip"]
    assert TextEncoder(str(tmp_path / "clip")).width == 32
