"The text encoder: vectors that depend on nothing but the text."

import json
import subprocess
import sys

import pytest
import torch
from small_encoders import TEXTS, change_tensors, tensors
from tokenizers import Tokenizer, models, pre_tokenizers
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    BertConfig,
    BertModel,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from radgen.core.errors import ConfigError, DataError
from radgen.text.encoders import TextEncoder, embed_tokens, holds_clip
from radgen.text.store import store_key
from radgen.text.store_writer import build_store


def test_masked_language_model_loads_as_its_encoder(radbert_once):
    encoder, saved = TextEncoder(str(radbert_once)), tensors(radbert_once)
    loaded = encoder.model.state_dict()
    assert len(loaded) == sum(name.startswith("roberta.") for name in saved)
    for name, value in loaded.items():
        assert torch.equal(value, saved["roberta." + name]), name
    assert encoder.model.pooler is None
    assert (encoder.pooling, encoder.width, encoder.max_length) == ("mean", 32, 64)
    assert "pooled by mean" in repr(encoder)
    assert encoder(["word " * 500]).mask.sum() == 64  # all 66 positions but the two that RoBERTa leaves unused


def test_safetensors_and_pickle_give_the_same_vectors(radbert):
    from safetensors.torch import save_file

    before = TextEncoder(str(radbert))(TEXTS)
    copies = {name: value.clone() for name, value in tensors(radbert).items()}
    save_file(copies, radbert / "model.safetensors", metadata={"format": "pt"})
    (radbert / "pytorch_model.bin").unlink()
    for x, y in zip(before, TextEncoder(str(radbert))(TEXTS)):
        assert torch.equal(x, y)


def test_half_precision_files_are_computed_in_float32(radbert):
    change_tensors(radbert, {name: value.half() for name, value in tensors(radbert).items()})
    assert TextEncoder(str(radbert))(TEXTS).tokens.dtype == torch.float32


def test_text_tower_of_a_whole_clip(clip):
    encoder, both = TextEncoder(str(clip), max_length=12), CLIPModel.from_pretrained(clip).eval()
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, both.text_model.state_dict()[name]), name
    texts = ["ct", "mri", "a caption that is far too long"]
    e = encoder(texts)
    ids = encoder.tokenizer(texts, padding=True, truncation=True, max_length=12, return_tensors="pt")
    assert torch.equal(e.mask, ids["attention_mask"].bool())
    assert e.mask[2].sum() == 12
    torch.testing.assert_close(e.pooled, both.text_model(**ids).pooler_output.detach(), atol=1e-5, rtol=1e-5)
    assert (encoder.pooling, encoder.width) == ("eos", 32)


