"""Where things are, and small helpers that several tests share."""

import os
import socket
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


class Evil:
    "What a pickle must not be allowed to do: opening $EVIL_FILE stands for any code."

    def __reduce__(self):
        return (open, (os.environ["EVIL_FILE"], "w"))
