"""Fine-tuning CLIP: what is refused, what the loss says of equal captions, which weights are kept, and who can open them."""

import math, os, re, shutil, signal, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from conftest import Evil
from radgen.cli import main
from radgen.text.clip import MAX_SCALE, Pairs, contrastive_loss, load_clip, loss_floor, read_pairs, retrieval, small_clip, validate
from radgen.text.config import ClipConfig
from radgen.text.finetune import finetune_clip, make_optimizer, run_epoch
from radgen.core.errors import AssetError, ConfigError, DataError, RadgenError
from radgen.core.files import read_json
from radgen.text.encoders import TextEncoder
from radgen.text.store import store_key
from radgen.training.config import TrainConfig
from radgen.training.run import resolve

SMALL = dict(image_size=16, patch_size=8, width=32, layers=1)


@pytest.fixture(scope="module")
def start(prepared, tmp_path_factory):
    return small_clip(tmp_path_factory.mktemp("clip") / "start", prepared.texts("train", 2), **SMALL)


@pytest.fixture(scope="module")
def cfg(prepared, start):
    return ClipConfig(prepared.dir, Path("never"), str(start), epochs=4, batch_size=64, lr=2e-3, device="cpu")


@pytest.fixture(scope="module")
def tuned(cfg, start):
    return finetune_clip(replace(cfg, out=start.parent / "tuned"))


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# What is refused


