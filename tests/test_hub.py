"""Files from the hub, spoken to over HTTP: a small server that answers as the hub does, and the errors it may send."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sora.hub import NotThere, Repository, blob_hash, fetch

REVISION = "8ccc9b6f36199bec6961081d44eb72fb3f7353f3"
FILES = {f"/org/model/resolve/{REVISION}/model.safetensors": b"weights"}
REPOSITORY = Repository("org/model", REVISION)


class Hub(BaseHTTPRequestHandler):
    """Answers HEAD and GET for FILES; everything else with the hub's 404 and its reason."""

    def do_HEAD(self) -> None:
        content = FILES.get(self.path)
        if content is None:
            known = "/org/model/resolve/"
            code = "EntryNotFound" if self.path.startswith(f"{known}{REVISION}") else "RevisionNotFound"
            self.send_response(404)
            self.send_header("X-Error-Code", code if self.path.startswith(known) else "RepoNotFound")
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(FILES.get(self.path, b""))

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
    other = reason(Repository("org/other", REVISION))
    assert other == "there is no such repository, or it needs a login (hf auth login)"


def test_a_hub_that_does_not_answer(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits longer before each of its attempts
    with socket.socket() as silent:  # bound, so nobody else's, but not listening
        silent.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{silent.getsockname()[1]}"
        template = nobody + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert reason(REPOSITORY) == "the hub cannot be reached, and its cache lacks the repository"


def test_without_a_network_it_is_told_at_once(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(REPOSITORY, "model.safetensors")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the client waited to try again"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
        template = nobody + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert reason(REPOSITORY, "pytorch_model.bin") == "the hub cannot be reached, and its cache lacks the file"
        assert fetch(REPOSITORY, "model.safetensors").read_bytes() == b"weights"


def test_a_cache_that_cannot_be_written(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub / "file"))
    said = reason(REPOSITORY)
    assert said.startswith(f"the cache {hub / 'file'}/models--org--model cannot be written (")
    assert said.endswith("; set HF_HOME")