@pytest.mark.soak
def test_loading_reports_nothing_that_was_left_out(clip):
    "transformers speaks of the image tower when it loads the text tower itself; it is kept quiet only while we load."
    code = (
        "import sys; from radgen.text.encoders import TextEncoder; TextEncoder(sys.argv[1]); "
        "print('done', file=sys.stderr); "
        "from transformers import CLIPTextModel; CLIPTextModel.from_pretrained(sys.argv[1])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(clip)], capture_output=True, text=True)
    by_radgen, by_transformers = run.stderr.split("done\n")
    assert by_radgen == ""
    assert "UNEXPECTED" in by_transformers
    assert "vision_model" in by_transformers


def test_holds_clip_tells_towers_apart(clip, radbert, tmp_path):
    CLIPTextModel.from_pretrained(clip).save_pretrained(tmp_path / "text")
    expected = {clip: (True, True), tmp_path / "text": (True, False), radbert: (False, False), tmp_path: (False, False)}
    for folder, holds in expected.items():
        assert (holds_clip(folder), holds_clip(folder, both=True)) == holds, folder
    (radbert / "config.json").write_text("[]")
    with pytest.raises(DataError, match="config.json is no JSON object"):
        holds_clip(radbert)


@pytest.mark.parametrize("which", ["minilm", "radbert_once", "clip"])
def test_caption_has_the_same_vectors_alone_and_in_a_batch(which, request):
    encoder = request.getfixturevalue(which)
    if which != "minilm":
        encoder = TextEncoder(str(encoder))
    texts = ["ct", "mri scan", "", "a long caption of many words"] if which == "clip" else [*TEXTS, ""]
    batch = encoder(texts)
    assert not batch.tokens[~batch.mask].any()
    assert batch.mask.dtype == torch.bool
    assert batch.mask.any(1).all()
    for i, text in enumerate(texts):
        alone, n = encoder([text]), int(batch.mask[i].sum())
        assert alone.mask.all()
        assert alone.tokens.shape[1] == n
        torch.testing.assert_close(alone.tokens[0], batch.tokens[i, :n], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.pooled[0], batch.pooled[i], atol=1e-4, rtol=1e-4)


def test_dropout_cannot_be_switched_on(radbert_once):
    encoder = TextEncoder(str(radbert_once))
    before = encoder(TEXTS)
    encoder.model.train()
    assert torch.equal(before.tokens, encoder(TEXTS).tokens)
    assert not any(p.requires_grad for p in encoder.model.parameters())


def set_pooling(folder, modes):
    "The note in which sentence-transformers says how to pool."
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))


@pytest.mark.parametrize(
    "modes, pooling",
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({}, "mean"),
    ],
)
def test_pooling_follows_a_sentence_encoder(radbert, modes, pooling):
    set_pooling(radbert, modes)
    encoder = TextEncoder(str(radbert))
    e = encoder(TEXTS)
    means = torch.stack([tokens[mask].mean(0) for tokens, mask in zip(e.tokens, e.mask)])
    torch.testing.assert_close(e.pooled, e.tokens[:, 0] if pooling == "cls" else means)
    assert encoder.pooling == pooling == store_key(str(radbert))["pooling"]


def test_unknown_pooling_is_refused(radbert):
    set_pooling(radbert, {"pooling_mode_max_tokens": True})
    with pytest.raises(ConfigError, match="max_tokens"):
        TextEncoder(str(radbert))


