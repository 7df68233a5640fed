"Filling the store: number types, two writers, kills, broken encoders and full disks."

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoders import TEXTS
from stub_encoder import KEY, StubEncoder, captions, check_store, encoded, fill

from radgen.core.errors import ConfigError, DataError
from radgen.text.store import EmbeddingStore
from radgen.text.store_writer import build_store

HERE = str(Path(__file__).parent)


def start(code, *args, **options):
    "Start a process that may import the stub."
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("dtype, tolerance", [("bf16", 2**-8), ("f32", 0)])
def test_build_store_keeps_a_number_type(tmp_path, minilm, dtype, tolerance):
    store = build_store(TEXTS, tmp_path, "minilm", dtype=dtype, batch_size=1)
    stored = store.get(store.rows(TEXTS)).to(torch.float32)
    for i, text in enumerate(TEXTS):
        alone = minilm([text])
        torch.testing.assert_close(stored.tokens[i][stored.mask[i]], alone.tokens[0], rtol=tolerance, atol=0)
        torch.testing.assert_close(stored.pooled[i], alone.pooled[0], rtol=tolerance, atol=0)
    for part in store.parts:
        assert isinstance(part.tokens, np.memmap)
        assert isinstance(part.pooled, np.memmap)


def test_build_store_refuses_another_number_type(tmp_path):
    with pytest.raises(ConfigError, match="'f16'.*bf16, f32"):
        build_store(TEXTS, tmp_path, "minilm", dtype="f16")


WRITER = """
import sys
from pathlib import Path
from stub_encoder import StubEncoder, captions, fill

path, log, first, last, hold = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]


def before(batch):
    if batch == 5 and hold == "hold":
        print("inside", flush=True)
        sys.stdin.readline()


fill(path, captions(first, last), StubEncoder(log, before))
"""


@pytest.mark.soak
def test_two_writers_encode_each_text_once(tmp_path):
    "The second is started while the first is in the middle of a part, and is seen to wait."
    first = start(WRITER, tmp_path / "s", tmp_path / "log", 0, 60, "hold", stdin=subprocess.PIPE)
    assert first.stdout.readline() == "inside\n"
    second = start(WRITER, tmp_path / "s", tmp_path / "log", 40, 100, "go")
    assert "waiting for it" in second.stderr.readline()
    first.stdin.write("\n")
    first.stdin.close()
    assert (second.wait(), first.wait()) == (0, 0)
    assert sorted(encoded(tmp_path / "log")) == sorted(captions(0, 100))
    check_store(EmbeddingStore(tmp_path / "s", KEY), captions(0, 100))


KILLED = """
import os, signal, sys
from pathlib import Path
from stub_encoder import StubEncoder, captions, fill


def before(batch):
    if batch == 10:
        os.kill(os.getpid(), signal.SIGKILL)


fill(Path(sys.argv[1]), captions(0, 60), StubEncoder(sys.argv[2], before))
"""


def test_kill_costs_the_part_under_way(tmp_path):
    store = tmp_path / "s"
    killed = start(KILLED, store, tmp_path / "log")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert len(EmbeddingStore(store, KEY)) == 32
    assert len(list(store.glob(".tmp-*"))) == 1
    check_store(fill(store, captions(0, 60), StubEncoder(tmp_path / "again")), captions(0, 60))
    assert len(encoded(tmp_path / "again")) == 28
    assert sorted(p.name for p in store.iterdir()) == [f"part-0000{i}" for i in range(4)] + ["store.json"]


class Overflow(StubEncoder):
    "An encoder whose last vector is infinite."

    def __call__(self, texts):
        e = super().__call__(texts)
        e.tokens[-1, 0, 0] = float("inf")
        return e


def test_broken_encoder_leaves_no_part(tmp_path):
    with pytest.raises(DataError, match="NaN or infinity for 'caption"):
        fill(tmp_path / "s", captions(0, 4), Overflow())
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["store.json"]


def test_full_disk_is_noticed_before_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr("radgen.text.store_writer.shutil.disk_usage", lambda p: shutil._ntuple_diskusage(10, 10, 100))
    encoder = StubEncoder(tmp_path / "log")
    with pytest.raises(ConfigError, match="4 texts take .* GB left"):
        fill(tmp_path / "s", captions(0, 4), encoder)
    assert encoder.batches == 0
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["store.json"]


OPENED = """
import sys
from radgen.text.store_writer import build_store

store = build_store(sys.argv[2:], sys.argv[1], "minilm")
store.get(store.rows(sys.argv[2:]))
loaded = {name.split(".")[0] for name in sys.modules}
print(len(store), sorted(loaded & {"transformers", "tokenizers", "huggingface_hub"}))
"""


def test_opening_a_filled_store_loads_no_encoder(tmp_path):
    build_store(TEXTS, tmp_path, "minilm")
    assert start(OPENED, tmp_path, *TEXTS).communicate()[0] == "4 []\n"
