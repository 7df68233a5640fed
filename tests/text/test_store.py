"The embedding store on disk: its size, its key, reading, and files that are not whole."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoders import change_tensors
from stub_encoder import KEY, StubEncoder, captions, check_store, encoded, fill

from radgen.core.errors import ConfigError, DataError
from radgen.text.store import EmbeddingStore, store_bytes, store_key
from radgen.text.store_writer import fill_store


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    "A store of 50 captions, not to be changed."
    return fill(tmp_path_factory.mktemp("store") / "s", captions(0, 50) * 2)


def test_store_reads_what_was_written(stored):
    texts = captions(0, 50)
    assert [len(part.hashes) for part in stored.parts] == [16, 16, 16, 2]
    assert (len(stored), stored.width) == (50, 8)
    check_store(stored, texts)
    check_store(EmbeddingStore(stored.path, KEY), texts[::-1] + texts[:3])


def test_store_knows_the_lengths_before_truncation(stored):
    texts = captions(0, 50)
    assert stored.full[stored.rows(texts)].tolist() == StubEncoder().lengths(texts)
    assert (stored.full > 6).sum() == sum(len(text.split()) > 6 for text in texts)
    assert stored.lengths.max() == 6


def test_store_takes_the_bytes_of_the_formula(stored):
    size = sum(file.stat().st_size for file in stored.path.glob("part-*/*"))
    assert size == store_bytes(50, int(stored.lengths.sum()), 8, "bf16", 4)
    assert sorted(file.name for file in stored.path.parent.iterdir()) == ["s", "s.lock"]


def test_get_pads_to_a_given_length(stored):
    rows = stored.rows(captions(0, 2))
    e = stored.get(rows, length=40)
    e.check(8)
    assert (e.tokens.shape, e.tokens.dtype) == ((2, 40, 8), torch.bfloat16)
    for length in (1, 0):
        with pytest.raises(ConfigError, match=f"tokens does not fit into a length of {length}"):
            stored.get(rows, length)


@pytest.mark.parametrize("stored_as, dtype", [("bf16", torch.bfloat16), ("f32", torch.float32)])
def test_vectors_keep_the_type_in_which_they_are_stored(tmp_path, stored_as, dtype):
    texts = captions(0, 40)
    store = fill_store(tmp_path / "s", KEY | {"dtype": stored_as}, texts, StubEncoder, batch_size=4, part_size=16)
    expected, found = StubEncoder()(texts), store.get(store.rows(texts))
    assert {found.tokens.dtype, found.pooled.dtype} == {dtype}
    assert torch.equal(found.pooled, expected.pooled.to(dtype))
    assert torch.equal(found.tokens[:, : expected.tokens.shape[1]], expected.tokens.to(dtype))


def one_by_one(store, rows, length):
    "What `get` gives, read row by row and converted to float32."
    tokens, pooled = torch.zeros(len(rows), length, store.width), torch.empty(len(rows), store.width)
    for i, (number, row, first) in enumerate(store.places[rows]):
        part, n = store.parts[number], store.lengths[rows[i]]
        kept = torch.from_numpy(np.array(part.tokens[first : first + n]))
        tokens[i, :n] = kept.view(torch.bfloat16)
        pooled[i] = torch.from_numpy(np.array(part.pooled[row])).view(torch.bfloat16)
    return tokens, pooled


def test_a_batch_over_several_parts_holds_the_rows_in_order(stored):
    rows = np.random.default_rng(0).integers(0, 50, 64)  # with repeats, from all parts
    assert len(set(stored.places[rows][:, 0])) == 4
    found = stored.get(rows, length=9)
    tokens, pooled = one_by_one(stored, rows, 9)
    assert torch.equal(found.tokens.float(), tokens)
    assert torch.equal(found.pooled.float(), pooled)
    assert found.mask.sum(1).tolist() == stored.lengths[rows].tolist()


def test_a_part_is_read_once_per_batch(stored):
    reads = []

    class Counted(np.ndarray):
        def __getitem__(self, key):
            reads.append(self.name)
            return np.asarray(self)[key]

    def counted(array, name):
        seen = np.asarray(array).view(Counted)
        seen.name = name
        return seen

    store = EmbeddingStore(stored.path)
    store.parts = [p._replace(tokens=counted(p.tokens, "t"), pooled=counted(p.pooled, "p")) for p in store.parts]
    store.get(range(16))  # the first part
    assert sorted(reads) == ["p", "t"]


def test_a_caption_that_is_stored_conditions_as_its_float32_vectors_do(stored):
    "Dropping texts promotes what is stored to float32, which is exact."
    from radgen.networks.denoiser import TextConditioning

    text, cond = stored.get(range(6)), TextConditioning(8, 4, 4)
    drop = torch.tensor([True, False] * 3)
    for x, y in zip(cond.drop(text, drop), cond.drop(text.to(torch.float32), drop)):
        assert x.dtype in (torch.float32, torch.bool)
        assert torch.equal(x, y)


