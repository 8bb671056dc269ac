"""Files from the hub, spoken to over HTTP: a small server that answers as the hub does, and the errors it may send."""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from sora.backbones.hub import NotThere, Repository, blob_hash, fetch

REVISION = "8ccc9b6f36199bec6961081d44eb72fb3f7353f3"
FILES = {f"/org/model/resolve/{REVISION}/model.safetensors": b"weights"}
TREE = f"/api/models/org/model/tree/{REVISION}"
INFO = f"/api/models/org/model/revision/{REVISION}"
REPOSITORY = Repository("org/model", REVISION)


class Hub(BaseHTTPRequestHandler):
    """Answers HEAD and GET for FILES and their list; everything else with the hub's 404 and its reason."""

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> bytes:
        """Send the head of the answer; returns its body."""
        content = FILES.get(self.path)
        if self.path.startswith(INFO):
            content = json.dumps({"id": "org/model", "sha": REVISION}).encode()
        elif self.path.startswith(TREE):
            content = json.dumps(
                [
                    {"type": "file", "path": name.rpartition("/")[2], "size": len(file), "oid": "0" * 40}
                    | {"lfs": {"oid": hashlib.sha256(file).hexdigest(), "size": len(file), "pointerSize": 134}}
                    for name, file in FILES.items()
                ]
            ).encode()
        if content is None:
            known = any(part in self.path for part in ("/org/model/resolve/", "/api/models/org/model/"))
            code = "EntryNotFound" if REVISION in self.path else "RevisionNotFound"
            self.send_response(404)
            self.send_header("X-Error-Code", code if known else "RepoNotFound")
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return b""
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The client's cache, and a hub behind it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path))
        yield tmp_path
        server.shutdown()


def reason(repository: Repository, name: str = "model.safetensors") -> str:
    with pytest.raises(NotThere) as caught:
        fetch(repository, name)
    return str(caught.value)


def test_a_file_is_downloaded_once_and_then_comes_from_the_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(REPOSITORY, "model.safetensors")
    assert path.read_bytes() == b"weights"
    assert path.is_relative_to(hub / "models--org--model" / "snapshots" / REVISION)
    assert blob_hash(path) == hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch(REPOSITORY, "model.safetensors") == path


def test_what_the_hub_does_not_have(hub: Path) -> None:
    assert reason(REPOSITORY, "pytorch_model.bin") == "the repository has no such file"
    assert (
        reason(Repository("org/model", "f" * 40))
        == f"the repository has no revision {'f' * 40}; correct backbone.revision"
    )
    unknown = "there is no such repository (org/model), or it needs a login (hf auth login)"
    assert reason(Repository("org/other", REVISION)) == reason(Repository("one/two/three", "")) == unknown


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (httpx.ReadError("cut"), "(ReadError); try again"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "(Connection reset by peer); try again"),
        (OSError(errno.ENOSPC, "No space left on device"), "(No space left on device); HF_HOME moves it"),
    ],
)
def test_a_download_that_broke_off(error: Exception, says: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=error))
    assert reason(REPOSITORY).endswith(f"models--org--model {says}")


def test_without_a_network_it_is_refused_at_once(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # bound, so nobody else's, but not listening
        silent.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{silent.getsockname()[1]}"
        fetch(REPOSITORY, "model.safetensors")
        monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the client waited to try again"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nobody)
        assert fetch(REPOSITORY, "model.safetensors").read_bytes() == b"weights"
        other = reason(Repository("org/model", "f" * 40))
        assert other.startswith(f"the hub cannot be reached, and its cache has revision {REVISION[:12]}, not ffff")
        assert reason(Repository("org/unknown", "")) == "the hub cannot be reached, and its cache lacks the repository"