def test_text_without_any_token_keeps_one(tmp_path):
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "ct": 2}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    size = dict(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(BertConfig(**size)).save_pretrained(tmp_path)
    encoder, texts = TextEncoder(str(tmp_path)), ["", "ct ct ct"]
    e = encoder(texts)
    assert e.mask.sum(1).tolist() == encoder.lengths(texts) == [1, 3]
    assert all(x.isfinite().all() for x in e)


def test_lengths_are_counted_before_truncation():
    encoder = TextEncoder("minilm", max_length=8)
    texts = ["lung " * n for n in (1, 6, 7, 2100)]
    assert encoder.lengths(texts) == [3, 8, 9, 2102]
    assert encoder(texts).mask.sum(1).tolist() == [3, 8, 8, 8]
    with pytest.raises(ConfigError, match="cut to 2 tokens.*allow at least 3"):
        TextEncoder("minilm", max_length=2)


def test_precision_on_the_cpu_is_float32_by_default(radbert_once):
    by_default, in_float32 = TextEncoder(str(radbert_once)), TextEncoder(str(radbert_once), precision="no")
    assert by_default.precision == "no"
    for x, y in zip(by_default(TEXTS), in_float32(TEXTS)):
        assert torch.equal(x, y)


def test_an_encoder_in_16_bits_gives_float32_vectors_of_nearly_the_same_direction(radbert_once):
    exact = TextEncoder(str(radbert_once))(TEXTS)
    rounded = TextEncoder(str(radbert_once), precision="bf16")(TEXTS)
    assert {rounded.tokens.dtype, rounded.pooled.dtype} == {torch.float32}
    assert not torch.equal(rounded.tokens, exact.tokens)
    assert torch.cosine_similarity(rounded.pooled, exact.pooled).min() > 0.999


def test_a_limit_beyond_the_positions_is_refused(radbert_once, clip):
    for name, most in ((radbert_once, 64), (clip, 16)):
        assert TextEncoder(str(name)).max_length == most  # the default of 64 is cut to what the encoder reads
        assert TextEncoder(str(name), max_length=most).max_length == most
        with pytest.raises(ConfigError, match=f"--max-length is 65: .* reads at most {most} tokens, so give at most"):
            TextEncoder(str(name), max_length=65)


def test_a_moved_encoder_computes_there_in_the_precision_of_the_device(radbert_once, monkeypatch):
    chosen = {"cpu": "no", "meta": "bf16"}
    monkeypatch.setattr("radgen.text.encoders.choose_precision", lambda name, device: chosen[device])
    encoder = TextEncoder(str(radbert_once))
    assert encoder.to("meta") is encoder
    assert (encoder.device.type, encoder.precision) == ("meta", "bf16")
    assert next(encoder.model.parameters()).device.type == "meta"


def test_fp16_off_a_gpu_is_refused(radbert_once):
    with pytest.raises(ConfigError, match="fp16 needs a CUDA GPU"):
        TextEncoder(str(radbert_once), precision="fp16")


@pytest.mark.parametrize("dtype, precision", [("bf16", "auto"), ("f32", "no")])
def test_a_store_in_float32_is_filled_in_float32(dtype, precision, radbert_once, tmp_path, monkeypatch):
    asked = []

    def encoder(name, max_length, device, precision):
        asked.append(precision)
        return TextEncoder(name, max_length, device)

    monkeypatch.setattr("radgen.text.store_writer.make_encoder", encoder)
    store = build_store(TEXTS, tmp_path, str(radbert_once), dtype=dtype)
    assert (asked, store.get([0]).tokens.dtype) == ([precision], {"bf16": torch.bfloat16, "f32": torch.float32}[dtype])


@pytest.mark.parametrize("kind, pooling", [("roberta", "mean"), ("roberta", "cls"), ("clip", "eos")])
def test_embed_tokens_stays_on_the_device(kind, pooling):
    "On fake CUDA tensors, which raise on every mix of host and device."
    size = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    size["max_position_embeddings"] = 20
    with FakeTensorMode(allow_non_fake_inputs=False):
        with torch.device("cuda"):
            if kind == "clip":
                model = CLIPTextModel(CLIPTextConfig(**size, eos_token_id=49)).eval()
            else:
                model = RobertaModel(RobertaConfig(**size), add_pooling_layer=False).eval()
            ids, mask = torch.randint(0, 50, (3, 8)), torch.ones(3, 8, dtype=torch.bool)
        e = embed_tokens(model, ids, mask, pooling)
        assert [tuple(x.shape) for x in e] == [(3, 8, 32), (3, 8), (3, 32)]
        assert {x.device.type for x in e} == {"cuda"}
        for wrong in ((ids.cpu(), mask), (ids, mask.cpu())):
            with pytest.raises(Exception, match="device"):
                embed_tokens(model, *wrong, pooling)


@pytest.mark.parametrize(
    "texts, kind, message",
    [
        ([], DataError, "list is empty"),
        (["ct", None], DataError, "caption 1 is None"),
        (["ct", float("nan")], DataError, "caption 1 is nan.*float"),
        ([3], DataError, "caption 0 is 3, which is int"),
        (["ct", "\ud800"], DataError, "caption 1.*Unicode"),
        ("ct", ConfigError, "'ct' is one caption"),
    ],
)
def test_text_encoder_refuses_what_is_no_caption(minilm, tmp_path, texts, kind, message):
    for call in (minilm, minilm.lengths, lambda t: build_store(t, tmp_path, "minilm")):
        with pytest.raises(kind, match=message):
            call(texts)
    assert not list(tmp_path.iterdir())
