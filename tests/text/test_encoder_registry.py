"Registered encoders: what follows from an entry."

import subprocess
import sys

import pytest

from radgen.core.assets import ASSETS
from radgen.core.errors import ConfigError
from radgen.text.encoders import TextEncoder
from radgen.text.registry import ENCODERS, EncoderEntry, LABELS, entry_of, stand_ins, way_out


@pytest.mark.parametrize("name", list(ENCODERS))
def test_entry_names_a_source(name):
    entry = ENCODERS[name]
    assert (entry.hub is None) == (name in ASSETS)
    if entry.stands_for:
        assert entry.stands_for in ENCODERS
        assert LABELS[name] == entry.label
        assert entry.about


def test_entry_of_minilm_is_what_loads(minilm):
    assert (minilm.width, minilm.pooling) == (ENCODERS["minilm"].width, ENCODERS["minilm"].pooling)


def test_way_out_proposes_stand_ins():
    assert list(stand_ins()) == ["minilm", "mpnet"]
    for name in ("radbert", "clip", "owner/name"):
        assert "--encoder minilm" in way_out(name)
    assert way_out("radbert").index("mpnet") < way_out("radbert").index("minilm")
    assert "no package registry carries a CLIP" in way_out("clip")


def test_registered_folder_is_loaded_by_its_name(radbert_once, empty_caches, monkeypatch):
    "A new entry is one line; its files may lie in radgen's cache."
    monkeypatch.setitem(ENCODERS.entries, "small", EncoderEntry(32, "cls", hub="owner/small"))
    empty_caches.mkdir(parents=True)
    (empty_caches / "small").symlink_to(radbert_once)
    assert (TextEncoder("small").width, TextEncoder("small").pooling) == (32, "cls")
    with pytest.raises(ConfigError, match="use one of radbert, clip, minilm, mpnet, small"):
        TextEncoder("smaller")
    assert entry_of("owner/small") is None


def test_registry_and_embedding_import_no_transformers():
    code = "import sys, radgen.text.registry, radgen.text.config; print('torch' in sys.modules); "
    code += "import radgen.text.embedding, radgen.text.store_writer; print('transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