def test_rows_names_a_text_that_is_not_there(stored):
    with pytest.raises(ConfigError, match="'new' is not in the embedding store"):
        stored.rows(["new"])


@pytest.mark.parametrize(
    "name, how",
    [
        ("tokens", "cut"),
        ("tokens", "header"),
        ("tokens", "empty"),
        ("pooled", "gone"),
        ("pooled", "shorter"),
        ("hashes", "shorter"),
        ("hashes", "type"),
        ("lengths", "empty"),
        ("lengths", "shorter"),
    ],
)
def test_part_that_is_not_whole_is_encoded_again(tmp_path, capsys, name, how):
    texts = captions(0, 40)
    fill(tmp_path / "s", texts)
    file = tmp_path / "s" / "part-00001" / f"{name}.npy"
    array = np.load(file)
    if how == "gone":
        file.unlink()
    elif how == "shorter":
        np.save(file, array[:-1])
    elif how == "type":
        np.save(file, array.astype(np.float64))
    else:
        os.truncate(file, {"cut": file.stat().st_size - 3, "header": 50, "empty": 0}[how])
    with pytest.raises(DataError, match="part-00001.*build_store encodes its texts again"):
        EmbeddingStore(tmp_path / "s")
    store = fill(tmp_path / "s", texts, StubEncoder(tmp_path / "log"))
    assert "part-00001" in capsys.readouterr().err
    assert len(encoded(tmp_path / "log")) == 16
    check_store(store, texts)


@pytest.mark.parametrize(
    "name, value", [("revision", "2"), ("max_length", 64), ("dtype", "f32"), ("pooling", "eos"), ("layout", 2)]
)
def test_store_of_another_key_is_refused(stored, name, value):
    key = {**KEY, name: value}
    with pytest.raises(ConfigError, match=f"written for {name} "):
        EmbeddingStore(stored.path, key)
    with pytest.raises(ConfigError, match=f"written for {name} "):
        fill_store(stored.path, key, captions(0, 4), StubEncoder)


def test_store_without_its_note_is_refused(tmp_path):
    fill(tmp_path / "s", captions(0, 4))
    note = tmp_path / "s" / "store.json"
    note.write_text("{")
    with pytest.raises(DataError, match="store.json.*delete it"):
        fill(tmp_path / "s", captions(0, 4))
    note.unlink()
    with pytest.raises(DataError, match="store.json.*delete it"):
        fill(tmp_path / "s", captions(0, 4))


def test_store_key_changes_with_what_could_change_a_vector(radbert, tmp_path):
    keys = [store_key(str(radbert))]
    change_tensors(radbert, {"lm_head.bias": torch.ones(330)})
    keys.append(store_key(str(radbert)))
    (radbert / "merges.txt").write_text("#version: 0.2\n")
    keys.append(store_key(str(radbert)))
    (radbert / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    keys.append(store_key(str(radbert)))
    (radbert / "1_Pooling").mkdir()
    (radbert / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    keys.append(store_key(str(radbert)))
    for settings in ((32, "bf16"), (64, "f32")):
        keys.append(store_key(str(radbert), *settings))
    keys.append(store_key("minilm"))
    assert len({json.dumps(key) for key in keys}) == 8


def test_store_key_ignores_notes_and_the_place_of_a_folder(radbert, tmp_path):
    before = store_key(str(radbert))
    for name in ("finetune.json", "metrics.csv", "curves.png", "README.md", "preprocessor_config.json"):
        (radbert / name).write_text("{}")
    assert store_key(str(radbert)) == before
    assert store_key(str(shutil.copytree(radbert, tmp_path / "elsewhere" / radbert.name))) == before


READ_ALL = """
import re, sys
from pathlib import Path
import torch
from radgen.text.embedding import TextEmbedding
from radgen.text.store import EmbeddingStore
from radgen.text.store_writer import fill_store
from stub_encoder import KEY


class Wide:
    width, max_length = 4096, 64

    def lengths(self, texts):
        return [32] * len(texts)

    def __call__(self, texts):
        mask = torch.ones(len(texts), 32, dtype=torch.bool)
        return TextEmbedding(torch.rand(len(texts), 32, 4096), mask, torch.rand(len(texts), 4096))


def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024


fill_store(Path(sys.argv[1]), KEY, [str(i) for i in range(256)], Wide, batch_size=4, part_size=64)
store = EmbeddingStore(sys.argv[1])
store.get(range(4))
before = private()
for i in range(0, 256, 4):
    store.get(range(i, i + 4))
print(private() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the private memory of a process from /proc")
def test_reading_takes_no_memory_for_the_whole_store(tmp_path):
    "All of a store of 64 MB is read in batches; private memory grows by a few batches, not by the store."
    here = str(Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path / "s")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert sum(f.stat().st_size for f in (tmp_path / "s").glob("part-*/tokens.npy")) > 64e6
    assert float(run.stdout) < 16, run.stderr
