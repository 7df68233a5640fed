"Encoders made on the spot, shared by the tests of this folder."

import hashlib
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest
from small_encoders import write_radbert

from radgen.text.clip import small_clip
from radgen.text.encoders import TextEncoder


@pytest.fixture(scope="session")
def radbert_once(tmp_path_factory):
    "A checkpoint of RadBERT's form, not to be changed."
    return write_radbert(tmp_path_factory.mktemp("made") / "radbert")


@pytest.fixture
def radbert(radbert_once, tmp_path):
    "A checkpoint of RadBERT's form, to be corrupted."
    return Path(shutil.copytree(radbert_once, tmp_path / "radbert-small"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    "A CLIP with both towers in one folder, not to be changed."
    return small_clip(tmp_path_factory.mktemp("made") / "clip", [], patch_size=16, width=32, max_length=16)


@pytest.fixture(scope="session")
def minilm():
    return TextEncoder("minilm")


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    "No encoder on this machine; the folder in which radgen looks for some."
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache" / "encoders"


SHA = "0123456789abcdef0123456789abcdef01234567"


def answer(path, files):
    "What a hub of one model, owner/small, answers: (header, body), or None where it has nothing."
    head = {"X-Repo-Commit": SHA}
    if "/tree/" in path:
        entries = []
        for name, content in files.items():
            oid = hashlib.sha1(content).hexdigest()
            entries.append({"type": "file", "path": name, "size": len(content), "oid": oid})
        return head, json.dumps(entries).encode()
    if path.startswith("/api/models/owner/small"):
        siblings = [{"rfilename": name} for name in files]
        return head, json.dumps({"id": "owner/small", "sha": SHA, "siblings": siblings}).encode()
    name = path.split("/")[-1]
    if path.startswith("/owner/small/resolve/") and name in files:
        return head | {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'}, files[name]
    return None


@pytest.fixture
def hub(radbert_once, empty_caches, monkeypatch):
    "A hub of one model on this machine: its commit, and the paths it was asked for."
    asked = []
    files = {file.name: file.read_bytes() for file in radbert_once.iterdir()}
    files |= {"README.md": b"words", "tf_model.h5": b"other weights", "training_args.bin": b"a pickle"}

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0]
            asked.append(path)
            found = answer(path, files)
            head, body = found or ({"X-Error-Code": "RepoNotFound"}, b"")
            self.send_response(200 if found else 404)
            for name, value in {**head, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}"
    template = where + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in (("ENDPOINT", where), ("HUGGINGFACE_CO_URL_TEMPLATE", template), ("HF_HUB_OFFLINE", False)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield SHA, asked
    server.shutdown()
    server.server_close()
