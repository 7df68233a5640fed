"Files and folders that are written whole or not at all, whoever else is at work; JSON that imports nothing heavy."

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from radgen.core.errors import ConfigError, DataError
from radgen.core.files import (
    atomic_dir,
    check_out,
    fingerprint,
    json_fields,
    read_json,
    read_record,
    replace_folder,
    to_json,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, text):
    with atomic_dir(path) as folder:
        (folder / "a").write_text(text)


def run_killed(code):
    "Run code that kills its own process."
    result = subprocess.run([sys.executable, "-c", code], check=False)
    assert result.returncode == -signal.SIGKILL


def test_atomic_dir_replaces_the_whole_folder(tmp_path):
    for text in ("one", "two", "three"):
        write(tmp_path / "out", text)
        assert (tmp_path / "out/a").read_text() == text
        assert names(tmp_path) == ["out"]


def test_atomic_dir_keeps_the_old_folder_where_the_block_fails(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError):
        with atomic_dir(tmp_path / "out"):
            1 / 0
    assert (tmp_path / "out/a").read_text() == "old"
    assert names(tmp_path) == ["out"]


KILL_BETWEEN_RENAMES = """
import os, signal
from radgen.core.files import atomic_dir
rename, calls = os.rename, []
def once(a, b):
    calls.append(a)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(a, b)
os.rename = once
with atomic_dir({path!r}) as folder:
    (folder / "a").write_text("new")
"""


def test_atomic_dir_brings_the_old_folder_back_after_a_kill_between_the_renames(tmp_path):
    write(tmp_path / "out", "old")
    run_killed(KILL_BETWEEN_RENAMES.format(path=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ZeroDivisionError):
        with atomic_dir(tmp_path / "out"):
            1 / 0
    assert (tmp_path / "out/a").read_text() == "old"
    assert names(tmp_path) == ["out"]


KILL_WHILE_WRITING = """
import os, signal
from radgen.core.files import atomic_dir
with atomic_dir({path!r}) as folder:
    (folder / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_atomic_dir_deletes_what_a_killed_process_left_but_not_a_neighbour(tmp_path):
    run_killed(KILL_WHILE_WRITING.format(path=str(tmp_path / "out")))
    (left,) = names(tmp_path)
    assert left.startswith(".tmp-out-")
    neighbour = f"out-{platform.node()}"
    with atomic_dir(tmp_path / neighbour) as folder:
        write(tmp_path / "out", "whole")
        (folder / "a").write_text("neighbour")
    assert names(tmp_path) == sorted(["out", neighbour])


def test_atomic_dir_writes_through_a_link_and_to_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    write(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "big/a").read_text() == "x"
    monkeypatch.chdir(tmp_path / "big")
    write(".", "y")
    assert (tmp_path / "big/a").read_text() == "y"
    assert names(tmp_path) == ["big", "link"]


def test_json_takes_numbers_of_numpy_and_paths(tmp_path):
    record = {"k": np.int64(3), "on": np.bool_(True), "x": np.float32(0.5), "row": np.arange(3), "at": Path("a/b")}
    write_json(tmp_path / "a.json", record)
    assert read_json(tmp_path / "a.json") == {"k": 3, "on": True, "x": 0.5, "row": [0, 1, 2], "at": "a/b"}
    assert fingerprint(record) == fingerprint(read_json(tmp_path / "a.json"))
    with pytest.raises(TypeError, match="object does not go into JSON"):
        to_json(object())


def test_files_and_errors_import_nothing_heavy():
    code = "import sys, radgen.core.errors, radgen.core.files; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "pandas", "matplotlib", "transformers", "psutil"}
    assert heavy & set(result.stdout.split()) == set()


def test_a_file_gets_the_permissions_of_the_user(tmp_path):
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert oct((tmp_path / "a.json").stat().st_mode & 0o777) == oct(0o640)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", "[" * 100_000, "\ufeff{}", "\0"])
def test_records_of_any_content_are_refused_by_name(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="record.json"):
        read_record(path, "fingerprint")
    assert json_fields(path) == {}
    write_json(path, {"fingerprint": "x"})
    assert read_record(path, "fingerprint") == json_fields(path) == {"fingerprint": "x"}


def test_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file, which is a file: choose another --out"):
        check_out(tmp_path / "file" / "a" / "b", "mark")
    check_out(tmp_path / "new" / "folder", "mark")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ConfigError, match="nothing may be written to .*: choose another --out"):
        check_out(tmp_path / "new" / "folder", "mark")


def test_of_two_processes_that_replace_one_folder_the_last_wins(tmp_path, monkeypatch):
    "Another process puts its folder there between the two renames."
    for name in ("mine", "theirs", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    rename, calls = os.rename, []

    def interrupted(a, b):
        if Path(a).name == "mine" and not calls:
            calls.append(rename(tmp_path / "theirs", tmp_path / "out"))
        rename(a, b)

    monkeypatch.setattr(os, "rename", interrupted)
    replace_folder(tmp_path / "mine", tmp_path / "out")
    assert len(calls) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
