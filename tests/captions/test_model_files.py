"The key of a model folder, folders and GGUF files that are none, and a full disk."

import json
import os
import shutil
import struct

import gguf
import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llm_stub import chats
from radgen.captions.backends import backend
from radgen.core.errors import ConfigError


@pytest.fixture
def folder(tiny_model, tmp_path):
    "A copy of the model that a test may change."
    return shutil.copytree(tiny_model, tmp_path / "copy")


def key(folder):
    return backend(f"hf:{folder}").key


def test_folder_key_same_for_a_copy(tiny_model, folder):
    os.utime(folder / "model.safetensors", (1, 1))
    (folder / "README.md").write_text("hello")
    assert key(folder) == key(tiny_model)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"])
def test_folder_key_changes_with_any_layer(tiny_model, folder, name):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: weights[name] + 0.01}, folder / "model.safetensors", {"format": "pt"})
    assert key(folder) != key(tiny_model)


def test_folder_key_changes_with_the_template(tiny_model, folder):
    (folder / "chat_template.jinja").write_text("another")
    assert key(folder) != key(tiny_model)


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def other_task(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])


@pytest.mark.parametrize(
    "fault, what",
    [
        (empty, "holds no language model .no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "is not valid JSON"),
        (other_task, "holds a BertForMaskedLM, which does not write text"),
        (pickled, "has no .safetensors file, and weights in other formats are not loaded"),
        (truncated, "no safetensors file, or not the whole"),
        (lambda f: (f / "model.safetensors").write_bytes(b"rubbish"), "no safetensors file, or not the whole"),
        (
            lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}"),
            "no safetensors file, or not the whole",
        ),
    ],
)
def test_folder_that_is_no_model(folder, fault, what):
    fault(folder)
    with pytest.raises(ConfigError, match=what):
        backend(f"hf:{folder}")


def test_gguf_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the model file .*No such file.*check the path in gguf:<file>"):
        backend(f"gguf:{tmp_path / 'none.gguf'}")
    with pytest.raises(ConfigError, match="cannot read the model file .*directory"):
        backend(f"gguf:{tmp_path}")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigError, match="is no GGUF file: download it again"):
        backend(f"gguf:{tmp_path / 'text.gguf'}")


def test_gguf_that_transformers_cannot_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "mystery")
    writer.add_name("odd")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "truncated.gguf").write_bytes((tmp_path / "odd.gguf").read_bytes()[:40])
    for name in ("odd", "truncated"):
        what = f"transformers cannot read {name}.gguf .*serve it with llama.cpp or Ollama"
        with pytest.raises(ConfigError, match=what):
            next(backend(f"gguf:{tmp_path / name}.gguf", "cpu").complete(chats("x")))
    assert not list((tmp_path / "cache").iterdir())  # nothing half made is left


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_unpacking_onto_a_full_disk(tmp_path, monkeypatch, error):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))

    class Model:
        def save_pretrained(self, folder):
            (folder / "part").write_text("half")
            raise error

    class Tokenizer:
        def save_pretrained(self, folder):
            pass

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda **k: Model())
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda **k: Tokenizer())
    what = "the disk is full: unpacking m.gguf needs about .* GB in .*set RADGEN_CACHE"
    with pytest.raises(ConfigError, match=what):
        backend(f"gguf:{tmp_path / 'm.gguf'}").load()
    assert not list((tmp_path / "cache").iterdir())
