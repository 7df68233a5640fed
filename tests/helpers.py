"""Where things are, and small helpers that several tests share."""

import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
OFFICIAL = SHARED / "rocov2_text"
WORK = ROOT / "work"


def free_port():
    "A port of the loopback at which nobody listens."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def temporary_folder():
    "A folder for all temporary files of this process and of those it starts; removed at the end."
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="radgen-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before[1]
            if before[0] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before[0]


class Evil:
    "What a pickle must not be allowed to do: opening $EVIL_FILE stands for any code."

    def __reduce__(self):
        return (open, (os.environ["EVIL_FILE"], "w"))
