"Text encoders: where they come from, what is refused, and vectors that depend on nothing but the text. The embedding store: writers beside each other, kills, torn files, keys."

import hashlib, http.server, json, os, shutil, signal, subprocess, sys, textwrap, threading, zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import radgen.encoders as E
from conftest import Evil
from radgen.core.assets import ASSETS, Asset, cache_dir, fetch_asset
from radgen.core.errors import AssetError, ConfigError, DataError
from radgen.text.checkpoints import encoder_source, load_tokenizer
from radgen.text.embedding import TextEmbedding
from radgen.text.encoders import TextEncoder, embed_tokens, holds_clip
from radgen.text.store import EmbeddingStore, store_bytes, store_key
from radgen.text.store_writer import build_store, fill_store

TEXTS = [
    "computed tomography, head, axial, Normal",
    "plain x-ray, chest, postero-anterior, left pleural effusion",
    "x-ray",
    "magnetic resonance imaging of the lumbar spine, sagittal, disc protrusion at the level of L4",
]

# Checkpoints made on the spot


def tokenizer(folder, **more):
    "A byte-level BPE as RoBERTa's, written the way the hub stores it."
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        TEXTS * 4, vocab_size=330, show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    bpe.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", **more}))


@pytest.fixture(scope="module")
def radbert_once(tmp_path_factory):
    from transformers import RobertaConfig, RobertaForMaskedLM

    folder = tmp_path_factory.mktemp("made") / "radbert"
    folder.mkdir()
    tokenizer(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=330,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.5,
        architectures=["RobertaForMaskedLM"],
    )
    config.save_pretrained(folder)
    torch.save(RobertaForMaskedLM(config).state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def radbert(radbert_once, tmp_path):
    "A checkpoint of RadBERT's form, to be spoilt: a masked language model in a pickle of tensors."
    return Path(shutil.copytree(radbert_once, tmp_path / "radbert-small"))


def state(folder):
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "A whole CLIP, both halves in one folder."
    from radgen.text.clip import small_clip

    return small_clip(tmp_path_factory.mktemp("made") / "clip", [], patch_size=16, width=32, max_length=16)


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder("minilm")


# What is loaded


def test_a_masked_language_model_loads_as_its_encoder(radbert):
    enc, file = TextEncoder(str(radbert), max_length=512), state(radbert)
    ours = enc.model.state_dict()
    assert len(ours) == len([k for k in file if k.startswith("roberta.")]) and all(
        torch.equal(v, file["roberta." + k]) for k, v in ours.items()
    )
    assert (
        enc.model.pooler is None
        and (enc.pooling, enc.width, enc.max_length) == ("mean", 32, 64)
        and "pooled by mean" in repr(enc)
    )
    assert enc(["word " * 500]).mask.sum() == 64  # all 66 positions but the two that RoBERTa leaves unused


def test_safetensors_and_pickle_give_the_same_vectors(radbert):
    from safetensors.torch import save_file

    a = TextEncoder(str(radbert))(TEXTS)
    save_file(
        {k: v.clone() for k, v in state(radbert).items()}, radbert / "model.safetensors", metadata={"format": "pt"}
    )
    (radbert / "pytorch_model.bin").unlink()
    assert all(torch.equal(x, y) for x, y in zip(a, TextEncoder(str(radbert))(TEXTS)))


def test_half_precision_files_are_computed_in_float32(radbert):
    torch.save({k: v.half() for k, v in state(radbert).items()}, radbert / "pytorch_model.bin")
    assert TextEncoder(str(radbert))(TEXTS).tokens.dtype == torch.float32


def test_text_tower_of_a_whole_clip(clip):
    from transformers import CLIPModel

    enc, both = TextEncoder(str(clip), max_length=12), CLIPModel.from_pretrained(clip).eval()
    assert all(torch.equal(v, both.text_model.state_dict()[k]) for k, v in enc.model.state_dict().items())
    e = enc(["ct", "mri", "a caption that is far too long"])
    ids = enc.tokenizer(
        ["ct", "mri", "a caption that is far too long"],
        padding=True,
        truncation=True,
        max_length=12,
        return_tensors="pt",
    )
    assert torch.equal(e.mask, ids["attention_mask"].bool()) and e.mask[2].sum() == 12
    torch.testing.assert_close(e.pooled, both.text_model(**ids).pooler_output.detach(), atol=1e-5, rtol=1e-5)
    assert enc.pooling == "eos" and enc.width == 32


def test_no_report_of_what_is_left_out(clip, radbert_once):
    "What transformers says by itself, after the line, shows that there was something to keep quiet about, and that it was only kept quiet while we loaded."
    code = "import sys; from radgen.encoders import TextEncoder; [TextEncoder(f) for f in sys.argv[1:]]; print('done', file=sys.stderr); from transformers import CLIPTextModel; CLIPTextModel.from_pretrained(sys.argv[1])"
    ours, theirs = subprocess.run(
        [sys.executable, "-c", code, str(clip), str(radbert_once)], capture_output=True, text=True
    ).stderr.split("done\n")
    assert ours == "" and "UNEXPECTED" in theirs and "vision_model" in theirs


def test_what_holds_a_clip(clip, radbert, tmp_path):
    from transformers import CLIPTextModel

    CLIPTextModel.from_pretrained(clip).save_pretrained(tmp_path / "text")
    assert [
        (holds_clip(f), holds_clip(f, both=True)) for f in (clip, tmp_path / "text", radbert, tmp_path, "clip")
    ] == [(True, True), (True, False)] + [(False, False)] * 3
    list_config(radbert)
    with pytest.raises(DataError, match="config.json is no JSON object"):
        holds_clip(radbert)


@pytest.mark.parametrize("which", ["minilm", "radbert_once", "clip"])
def test_alone_and_in_a_batch(which, request):
    enc = request.getfixturevalue(which)
    enc = enc if which == "minilm" else TextEncoder(str(enc))
    texts = ["ct", "mri scan", "", "a long caption of many words"] if which == "clip" else [*TEXTS, ""]
    whole = enc(texts)
    assert not whole.tokens[~whole.mask].any() and whole.mask.dtype == torch.bool and whole.mask.any(1).all()
    for i, t in enumerate(texts):
        one, n = enc([t]), int(whole.mask[i].sum())
        assert one.mask.all() and one.tokens.shape[1] == n
        torch.testing.assert_close(one.tokens[0], whole.tokens[i, :n], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.pooled[0], whole.pooled[i], atol=1e-4, rtol=1e-4)


def test_no_dropout_even_when_asked_for(radbert_once, minilm):
    for enc in (TextEncoder(str(radbert_once)), TextEncoder("minilm")):
        a = enc(TEXTS)
        enc.model.train()
        assert torch.equal(a.tokens, enc(TEXTS).tokens) and not any(p.requires_grad for p in enc.model.parameters())


@pytest.mark.parametrize(
    "modes, pooling",
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({}, "mean"),
    ],
)
def test_pooling_of_a_sentence_encoder(radbert, modes, pooling):
    (radbert / "1_Pooling").mkdir()
    (radbert / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    enc = TextEncoder(str(radbert))
    e = enc(TEXTS)
    want = e.tokens[:, 0] if pooling == "cls" else torch.stack([t[m].mean(0) for t, m in zip(e.tokens, e.mask)])
    torch.testing.assert_close(e.pooled, want)
    assert enc.pooling == pooling == store_key(str(radbert))["pooling"]


def test_pooling_that_is_not_known(radbert):
    (radbert / "1_Pooling").mkdir()
    (radbert / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ConfigError, match="max_tokens"):
        TextEncoder(str(radbert))


def test_text_without_any_token_keeps_one(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "ct": 2}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    BertModel(
        BertConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path)
    enc = TextEncoder(str(tmp_path))
    e = enc(["", "ct ct ct"])
    assert e.mask.sum(1).tolist() == enc.lengths(["", "ct ct ct"]) == [1, 3] and all(x.isfinite().all() for x in e)


def test_lengths_are_before_the_cut(minilm):
    enc = TextEncoder("minilm", max_length=8)
    assert enc.lengths(["lung " * n for n in (1, 6, 7, 2100)]) == [3, 8, 9, 2102]
    assert enc(["lung " * n for n in (1, 6, 7, 2100)]).mask.sum(1).tolist() == [3, 8, 8, 8]
    with pytest.raises(ConfigError, match="cut to 2 tokens.*allow at least 3"):
        TextEncoder("minilm", max_length=2)


@pytest.mark.parametrize("kind", ["roberta", "clip"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "eos"])
def test_running_and_pooling_stay_on_the_device(kind, pooling):
    "On fake CUDA tensors, which raise on every mix of host and device."
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import CLIPTextConfig, CLIPTextModel, RobertaConfig, RobertaModel

    size = dict(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
    )
    with FakeTensorMode(allow_non_fake_inputs=False):
        with torch.device("cuda"):
            model = (
                CLIPTextModel(CLIPTextConfig(**size, eos_token_id=49))
                if kind == "clip"
                else RobertaModel(RobertaConfig(**size), add_pooling_layer=False)
            ).eval()
            ids, mask = torch.randint(0, 50, (3, 8)), torch.ones(3, 8, dtype=torch.bool)
        e = embed_tokens(model, ids, mask, pooling)
        assert [tuple(x.shape) for x in e] == [(3, 8, 32), (3, 8), (3, 32)] and {x.device.type for x in e} == {"cuda"}
        for forgotten in ((ids.cpu(), mask), (ids, mask.cpu())):
            with pytest.raises(Exception, match="device"):
                embed_tokens(model, *forgotten, pooling)


# What is refused


def change(**tensors):
    def spoil(folder):
        torch.save(
            {**state(folder), **{k.replace("__", "."): v for k, v in tensors.items()}}, folder / "pytorch_model.bin"
        )

    return spoil


def evil(folder):
    torch.save({**state(folder), "x": Evil()}, folder / "pytorch_model.bin")


def gone(folder):
    torch.save({k: v for k, v in state(folder).items() if "layer.1.attention" not in k}, folder / "pytorch_model.bin")


def embeddings_gone(folder):
    torch.save({k: v for k, v in state(folder).items() if "position_embeddings" not in k}, folder / "pytorch_model.bin")


def other(folder):
    torch.save({"net.weight": torch.zeros(3)}, folder / "pytorch_model.bin")


def cut(folder):
    os.truncate(folder / "pytorch_model.bin", 5000)


def no_tokenizer(folder):
    [(folder / f).unlink() for f in ("vocab.json", "merges.txt", "tokenizer_config.json")]


def no_weights(folder):
    (folder / "pytorch_model.bin").unlink()


def bad_config(folder):
    (folder / "config.json").write_text("{")


def list_config(folder):
    (folder / "config.json").write_text("[]")


def own_code(folder):
    (folder / "config.json").write_text(
        json.dumps({"model_type": "abacus", "auto_map": {"AutoConfig": "code.Abacus", "AutoModel": "code.Beads"}})
    )
    (folder / "code.py").write_text("import os; open(os.environ['EVIL_FILE'], 'w')")


def unknown_kind(folder):
    (folder / "config.json").write_text('{"model_type": "abacus"}')


def few_tokens(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    change(roberta__embeddings__word_embeddings__weight=torch.zeros(300, 32))(folder)


@pytest.mark.parametrize(
    "spoil, says",
    [
        (
            change(roberta__encoder__layer__1__output__dense__bias=torch.full((32,), float("nan"))),
            "encoder.layer.1.output.dense.bias holds NaN or infinity",
        ),
        (
            change(roberta__embeddings__word_embeddings__weight=torch.full((330, 32), float("inf"))),
            "embeddings.word_embeddings.weight holds NaN or infinity",
        ),
        (
            change(roberta__embeddings__word_embeddings__weight=torch.zeros(200, 32)),
            "other sizes than config.json says: embeddings.word_embeddings.weight",
        ),
        (gone, "tensors are missing: encoder.layer.1.attention.output.LayerNorm.bias.*7 more"),
        (embeddings_gone, "missing: embeddings.position_embeddings.weight"),
        (other, "tensors are missing.*more"),
        (evil, "could run code"),
        (cut, "weights.*could not be loaded"),
        (no_tokenizer, "lacks a tokenizer"),
        (no_weights, "lacks weights"),
        (few_tokens, "knows 330 tokens and the weights 300"),
        (bad_config, "not valid JSON"),
        (list_config, "no JSON object"),
        (unknown_kind, "could not be loaded.*abacus"),
        (own_code, "could not be loaded"),
    ],
    ids=[
        "nan",
        "inf",
        "size",
        "layer_missing",
        "positions_missing",
        "another_network",
        "pickle_with_code",
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
def test_a_bad_checkpoint_is_refused(radbert, tmp_path, monkeypatch, spoil, says):
    monkeypatch.setenv("EVIL_FILE", str(tmp_path / "code_ran"))
    TextEncoder(str(radbert))
    spoil(radbert)
    with pytest.raises((AssetError, DataError), match=says) as err:
        TextEncoder(str(radbert))
    assert "\n" not in str(err.value) and not (tmp_path / "code_ran").exists()
    assert isinstance(err.value, DataError) or "--encoder minilm" in str(err.value)


@pytest.mark.parametrize(
    "texts, kind, says",
    [
        ([], DataError, "list is empty"),
        (["ct", None], DataError, "caption 1 is None"),
        (["ct", float("nan")], DataError, "caption 1 is nan.*float"),
        ([3], DataError, "caption 0 is 3, which is int"),
        (["ct", "\ud800"], DataError, "caption 1.*Unicode"),
        ("ct", ConfigError, "'ct' is one caption"),
    ],
)
def test_what_is_no_caption(minilm, tmp_path, texts, kind, says):
    for f in (minilm, minilm.lengths, lambda t: build_store(t, tmp_path, "minilm")):
        with pytest.raises(kind, match=says):
            f(texts)
    assert not list(tmp_path.iterdir())


# Where encoders come from


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache" / "encoders"


@pytest.mark.parametrize(
    "name, says",
    [
        ("radbert", "RadBERT-RoBERTa-4m.*--encoder mpnet.*768.*--encoder minilm"),
        ("clip", "clip-vit-base-patch32.*no package registry carries a CLIP.*--encoder minilm"),
        ("owner/name", "owner/name.*--encoder minilm"),
    ],
)
@pytest.mark.parametrize("offline", [True, False])
def test_without_a_hub_one_question_and_one_sentence(empty_caches, monkeypatch, name, says, offline):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    asked = []
    from huggingface_hub import HfApi

    ask = HfApi.model_info
    monkeypatch.setattr(HfApi, "model_info", lambda *a, **k: asked.append(k["timeout"]) or ask(*a, **k))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the hub was asked again"))
    for f in (TextEncoder, load_tokenizer, store_key):
        with pytest.raises(AssetError, match=says) as err:
            f(name)
        assert str(empty_caches / name) in str(err.value) and (
            "HF_HUB_OFFLINE is set" if offline else "ConnectError"
        ) in str(err.value)
    assert asked == [5, 5, 5]


def test_a_hub_that_never_answers_is_given_up(empty_caches, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(
        "huggingface_hub.HfApi.model_info", lambda *a, **k: stuck.wait()
    )  # as a name server that does not answer
    monkeypatch.setattr(E._ask_hub, "__defaults__", (-0.9,))
    try:
        with pytest.raises(AssetError, match="cannot be reached .TimeoutError"):
            TextEncoder("radbert")
    finally:
        stuck.set()


def test_names_that_are_none(empty_caches):
    for name in ("radbertt", "../x", "/nowhere/at/all", "a/b/c", "owner/"):
        with pytest.raises(ConfigError, match="no text encoder is called"):
            encoder_source(name)


def test_a_folder_put_there_by_hand_comes_before_the_hub(radbert, empty_caches, monkeypatch):
    monkeypatch.setattr(E, "_ask_hub", lambda hub: pytest.fail("the hub was asked"))
    for name in ("radbert", "owner/name"):
        shutil.copytree(radbert, empty_caches / name)
        assert TextEncoder(name).width == 32 and store_key(name)["revision"] == store_key(str(radbert))["revision"]
    (empty_caches / "radbert" / "pytorch_model.bin").unlink()
    with pytest.raises(AssetError, match="encoders/radbert lacks weights"):
        TextEncoder("radbert")
    assert load_tokenizer("radbert")("ct").input_ids


@pytest.fixture
def hub(radbert_once, empty_caches, monkeypatch):
    "A hub of one model on this machine; yields the paths it was asked for."
    sha, asked = "0123456789abcdef0123456789abcdef01234567", []
    files = {f.name: f.read_bytes() for f in radbert_once.iterdir()} | {
        "README.md": b"words",
        "tf_model.h5": b"other weights",
        "training_args.bin": b"a pickle",
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *a):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            asked.append(path := self.path.split("?")[0])
            head = {"X-Repo-Commit": sha}
            if "/tree/" in path:
                body = json.dumps(
                    [
                        {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                        for k, v in files.items()
                    ]
                ).encode()
            elif path.startswith("/api/models/owner/small"):
                body = json.dumps(
                    {"id": "owner/small", "sha": sha, "siblings": [{"rfilename": k} for k in files]}
                ).encode()
            elif path.startswith("/owner/small/resolve/") and path.split("/")[-1] in files:
                body = files[path.split("/")[-1]]
                head["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            for k, v in {**head, "Content-Length": str(len(body))}.items():
                self.send_header(k, v)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("ENDPOINT", where),
        ("HUGGINGFACE_CO_URL_TEMPLATE", where + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield sha, asked
    server.shutdown()
    server.server_close()


def test_from_the_hub_once(hub, radbert_once, tmp_path):
    sha, asked = hub
    assert load_tokenizer("owner/small")("ct").input_ids
    files = lambda: {f.name for f in (tmp_path / "hub").glob("**/snapshots/*/*")}
    assert files() == {
        "config.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
    }  # a tokenizer is had without the weights
    enc = TextEncoder("owner/small")
    assert files() == {"config.json", "vocab.json", "merges.txt", "tokenizer_config.json", "pytorch_model.bin"}
    assert torch.equal(enc(TEXTS).tokens, TextEncoder(str(radbert_once))(TEXTS).tokens)
    n = len(asked)
    assert store_key("owner/small") == dict(
        encoder="owner/small", source="owner/small", revision=sha, pooling="mean", max_length=64, dtype="bf16", layout=1
    )
    assert len(build_store(TEXTS, tmp_path / "stores", "owner/small")) == 4
    assert len(asked) == n  # what is cached asks nobody
    with pytest.raises(AssetError, match="owner/missing.*no model of that name"):
        TextEncoder("owner/missing")


# The stand-in in several wheels


def wheel(folder, package, version, files):
    path = folder / f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{package.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        for k, v in {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }.items():
            z.writestr(k, v)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def parts(tmp_path, monkeypatch):
    "A zip cut in three, one piece in each wheel."
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as z:
        z.writestr("model/config.json", "{}")
        z.writestr("model/w.bin", os.urandom(3000))
        z.writestr("other/readme", "no")
    (tmp_path / "wheels").mkdir()
    whole = (tmp_path / "whole.zip").read_bytes()
    shas = tuple(
        wheel(
            tmp_path / "wheels",
            f"radgen-test-part-{i:03d}",
            "0.0.1",
            {
                f"radgen-test-part_{i:03d}/input/m.zip.{i:03d}": whole[(i - 1) * 1300 : i * 1300],
                f"radgen-test-part_{i:03d}/__init__.py": "",
            },
        )
        for i in (1, 2, 3)
    )
    for k, v in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PIP_CONFIG_FILE": os.devnull,
        "RADGEN_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(k, v)
    return shas


def test_parts_are_joined_and_checked(parts, tmp_path, monkeypatch):
    made = lambda shas, inside="model": Asset("radgen-test-part", "0.0.1", shas, inside, "a test")
    monkeypatch.setitem(ASSETS, "whole", made(parts))
    got = fetch_asset("whole")
    with zipfile.ZipFile(tmp_path / "whole.zip") as z:
        assert {f.name: f.read_bytes() for f in got.iterdir()} == {
            k: z.read(f"model/{k}") for k in ("config.json", "w.bin")
        }
    assert [f.name for f in got.parent.iterdir()] == ["model"]
    monkeypatch.setitem(ASSETS, "changed", made((parts[0], "0" * 64, parts[2])))
    monkeypatch.setitem(ASSETS, "elsewhere", made(parts, "nothing"))
    with pytest.raises(AssetError, match="could not fetch radgen-test-part"):
        fetch_asset("changed")
    (tmp_path / "cache" / ASSETS["whole"].label).rename(tmp_path / "away")
    with pytest.raises(AssetError, match="holds no nothing"):
        fetch_asset("elsewhere")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.skipif(
    not (cache_dir() / ASSETS["mpnet"].label).exists(),
    reason="mpnet (404 MB) was not fetched: python -c \"from radgen.core import fetch_asset; fetch_asset('mpnet')\"",
)
def test_mpnet_itself():
    e = TextEncoder("mpnet")(["computed tomography of the brain", "CT of the head", "ultrasound of the liver"])
    z = torch.nn.functional.normalize(e.pooled, dim=1)
    assert e.pooled.shape == (3, 768) and z[0] @ z[1] > z[0] @ z[2]


# The batch


def text(B=3, L=5, D=8):
    return TextEmbedding(torch.randn(B, L, D), torch.ones(B, L, dtype=torch.bool), torch.randn(B, D))


def test_check_names_the_fault():
    t, hole = text(), text().mask
    hole[2] = False
    text().check(8)
    text(1, 1).check(8)
    for bad, width, says in [
        (t, 768, "8 wide.*made for 768"),
        (t._replace(tokens=t.tokens[0]), 8, r"\(5, 8\)"),
        (t._replace(mask=t.mask.long()), 8, "torch.int64"),
        (t._replace(mask=t.mask[:2]), 8, r"mask has the shape \(2, 5\)"),
        (t._replace(mask=t.mask[:, :1]), 8, r"\(3, 1\)"),
        (t._replace(pooled=t.pooled[:, :4]), 8, r"\(3, 4\)"),
        (t._replace(pooled=t.pooled[:1]), 8, r"\(1, 8\)"),
        (t._replace(mask=hole), 8, "row 2 of the text's mask"),
    ]:
        with pytest.raises(ConfigError, match=says):
            bad.check(width)


def test_check_looks_at_no_values_where_that_would_cost():
    from torch._subclasses.fake_tensor import FakeTensorMode

    empty = text()._replace(mask=torch.zeros(3, 5, dtype=torch.bool))

    def f(t):
        t.check(8)
        return t.pooled * 2

    whole = torch.compile(f, fullgraph=True, backend="eager")
    assert torch.equal(whole(empty), empty.pooled * 2)
    with pytest.raises(Exception, match="made for 8"):
        whole(text(D=4))
    empty.to("meta").check(8)
    with FakeTensorMode() as mode:
        TextEmbedding(*map(mode.from_tensor, empty)).check(8)
        with torch.device("cuda"):
            text().check(8)


# The store

STUB = textwrap.dedent("""
    import hashlib, os, signal, sys, time
    from pathlib import Path
    import torch
    from radgen.encoders import EmbeddingStore, TextEmbedding, fill_store
    KEY = dict(encoder="stub", source="stub", revision="1", pooling="mean", max_length=6, dtype="bf16", layout=1)
    class Stub:
        "Encodes words by hashing them, writes down what it encoded, and may call a function before each batch."
        width, max_length = 8, 6
        def __init__(self, log=None, before=lambda n: None): self.log, self.before, self.n = log, before, 0
        def lengths(self, texts): return [len(t.split()) for t in texts]
        def __call__(self, texts):
            self.before(self.n); self.n += 1
            if self.log:
                with open(self.log, "a") as f: f.writelines(t + "\\n" for t in texts)
            n = [min(len(t.split()), 6) for t in texts]
            tokens = torch.zeros(len(texts), max(n), 8)
            for i, t in enumerate(texts):
                for j, w in enumerate(t.split()[:6]): tokens[i, j] = torch.tensor(list(hashlib.sha256(f"{w} {j}".encode()).digest()[:8])).float()
            mask = torch.arange(max(n)) < torch.tensor(n)[:, None]
            return TextEmbedding(tokens, mask, tokens.sum(1)/mask.sum(1, keepdim=True))
    def captions(a, b): return [f"caption {i}" + " word"*(i % 7) for i in range(a, b)]
""")
exec(STUB)


def fill(path, texts, stub=None, **kw):
    return fill_store(path, KEY, texts, lambda: stub or Stub(), batch_size=4, part_size=16, **kw)


def same(store, texts):
    want, got = Stub()(texts), store.get(store.rows(texts))
    L = want.tokens.shape[1]
    assert torch.equal(got.mask[:, :L], want.mask) and not got.mask[:, L:].any() and not got.tokens[~got.mask].any()
    assert torch.equal(got.tokens[:, :L], want.tokens) and torch.equal(
        got.pooled, want.pooled.to(torch.bfloat16).float()
    )


def run(code, *args, **kw):
    return subprocess.Popen(
        [sys.executable, "-c", STUB + textwrap.dedent(code), *map(str, args)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **kw,
    )


def test_reads_what_was_written(tmp_path):
    texts = captions(0, 50)
    store = fill(tmp_path / "s", texts * 2)
    assert [len(p.hashes) for p in store.parts] == [16, 16, 16, 2] and len(store) == 50 and store.width == 8
    same(store, texts)
    same(EmbeddingStore(tmp_path / "s", KEY), texts[::-1] + texts[:3])
    assert store.full[store.rows(texts)].tolist() == Stub().lengths(texts)
    assert (store.full > 6).sum() == sum(len(t.split()) > 6 for t in texts) > 0 and store.lengths.max() == 6
    files = [f for f in (tmp_path / "s").glob("part-*/*")]
    assert sum(f.stat().st_size for f in files) == store_bytes(50, int(store.lengths.sum()), 8, "bf16", 4)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["s", "s.lock"]
    e = store.get(store.rows(texts[:2]), length=40)
    e.check(8)
    assert e.tokens.shape == (2, 40, 8) and e.tokens.dtype == torch.float32
    for rows, length, says in (
        ([50], None, "rows .50."),
        ([-1], None, "rows"),
        ([], None, "rows"),
        (store.rows(texts), 5, "6 tokens does not fit into a length of 5"),
        ([0], 0, "length of 0"),
    ):
        with pytest.raises(ConfigError, match=says):
            store.get(rows, length)
    with pytest.raises(ConfigError, match="'new' is not in the embedding store"):
        store.rows(["new"])


@pytest.mark.parametrize("dtype, tolerance", [("bf16", 2**-8), ("f32", 0)])
def test_number_types(tmp_path, minilm, dtype, tolerance):
    store = build_store(TEXTS, tmp_path, "minilm", dtype=dtype, batch_size=1)
    got = store.get(store.rows(TEXTS))
    for i, t in enumerate(TEXTS):
        one = minilm([t])
        torch.testing.assert_close(got.tokens[i][got.mask[i]], one.tokens[0], rtol=tolerance, atol=0)
        torch.testing.assert_close(got.pooled[i], one.pooled[0], rtol=tolerance, atol=0)
    assert all(isinstance(p.tokens, np.memmap) and isinstance(p.pooled, np.memmap) for p in store.parts)
    with pytest.raises(ConfigError, match="'f16'.*bf16, f32"):
        build_store(TEXTS, tmp_path, "minilm", dtype="f16")


def test_two_writers_encode_each_text_once(tmp_path):
    "The second is started while the first is in the middle of a part, and is seen to wait."
    code = """
        path, log, a, b, hold = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
        def before(n):
            if n == 5 and hold == "hold": print("inside", flush=True); sys.stdin.readline()
        fill_store(path, KEY, captions(a, b), lambda: Stub(log, before), batch_size=4, part_size=16)
    """
    first = run(code, tmp_path / "s", tmp_path / "log", 0, 60, "hold", stdin=subprocess.PIPE)
    assert first.stdout.readline() == "inside\n"
    second = run(code, tmp_path / "s", tmp_path / "log", 40, 100, "go")
    assert "waiting for it" in second.stderr.readline()
    first.stdin.write("\n")
    first.stdin.close()
    assert second.wait() == first.wait() == 0
    assert sorted((tmp_path / "log").read_text().splitlines()) == sorted(captions(0, 100))
    same(EmbeddingStore(tmp_path / "s", KEY), captions(0, 100))


def test_a_kill_costs_the_part_under_way(tmp_path):
    killed = run(
        """
        def before(n):
            if n == 10: os.kill(os.getpid(), signal.SIGKILL)
        fill_store(Path(sys.argv[1]), KEY, captions(0, 60), lambda: Stub(sys.argv[2], before), batch_size=4, part_size=16)
    """,
        tmp_path / "s",
        tmp_path / "log",
    )
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert len(EmbeddingStore(tmp_path / "s", KEY)) == 32 and len(list((tmp_path / "s").glob(".tmp-*"))) == 1
    store = fill(tmp_path / "s", captions(0, 60), Stub(tmp_path / "again"))
    same(store, captions(0, 60))
    assert len((tmp_path / "again").read_text().splitlines()) == 28 and sorted(
        p.name for p in (tmp_path / "s").iterdir()
    ) == [f"part-0000{i}" for i in range(4)] + ["store.json"]


@pytest.mark.parametrize("name", ["tokens", "pooled", "hashes", "lengths"])
@pytest.mark.parametrize("how", ["cut", "header", "empty", "gone", "shorter", "type"])
def test_torn_part(tmp_path, name, how, capsys):
    fill(tmp_path / "s", captions(0, 40))
    file = tmp_path / "s" / "part-00001" / f"{name}.npy"
    if how == "gone":
        file.unlink()
    elif how in ("shorter", "type"):
        a = np.load(file)
        np.save(file, a[:-1] if how == "shorter" else a.astype(np.float64))
    else:
        os.truncate(file, {"cut": file.stat().st_size - 3, "header": 50, "empty": 0}[how])
    with pytest.raises(DataError, match="part-00001.*build_store encodes its texts anew"):
        EmbeddingStore(tmp_path / "s")
    store = fill(tmp_path / "s", captions(0, 40), Stub(tmp_path / "log"))
    assert "part-00001" in capsys.readouterr().err and len((tmp_path / "log").read_text().splitlines()) == 16
    same(store, captions(0, 40))


def test_a_store_of_something_else(tmp_path):
    fill(tmp_path / "s", captions(0, 4))
    for k, v in {"revision": "2", "max_length": 64, "dtype": "f32", "pooling": "eos", "layout": 2}.items():
        with pytest.raises(ConfigError, match=f"written for {k} "):
            EmbeddingStore(tmp_path / "s", {**KEY, k: v})
        with pytest.raises(ConfigError, match=f"written for {k} "):
            fill_store(tmp_path / "s", {**KEY, k: v}, captions(0, 4), Stub)
    for damage in (lambda f: f.write_text("{"), lambda f: f.unlink()):
        damage(tmp_path / "s" / "store.json")
        with pytest.raises(DataError, match="store.json.*delete it"):
            fill(tmp_path / "s", captions(0, 4))


def test_the_key_holds_what_could_change_a_vector(radbert, tmp_path):
    keys = [store_key(str(radbert))]

    def now(change):
        change()
        keys.append(store_key(str(radbert)))

    now(lambda: change(lm_head__bias=torch.ones(330))(radbert))
    now(lambda: (radbert / "merges.txt").write_text("#version: 0.2\n"))
    now(lambda: (radbert / "tokenizer_config.json").write_text('{"do_lower_case": true}'))
    now(
        lambda: (
            (radbert / "1_Pooling").mkdir(),
            (radbert / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}'),
        )
    )
    for notes in (
        "finetune.json",
        "metrics.csv",
        "curves.png",
        "README.md",
        "generation_config.json",
        "preprocessor_config.json",
        "training_args.bin",
    ):
        (radbert / notes).write_text("{}")
    assert store_key(str(radbert)) == keys[-1]  # no vector depends on them
    keys += [store_key(str(radbert), 32), store_key(str(radbert), dtype="f32"), store_key("minilm")]
    assert len({json.dumps(k) for k in keys}) == len(keys) == 8
    moved = shutil.copytree(radbert, tmp_path / "elsewhere" / radbert.name)
    assert store_key(str(moved)) == keys[4]  # where it lies does not count


def test_broken_encoders_and_full_disks_leave_no_part(tmp_path, monkeypatch):
    class Overflow(Stub):
        def __call__(self, texts):
            e = super().__call__(texts)
            e.tokens[-1, 0, 0] = float("inf")
            return e

    with pytest.raises(DataError, match="NaN or infinity for 'caption"):
        fill(tmp_path / "s", captions(0, 4), Overflow())
    monkeypatch.setattr(E.shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10, 10, 100))
    with pytest.raises(ConfigError, match="4 texts take .* GB left"):
        fill(tmp_path / "s", captions(0, 4))
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["store.json"]


def test_opening_loads_no_encoder(tmp_path):
    build_store(TEXTS, tmp_path, "minilm")
    code = f"import sys; from radgen.encoders import build_store; s = build_store({TEXTS!r}, {str(tmp_path)!r}, 'minilm'); s.get(s.rows({TEXTS!r})); print(len(s), [m for m in sys.modules if m.split('.')[0] in ('transformers', 'tokenizers', 'huggingface_hub')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "4 []\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the private memory of a process from /proc")
def test_reading_takes_no_memory_for_the_whole(tmp_path):
    "All of a store of 64 MB is read in batches; private memory grows by a few batches, not by the store."
    code = """
        import re
        class Wide(Stub):
            width, max_length = 4096, 64
            def lengths(self, texts): return [32]*len(texts)
            def __call__(self, texts): return TextEmbedding(torch.rand(len(texts), 32, 4096), torch.ones(len(texts), 32, dtype=torch.bool), torch.rand(len(texts), 4096))
        def private(): return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])/1024
        texts = [str(i) for i in range(256)]
        fill_store(Path(sys.argv[1]), KEY, texts, Wide, batch_size=4, part_size=64)
        store = EmbeddingStore(sys.argv[1])
        store.get(range(4))
        before = private()
        for i in range(0, 256, 4): store.get(range(i, i + 4))
        print(private() - before)
    """
    out, err = run(code, tmp_path / "s").communicate()
    assert sum(f.stat().st_size for f in (tmp_path / "s").glob("part-*/tokens.npy")) > 64e6
    assert float(out) < 16, err
