"""Copy code and configuration, so that jobs which wait in a queue run what was there when they were submitted.

Torch-free. A copy is named by the hash of what it holds: two submissions of the same code share one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sora.files import as_user_error, replaced, write_text

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("sora", "conf", "hydra_plugins/sora_*", "run.py")  # an installation has conf/ inside sora, and no run.py
NOTE = "snapshot.json"  # the commit the copy was taken from


def take(folder: Path) -> Path:
    """Copy this code and configuration to ``folder/<12 digits>``, or what is missing there; returns its absolute path.

    Raises:
        UserError: the folder cannot be written.
    """
    files = sorted(path for part in PARTS for found in ROOT.glob(part) for path in _files(found))
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    target = folder.resolve() / digest.hexdigest()[:12]
    advice = "set paths.runs to a folder that all machines share and that can be written"
    with as_user_error(target, "the code cannot be copied there", advice):
        if target.exists():
            for path in files:  # where old files are cleared away, a copy of last month is no longer whole
                if not (place := target / path.relative_to(ROOT)).is_file():
                    with replaced(place) as new:
                        shutil.copyfile(path, new)
            if not (target / NOTE).is_file():
                write_text(target / NOTE, _note())
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            copy = Path(partial) / target.name
            for path in files:
                place = copy / path.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
            (copy / NOTE).write_text(_note())
            try:
                os.rename(copy, target)
            except OSError:
                if not target.exists():  # else another submission of the same code was first
                    raise
    return target


def _note() -> str:
    return json.dumps({"git": commit()}) + "\n"


def _files(part: Path) -> list[Path]:
    if part.is_file():
        return [part]
    return [path for path in part.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def commit() -> str | None:
    """Return the commit of this code, with ``+changes`` when tracked files differ from it; None outside a git checkout.

    In a snapshot: what it was when the snapshot was taken.
    """
    if (ROOT / NOTE).exists():
        noted: str | None = json.loads((ROOT / NOTE).read_text())["git"]
        return noted

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else ""

    if not (ROOT / ".git").exists():  # installed elsewhere: a repository around it is not ours
        return None
    try:
        head = git("rev-parse", "HEAD")
        return (head + "+changes" if git("status", "--porcelain", "--untracked-files=no") else head) or None
    except (OSError, subprocess.TimeoutExpired):
        return None
