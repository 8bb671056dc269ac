"""A cache as the Hugging Face hub's client leaves it, filled without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fill(cache: Path, repository: str, revision: str, files: dict[str, bytes], kind: str = "model") -> Path:
    """Put ``files`` of a repository at a revision into ``cache`` (a HF_HUB_CACHE); returns the snapshot's folder."""
    folder = cache / f"{kind}s--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(blob)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    return snapshot
