"Models of this process: batches, memory, templates, folders that do not load, and SmolLM2."

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from llm_stub import SCHEMA, chats
from radgen.captions.backends import MAX_NEW_TOKENS, backend
from radgen.captions.local import LocalModel, chat_text
from radgen.captions.model_files import SMOLLM2
from radgen.core.assets import fetch_asset
from radgen.core.errors import ConfigError

ENDS = [16, 22]
TEXTS = [
    "Chest CT with nodule in the right lung",
    "effusion",
    "mass in the left lung and effusion and mass",
    "nodule " * 12,
]


def one_by_one(llm, chats, new_tokens):
    "Completions without batches, padding or a cache."
    texts = {}
    for i, chat in enumerate(chats):
        ids = llm.tok(chat_text(llm.tok, chat), add_special_tokens=False).input_ids
        n = len(ids)
        with torch.inference_mode():
            for _ in range(new_tokens):
                ids.append(int(llm.model(torch.tensor([ids])).logits[0, -1].argmax()))
        stop = next((k for k, token in enumerate(ids[n:]) if token in ENDS), None)
        texts[i] = "" if stop is None else llm.tok.decode(ids[n : n + stop], skip_special_tokens=True).strip()
    return texts


@pytest.mark.parametrize("shared", [True, False])
def test_batches_and_shared_prefix_change_nothing(tiny_model, monkeypatch, shared):
    local = backend(f"hf:{tiny_model}", "cpu")
    assert local.llm is None  # nothing is loaded yet
    llm = local.load()
    assert next(llm.model.parameters()).dtype == torch.float32
    monkeypatch.setattr("radgen.captions.local.MAX_NEW_TOKENS", 12)
    if not shared:
        monkeypatch.setattr("radgen.captions.local.shared_prefix", lambda llm, rows: (0, None))
    llm.ends = llm.stops = ENDS  # of the random words, so that there are completions to compare
    alone = one_by_one(llm, chats(*TEXTS), 12)
    assert len(set(alone.values()) - {""}) >= 3, alone
    llm.model.generation_config.eos_token_id = ENDS
    for size in (1, 3, 4):
        llm.batch_size = size
        assert dict(local.complete(chats(*TEXTS), [SCHEMA] * 4)) == alone
    assert not local.structured
    assert sum(local.failures.values()) == 0


def test_text_without_end_is_empty(tiny_model, monkeypatch):
    local = backend(f"hf:{tiny_model}", "cpu")
    llm = local.load()
    new = torch.tensor([[7, 8, 1, 1, 1, 1, 1, 1], [7] * 8])
    monkeypatch.setattr(llm.model, "generate", lambda ids, **options: torch.cat([ids, new], 1))
    assert sorted(dict(local.complete(chats(*TEXTS[:2]))).values()) == ["", llm.tok.decode([7, 8])]


@pytest.fixture
def narrow(tiny_model, monkeypatch):
    "A model whose memory holds `rows` rows."
    local = LocalModel(str(tiny_model), "k", "cpu")
    local.load().batch_size = 4
    memory = SimpleNamespace(local=local, rows=4, tried=[])
    generate = local.llm.model.generate

    def limited(ids, **options):
        memory.tried.append(len(ids))
        if len(ids) > memory.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return generate(ids, **options)

    monkeypatch.setattr(local.llm.model, "generate", limited)
    return memory


def test_full_memory_halves_the_batch(narrow, capsys):
    expected = dict(narrow.local.complete(chats(*TEXTS, *TEXTS)))
    narrow.rows, narrow.tried[:] = 1, []
    assert dict(narrow.local.complete(chats(*TEXTS, *TEXTS))) == expected
    assert narrow.tried == [4, 2] + [1] * 8
    assert narrow.local.llm.batch_size == 1
    assert "The memory of cpu is full: going on with 2 questions at once." in capsys.readouterr().err