@pytest.mark.parametrize(
    "wrong, says",
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
def test_options_that_cannot_work(cfg, tmp_path, wrong, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        finetune_clip(replace(cfg, out=tmp_path / "out", **wrong))
    assert not any(tmp_path.iterdir())


def test_what_is_in_the_way_stays(cfg, tuned, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for out, says in (tmp_path, "holds other files"), (tmp_path / "mine.txt", "is a file"):
        with pytest.raises(ConfigError, match=says):
            finetune_clip(replace(cfg, out=out, overwrite=True))
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="--overwrite True"):
        finetune_clip(replace(cfg, out=tuned))


def test_a_folder_that_is_not_prepared(cfg, tmp_path):
    with pytest.raises(DataError, match="not a prepared folder"):
        finetune_clip(replace(cfg, data_path=tmp_path, out=tmp_path / "out"))


@pytest.mark.parametrize(
    "gone, says",
    [
        (lambda t: t.split == "valid", "0 valid images"),
        (
            lambda t: (t.split == "valid") & (t.transformed != t[t.split == "valid"].transformed.iloc[0]),
            "1 distinct captions",
        ),
    ],
)
def test_nothing_to_validate_on(prepared, start, gone, says):
    with pytest.raises(DataError, match=says):
        read_pairs(
            replace(prepared, table=prepared.table[~gone(prepared.table) & prepared.table.keep]),
            "valid",
            2,
            *load_clip(str(start)),
        )


def test_a_text_tower_is_not_enough(start, tmp_path):
    CLIPTextModel.from_pretrained(start).save_pretrained(tmp_path / "text")
    for name in (str(tmp_path / "text"), "minilm"):
        if name != "minilm":
            AutoTokenizer.from_pretrained(start).save_pretrained(name)
        with pytest.raises(ConfigError, match=f"--model {name} is no CLIP with both towers"):
            load_clip(name)


def spoil(**tensors):
    def change(folder):
        state = {**weights(folder), **{k.replace("__", "."): v for k, v in tensors.items()}}
        save_file(
            {k: v for k, v in state.items() if v is not None}, folder / "model.safetensors", metadata={"format": "pt"}
        )

    return change


def pickled(folder):
    torch.save({**weights(folder), "x": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut(folder):
    os.truncate(folder / "model.safetensors", 5000)


def gone(folder):
    (folder / "model.safetensors").unlink()


def words(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"new{i}" for i in range(5)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    "change, says",
    [
        (spoil(visual_projection__weight=None), "tensors are missing: visual_projection.weight"),
        (spoil(logit_scale=None), "tensors are missing: logit_scale"),
        (spoil(visual_projection__weight=torch.full((32, 32), math.nan)), "visual_projection.weight holds NaN"),
        (
            spoil(text_projection__weight=torch.zeros(3, 32)),
            "other sizes than config.json says: text_projection.weight",
        ),
        (pickled, "could run code"),
        (cut, "weights.*could not be loaded"),
        (gone, "lacks weights"),
        (words, "tokenizer.*tokens and the weights"),
    ],
    ids=["missing", "scale", "nan", "size", "pickle_with_code", "truncated", "no_weights", "vocabulary"],
)
def test_a_bad_checkpoint_is_refused(cfg, start, tmp_path, monkeypatch, change, says):
    monkeypatch.setenv("EVIL_FILE", str(tmp_path / "code_ran"))
    folder = Path(shutil.copytree(start, tmp_path / "clip"))
    load_clip(str(folder))
    change(folder)
    with pytest.raises(AssetError, match=says) as err:
        finetune_clip(replace(cfg, model=str(folder), out=tmp_path / "out"))
    assert (
        "\n" not in str(err.value)
        and str(folder) in str(err.value)
        and [p.name for p in tmp_path.iterdir()] == ["clip"]
    )


def test_tensors_in_a_pickle_load(start, tmp_path):
    folder = Path(shutil.copytree(start, tmp_path / "clip"))
    torch.save(weights(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model, _ = load_clip(str(folder))
    assert same({k: v for k, v in model.state_dict().items()}, weights(start)) and all(
        p.requires_grad for p in model.parameters()
    )


@pytest.mark.parametrize("name", ["clip", "owner/name"])
def test_an_unreachable_hub_is_asked_once(cfg, tmp_path, monkeypatch, name):
    from huggingface_hub import HfApi

    ask, asked = HfApi.model_info, []
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    for k, v in {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{k}", v)  # nobody listens
    monkeypatch.setattr(HfApi, "model_info", lambda *a, **k: asked.append(k["timeout"]) or ask(*a, **k))
    with pytest.raises(AssetError, match="the hub cannot be reached") as err:
        finetune_clip(replace(cfg, model=name, out=tmp_path / "out"))
    assert (
        str(tmp_path / "cache" / "encoders" / name) in str(err.value)
        and asked == [5]
        and not (tmp_path / "out").exists()
    )


# The loss and retrieval


def test_loss_against_a_second_implementation():
    c = [0, 1, 0, 2, 1, 0]
    t, v = unit(6, 8, seed=1), unit(6, 8, seed=2)
    s = (5 * t @ v.T).double().numpy()
    rows, columns = s - np.log(np.exp(s).sum(1, keepdims=True)), s - np.log(np.exp(s).sum(0, keepdims=True))
    want = -np.mean([np.mean([rows[i, j] + columns[j, i] for j in range(6) if c[j] == c[i]]) / 2 for i in range(6)])
    assert contrastive_loss(t, v, torch.tensor(5.0), torch.tensor(c)).item() == pytest.approx(want, abs=1e-6)


def test_loss_is_clips_where_all_captions_differ():
    for seed in range(5):
        t, v = unit(32, 16, seed=seed), unit(32, 16, seed=seed + 100)
        assert contrastive_loss(t, v, torch.tensor(20.0), torch.arange(32)).item() == pytest.approx(
            image_text_contrastive_loss(20 * t @ v.T).item(), abs=1e-6
        )


def test_limits_of_the_loss():
    c = torch.tensor([0] * 5 + [1] * 3 + [2])
    perfect = torch.eye(3)[c]
    floor = (5 * math.log(5) + 3 * math.log(3)) / 9
    assert loss_floor(c) == pytest.approx(floor, abs=1e-6)
    assert contrastive_loss(perfect, perfect, torch.tensor(MAX_SCALE), c).item() == pytest.approx(floor, abs=1e-5)
    assert contrastive_loss(perfect, perfect, torch.tensor(0.0), c).item() == pytest.approx(math.log(9), abs=1e-6)
    assert contrastive_loss(perfect, perfect.roll(1, 1), torch.tensor(MAX_SCALE), c).item() > 50


def test_another_copy_of_a_caption_pulls_where_clip_pushes():
    "The gradient in a score, read off captions that are the axes: at equal scores (1/4 - 1/2)/4 between two pairs of one caption, (1/4 - 0)/4 if one is taken for wrong."
    c, v = torch.tensor([0, 0, 1, 2]), torch.zeros(4, 4, requires_grad=True)
    (ours,) = torch.autograd.grad(contrastive_loss(torch.eye(4), v, torch.tensor(1.0), c), v)
    (clips,) = torch.autograd.grad(image_text_contrastive_loss(torch.eye(4) @ v.T), v)
    assert (ours[0, 1].item(), ours[1, 0].item(), ours[0, 2].item(), clips[0, 1].item()) == pytest.approx(
        (-1 / 16, -1 / 16, 1 / 16, 1 / 16)
    )


def test_retrieval_against_a_loop():
    text, image, c = unit(7, 4, seed=3), unit(20, 4, seed=4), torch.arange(20) % 7
    got = retrieval(text, image, c, ks=(1, 3, 50))
    for k in (1, 3):
        assert got[f"recall_{k}"] == pytest.approx(
            np.mean([any(c[j] == u for j in (image @ text[u]).argsort(descending=True)[:k]) for u in range(7)])
        )
    assert got["chance_1"] == pytest.approx(1 / 7) and got["recall_50"] == got["chance_50"] == 1
    drawn = [np.random.default_rng(i).choice(20, 3, replace=False) for i in range(4000)]
    assert got["chance_3"] == pytest.approx(
        np.mean([[(c.numpy()[d] == u).any() for u in range(7)] for d in drawn]), abs=0.01
    )


# What is read


def test_cut_captions_are_told_and_merged(prepared, tmp_path, capsys):
    model, tokenizer = load_clip(str(small_clip(tmp_path / "short", prepared.texts("train", 2), max_length=8, **SMALL)))
    pairs = read_pairs(prepared, "valid", 2, model, tokenizer)
    texts = prepared.texts("valid", 2)
    assert re.search(
        rf"{len(texts)} of {len(texts)} valid captions \(100.0%\) are longer than 8 tokens", capsys.readouterr().err
    )
    assert (
        pairs.ids.shape[1] == 8
        and (pairs.ids == tokenizer.eos_token_id).any(1).all()
        and len(pairs.texts) < len(set(texts))
    )
    for i, t in enumerate(texts):
        assert (
            tokenizer(t, truncation=True).input_ids
            == pairs.ids[pairs.caption[i]][pairs.mask[pairs.caption[i]].bool()].tolist()
        )


def test_crops_neither_mirror_nor_leave_ninety_per_cent():
    ramp = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (32, 40, 1))
    pairs = Pairs(ramp, torch.zeros(32).long(), torch.zeros(1, 2).long(), torch.ones(1, 2).long(), [""])
    torch.manual_seed(0)
    plain, crops = (
        pairs.look(range(32), "cpu"),
        pairs.look(range(32), "cpu", v2.RandomResizedCrop(40, scale=(0.9, 1.0), ratio=(1.0, 1.0))),
    )
    assert crops.shape == plain.shape == (32, 3, 40, 40)
    assert (crops.diff(dim=-1) >= 0).all() and len(
        {im.sum().item() for im in crops}
    ) > 3  # left stays left; each its own
    width = lambda x: (x[:, 0, 0, -1] - x[:, 0, 0, 0]) / (plain[0, 0, 0, -1] - plain[0, 0, 0, 0])
    assert width(crops).min() > 0.9


# What comes out


def test_it_learns_and_the_folder_opens_everywhere(prepared, tuned):
    assert sorted(p.name for p in tuned.iterdir()) == [
        "config.json",
        "curves.png",
        "finetune.json",
        "metrics.csv",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]  # no pickles
    metrics, told = pd.read_csv(tuned / "metrics.csv"), read_json(tuned / "finetune.json")
    assert metrics.epoch.tolist() == [0, 1, 2, 3, 4] and metrics.train_loss.isna().tolist() == [True] + [False] * 4
    best = metrics.loc[metrics.valid_loss.idxmin()]
    assert (
        best.recall_5 > 3 * best.chance_5
        and best.valid_loss < best.uniform
        and told["best"]["epoch"] == best.epoch
        and told["data"] == prepared.manifest["content"]
    )
    model, tokenizer = CLIPModel.from_pretrained(tuned), AutoTokenizer.from_pretrained(tuned)
    again = validate(model, read_pairs(prepared, "valid", 2, model, tokenizer), 64)
    assert {k: again[k] for k in again} == pytest.approx({k: best[k] for k in again}, abs=1e-6)
    enc = TextEncoder(str(tuned))
    texts = prepared.texts("test", 2)[:3]
    assert (enc.pooling, enc.width, enc.max_length) == ("eos", 32, 32)
    with torch.no_grad():
        want = model.text_model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
    assert torch.allclose(enc(texts).pooled, want, atol=1e-5)


def test_notes_beside_the_weights_are_not_in_the_key(tuned, tmp_path):
    bare = Path(
        shutil.copytree(
            tuned, tmp_path / tuned.name, ignore=shutil.ignore_patterns("finetune.json", "metrics.csv", "curves.png")
        )
    )
    assert store_key(str(bare)) == store_key(str(tuned))
    weights_changed = spoil(text_model__final_layer_norm__bias=torch.ones(32))
    weights_changed(bare)
    assert store_key(str(bare)) != store_key(str(tuned))


def test_same_seed_same_weights(cfg, tuned, tmp_path):
    assert same(weights(tuned), weights(finetune_clip(replace(cfg, out=tmp_path / "again"))))
    assert not same(weights(tuned), weights(finetune_clip(replace(cfg, out=tmp_path / "other", seed=1))))


def test_early_stopping_keeps_the_best(cfg, tuned, tmp_path, capsys):
    "A rate that destroys what was learnt: two epochs are granted, and the weights are those that came."
    out = finetune_clip(replace(cfg, model=str(tuned), out=tmp_path / "out", lr=0.5, epochs=20, patience=2))
    metrics = pd.read_csv(out / "metrics.csv")
    assert metrics.epoch.tolist() == [0, 1, 2] and (metrics.valid_loss[1:] > metrics.valid_loss[0]).all()
    assert same(weights(out), weights(tuned)) and "holds its weights unchanged" in capsys.readouterr().err


def test_the_scale_is_clamped(prepared, start, cfg):
    model, tokenizer = load_clip(str(start))
    model.logit_scale.data.fill_(10.0)
    opt, schedule = make_optimizer(model, cfg, 100)
    run_epoch(model, opt, schedule, read_pairs(prepared, "train", 2, model, tokenizer), cfg, 1, bf16=False)
    assert model.logit_scale.exp().item() <= MAX_SCALE * (1 + 1e-6)


def test_a_loss_that_is_not_finite_leaves_what_was_there(cfg, start, tuned, tmp_path):
    model, tokenizer = load_clip(str(start))
    model.logit_scale.data.fill_(200.0)  # its exponential is infinite
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    before = weights(tuned)
    for out in (tmp_path / "out", tuned):
        with pytest.raises(RadgenError, match="loss is not finite"):
            finetune_clip(replace(cfg, model=str(tmp_path / "broken"), out=out, overwrite=True))
    assert same(before, weights(tuned)) and sorted(p.name for p in tmp_path.iterdir()) == ["broken"]
    model, tokenizer = load_clip(str(tmp_path / "broken"))
    with pytest.raises(RadgenError, match="epoch 1: start again with a --lr below 0.002"):
        run_epoch(
            model,
            *make_optimizer(model, cfg, 10),
            Pairs(np.zeros((4, 16, 16), np.uint8), torch.arange(4), *torch.ones(2, 4, 3).long(), list("abcd")),
            cfg,
            1,
            bf16=False,
        )


def test_bf16_trains_too(cfg, tmp_path):
    metrics = pd.read_csv(finetune_clip(replace(cfg, out=tmp_path / "out", precision="bf16", epochs=2)) / "metrics.csv")
    assert metrics.valid_loss.iloc[-1] < metrics.valid_loss.iloc[0]
    assert {v.dtype for v in weights(tmp_path / "out").values()} == {torch.float32}


def test_nothing_of_a_step_is_left_on_the_host():
    with FakeTensorMode(allow_non_fake_inputs=False), torch.device("cuda"):
        tower = dict(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, projection_dim=32
        )
        model = CLIPModel(
            CLIPConfig(
                text_config=dict(**tower, vocab_size=50, max_position_embeddings=8, eos_token_id=49),
                vision_config=dict(**tower, image_size=16, patch_size=8),
                projection_dim=32,
            )
        )
        out = model(
            input_ids=torch.randint(0, 50, (4, 8)),
            attention_mask=torch.ones(4, 8, dtype=torch.long),
            pixel_values=torch.randn(4, 3, 16, 16),
        )
        loss = contrastive_loss(out.text_embeds, out.image_embeds, model.logit_scale.exp(), torch.randint(0, 3, (4,)))
        assert loss.device.type == "cuda" and loss.shape == ()


# From the command line to a run


def test_use_clip_takes_a_folder_that_holds_a_clip(tuned, start, tmp_path):
    assert resolve(TrainConfig("d", use_clip=True, encoder=str(tuned))).encoder == str(tuned)
    CLIPTextModel.from_pretrained(start).save_pretrained(tmp_path / "text")
    assert resolve(TrainConfig("d", use_clip=True, encoder=str(tmp_path / "text"))).encoder == str(tmp_path / "text")
    for other in ("radbert", "minilm", str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(ConfigError, match="contradict"):
            resolve(TrainConfig("d", use_clip=True, encoder=other))


def test_command_line_from_pairs_to_a_run(prepared, start, tmp_path, capsys):
    args = [
        "finetune-clip",
        "--data-path",
        str(prepared.dir),
        "--out",
        str(tmp_path / "clip"),
        "--model",
        str(start),
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    assert main([*args, "--dry-run"]) == 0 and not (tmp_path / "clip").exists()
    assert ["batch_size", "128"] in [l.split() for l in capsys.readouterr().out.splitlines()]
    assert main(args) == 0 and capsys.readouterr().out.strip() == str(tmp_path / "clip")
    assert main(args) == 2 and "replace it with --overwrite True" in capsys.readouterr().err
    assert main([*args, "--overwrite", "True"]) == 0
    assert (
        main(
            [
                "train",
                "--data-path",
                str(prepared.dir),
                "--use-clip",
                "True",
                "--encoder",
                str(tmp_path / "clip"),
                "--image-size",
                "16",
                "--batch-size",
                "4",
                "--size",
                "tiny",
                "--device",
                "cpu",
                "--steps",
                "2",
                "--preview-every",
                "0",
                "--runs",
                str(tmp_path / "runs"),
                "--name",
                "r",
            ]
        )
        == 0
    )
    assert (
        read_json(tmp_path / "runs" / "r" / "config.json")["encoder"] == str(tmp_path / "clip")
        and (tmp_path / "runs" / "r" / "final").exists()
    )


def test_interruption_leaves_nothing(prepared, start, tmp_path):
    args = [
        Path(sys.executable).parent / "radgen",
        "finetune-clip",
        "--data-path",
        prepared.dir,
        "--out",
        tmp_path / "clip",
        "--model",
        start,
        "--epochs",
        "100000",
        "--patience",
        "100000",
        "--lr",
        "1e-9",
        "--device",
        "cpu",
    ]
    p = subprocess.Popen([*map(str, args)], stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if line.startswith("epoch 1:"):
            break
    assert p.poll() is None
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=120)[1]
    assert p.returncode == 130 and "Traceback" not in err and not any(tmp_path.iterdir()), err[-3000:]
