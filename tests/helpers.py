"""Where things are, and small helpers that several tests share."""

import os
import shutil
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
OFFICIAL = SHARED / "rocov2_text"
WORK = ROOT / "work"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


def free_port():
    "A port of the loopback at which nobody listens."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def temporary_folder():
    "A folder for all temporary files of this process and of those it starts; removed at the end."
    place = tempfile.TemporaryDirectory(prefix="radgen-", ignore_cleanup_errors=True)
    with place as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


class Evil:
    "What a pickle must not be allowed to do: opening $EVIL_FILE stands for any code."

    def __reduce__(self):
        return (open, (os.environ["EVIL_FILE"], "w"))