def test_full_memory_with_one_row_gives_up(narrow):
    narrow.rows = 0
    assert dict(narrow.local.complete(chats(*TEXTS))) == {i: None for i in range(4)}
    assert narrow.local.failures["does not fit into memory"] == 4


def test_full_memory_in_the_first_window_loses_no_later_chat(narrow, monkeypatch):
    monkeypatch.setattr("radgen.captions.local.WINDOW", 4)
    monkeypatch.setattr("radgen.captions.local.MAX_NEW_TOKENS", 2)
    narrow.rows = 1
    assert sorted(i for i, _ in narrow.local.complete(chats(*["effusion"] * 10))) == list(range(10))


def test_other_errors_are_raised(narrow, monkeypatch):
    def broken(*a, **k):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(narrow.local.llm.model, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        dict(narrow.local.complete(chats("nodule")))


def test_windows_and_a_chat_that_is_too_long(tiny_model, monkeypatch):
    monkeypatch.setattr("radgen.captions.local.MAX_NEW_TOKENS", 4)
    monkeypatch.setattr("radgen.captions.local.WINDOW", 8)
    local = LocalModel(str(tiny_model), "k", "cpu")
    completed = list(local.complete(chats(*["nodule"] * 17, "nodule " * 300, *["effusion"] * 2)))
    assert sorted(i for i, _ in completed) == list(range(20))
    assert [i for i, text in completed if text is None] == [17]
    assert local.failures["longer than the model can read"] == 1


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_template_without_a_system_role(tiny_model, tmp_path):
    folder = copy_of(tiny_model, tmp_path)
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(
        refuse + "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    llm = backend(f"hf:{folder}", "cpu").load()
    assert chat_text(llm.tok, chats("nodule")[0]) == "<user>Write the finding .\n\nnodule"


def edit(folder, **more):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | more))


def no_template(folder):
    (folder / "chat_template.jinja").unlink()


def unknown_architecture(folder):
    edit(folder, model_type="nonsense")


def own_code(folder):
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit(folder, model_type="nonsense", auto_map=code)


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def missing_layer(folder):
    edit(folder, num_hidden_layers=3)


@pytest.mark.parametrize(
    "fault, what",
    [
        (no_template, "has no chat template: choose an instruction-tuned one"),
        (unknown_architecture, "cannot load the language model .*choose another"),
        (own_code, "cannot load the language model"),
        (no_tokenizer, "cannot load the language model"),
        (missing_layer, "lacks weights of a causal language model"),
    ],
)
def test_folder_that_does_not_load(tiny_model, tmp_path, fault, what, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = copy_of(tiny_model, tmp_path)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    fault(folder)
    with pytest.raises(ConfigError, match=what):
        next(backend(f"hf:{folder}", "cpu").complete(chats("nodule")))
    assert not (tmp_path / "ran").exists()


def test_hub_model_is_keyed_by_its_commit(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing-of-that-name", "/nowhere/at/all"):
        with pytest.raises(ConfigError, match="neither a folder here nor a model that the hub"):
            backend(f"hf:{name}")
    config = SimpleNamespace(_commit_hash="0123abc")
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda name, trust_remote_code: config)
    assert backend("hf:org/model").key == f"hf:org/model:0123abc:line-{MAX_NEW_TOKENS}"


def test_smollm2_writes_one_line():
    local = backend("smollm2", "cpu")
    assert local.key == f"gguf:{SMOLLM2[:16]}:line-{MAX_NEW_TOKENS}"
    assert local.key == backend(f"gguf:{fetch_asset('smollm2')}").key
    llm = local.load()
    line_breaks = set(llm.stops).difference(llm.ends)
    assert line_breaks
    assert all("\n" in llm.tok.decode([token]) for token in line_breaks)
    count = [{"role": "user", "content": "Count from one to five, each number on a line of its own."}]
    ((_, text),) = local.complete([count])
    assert text
    assert "\n" not in text
