"Where encoders come from, and which checkpoints are refused."

import json
import os
import shutil
import threading

import pytest
import torch
from small_encoders import TEXTS, Evil, change_tensors

from radgen.core.assets import ASSETS, cache_dir
from radgen.core.errors import AssetError, ConfigError, DataError
from radgen.text.checkpoints import encoder_source, load_tokenizer
from radgen.text.encoders import TextEncoder
from radgen.text.store import store_key
from radgen.text.store_writer import build_store

# Checkpoints that are refused


BIAS = "roberta.encoder.layer.1.output.dense.bias"
WORDS = "roberta.embeddings.word_embeddings.weight"
POSITIONS = "roberta.embeddings.position_embeddings.weight"


def truncated(folder):
    os.truncate(folder / "pytorch_model.bin", 5000)


def no_tokenizer(folder):
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()


def no_weights(folder):
    (folder / "pytorch_model.bin").unlink()


def another_network(folder):
    torch.save({"net.weight": torch.zeros(3)}, folder / "pytorch_model.bin")


def code_of_its_own(folder):
    config = {"model_type": "abacus", "auto_map": {"AutoConfig": "code.Abacus", "AutoModel": "code.Beads"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("import os; open(os.environ['EVIL_FILE'], 'w')")


def few_tokens(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    change_tensors(folder, {WORDS: torch.zeros(300, 32)})


def config_of(text):
    return lambda folder: (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda f: change_tensors(f, {BIAS: torch.full((32,), float("nan"))}),
            "output.dense.bias holds NaN or infinity",
        ),
        (lambda f: change_tensors(f, {WORDS: torch.zeros(200, 32)}), "other sizes than config.json says: embeddings"),
        (lambda f: change_tensors(f, {POSITIONS: None}), "missing: embeddings.position_embeddings.weight"),
        (lambda f: change_tensors(f, {"x": Evil()}), "could run code"),
        (another_network, "tensors are missing.*more"),
        (truncated, "weights.*could not be loaded"),
        (no_tokenizer, "lacks a tokenizer"),
        (no_weights, "lacks weights"),
        (few_tokens, "knows 330 tokens and the weights 300"),
        (config_of("{"), "not valid JSON"),
        (config_of("[]"), "no JSON object"),
        (config_of('{"model_type": "abacus"}'), "could not be loaded.*abacus"),
        (code_of_its_own, "could not be loaded"),
    ],
    ids=[
        "nan",
        "size",
        "tensor_missing",
        "pickle_with_code",
        "another_network",
        "truncated",
        "no_tokenizer",
        "no_weights",
        "vocabulary",
        "json",
        "list",
        "unknown_kind",
        "code_of_its_own",
    ],
)
def test_text_encoder_refuses_a_bad_checkpoint(radbert, tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("EVIL_FILE", str(tmp_path / "code_ran"))
    change(radbert)
    with pytest.raises((AssetError, DataError), match=message) as err:
        TextEncoder(str(radbert))
    assert "\n" not in str(err.value)
    assert not (tmp_path / "code_ran").exists()
    assert isinstance(err.value, DataError) or "--encoder minilm" in str(err.value)


# Where encoders come from


@pytest.mark.parametrize(
    "name, message",
    [
        ("radbert", "RadBERT-RoBERTa-4m.*--encoder mpnet.*768.*--encoder minilm"),
        ("clip", "clip-vit-base-patch32.*no package registry carries a CLIP.*--encoder minilm"),
        ("owner/name", "owner/name.*--encoder minilm"),
    ],
)
@pytest.mark.parametrize("offline", [True, False])
def test_encoder_without_a_hub_asks_once_and_says_what_to_do(empty_caches, monkeypatch, name, message, offline):
    from huggingface_hub import HfApi

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the hub was asked again"))
    asked, ask = [], HfApi.model_info

    def model_info(*args, **kwargs):
        asked.append(kwargs["timeout"])
        return ask(*args, **kwargs)

    monkeypatch.setattr(HfApi, "model_info", model_info)
    for load in (TextEncoder, load_tokenizer, store_key):
        with pytest.raises(AssetError, match=message) as err:
            load(name)
        assert str(empty_caches / name) in str(err.value)
        assert ("HF_HUB_OFFLINE is set" if offline else "ConnectError") in str(err.value)
    assert asked == [5, 5, 5]


def test_hub_that_never_answers_is_given_up(empty_caches, monkeypatch):
    stuck = threading.Event()  # as a name server that does not answer
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: stuck.wait())
    monkeypatch.setattr("radgen.text.checkpoints._hub_files.__defaults__", (-0.9,))
    try:
        with pytest.raises(AssetError, match="cannot be reached .TimeoutError"):
            TextEncoder("radbert")
    finally:
        stuck.set()


@pytest.mark.parametrize("name", ["radbertt", "../x", "/nowhere/at/all", "a/b/c", "owner/"])
def test_encoder_source_refuses_names_of_nothing(empty_caches, name):
    with pytest.raises(ConfigError, match="no text encoder is called"):
        encoder_source(name)


def test_folder_in_the_cache_comes_before_the_hub(radbert, empty_caches, monkeypatch):
    monkeypatch.setattr("radgen.text.checkpoints._hub_files", lambda hub: pytest.fail("the hub was asked"))
    for name in ("radbert", "owner/name"):
        shutil.copytree(radbert, empty_caches / name)
        assert TextEncoder(name).width == 32
        assert store_key(name)["revision"] == store_key(str(radbert))["revision"]
    (empty_caches / "radbert" / "pytorch_model.bin").unlink()
    with pytest.raises(AssetError, match="encoders.radbert lacks weights"):
        TextEncoder("radbert")
    assert load_tokenizer("radbert")("ct").input_ids


def test_encoder_is_downloaded_once(hub, radbert_once, tmp_path):
    sha, asked = hub

    def downloaded():
        return {f.name for f in (tmp_path / "hub").glob("**/snapshots/*/*")}

    settings = {"config.json", "vocab.json", "merges.txt", "tokenizer_config.json"}
    assert load_tokenizer("owner/small")("ct").input_ids
    assert downloaded() == settings
    encoder = TextEncoder("owner/small")
    assert downloaded() == settings | {"pytorch_model.bin"}
    assert torch.equal(encoder(TEXTS).tokens, TextEncoder(str(radbert_once))(TEXTS).tokens)
    before = len(asked)
    key = store_key("owner/small")
    assert (key["encoder"], key["source"], key["revision"]) == ("owner/small", "owner/small", sha)
    assert len(build_store(TEXTS, tmp_path / "stores", "owner/small")) == 4
    assert len(asked) == before  # what is cached asks nobody
    with pytest.raises(AssetError, match="owner/missing.*no model of that name"):
        TextEncoder("owner/missing")


@pytest.mark.skipif(not (cache_dir() / ASSETS["mpnet"].label).exists(), reason="mpnet (404 MB) was not fetched")
def test_mpnet_ranks_meanings():
    e = TextEncoder("mpnet")(["computed tomography of the brain", "CT of the head", "ultrasound of the liver"])
    z = torch.nn.functional.normalize(e.pooled, dim=1)
    assert e.pooled.shape == (3, 768)
    assert z[0] @ z[1] > z[0] @ z[2]
