"""``make study`` is the study of results/: the sweeps it starts are those whose manifests are committed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def started(folder: Path, **variables: str) -> list[list[str]]:
    """The words of every command of scripts/small_study.sh, whose Python only takes notes."""
    python, notes = folder / "python", folder / "notes"
    python.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" >> {notes}\necho >> {notes}\n')
    python.chmod(0o755)
    kept = {"PATH": os.environ["PATH"], "PY": str(python)}
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "small_study.sh"], env=kept | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [block.splitlines() for block in notes.read_text().strip().split("\n\n")]


def sweep(words: list[str]) -> dict[str, Any]:
    """What a command sweeps over and what it fixes, as far as it says."""
    typed = dict(word.split("=", 1) for word in words[1:])
    said: dict[str, Any] = {
        "task": yaml.safe_load(typed.pop("study.tasks")),
        "seed": yaml.safe_load(typed.pop("study.seeds")),
    }
    typed.pop("paths.results")
    for key in [key for key, value in typed.items() if "," in value]:
        said[key] = [float(value) for value in typed.pop(key).split(",")]
    fixed = {key: float(value) if key.startswith(("schedule.st", "method.")) else value for key, value in typed.items()}
    return said | {"fixed": fixed}


def held(manifest: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The same of a manifest: of its axes those that the command names, as the study's file has the others."""
    numbers = ("schedule.st", "method.")
    fixed = {key: float(value) if key.startswith(numbers) else value for key, value in manifest["fixed"].items()}
    return {key: manifest["axes"].get(key) for key in asked if key != "fixed"} | {"fixed": fixed}


def test_without_variables_it_is_the_study_of_results(tmp_path: Path) -> None:
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results" / "studies").glob("*.json")]
    asked = [sweep(words) for words in started(tmp_path) if words[0] == "run.py"]
    for each in asked:
        same = [m for m in manifests if m["study"] == each["fixed"]["experiment"] and held(m, each) == each]
        assert len(same) == 1, each
        manifests.remove(same[0])
    assert [f"{each['study']}-{each['hash']}" for each in manifests] == [], "nothing starts these"


def test_what_is_asked_for_alone(tmp_path: Path) -> None:
    words = started(tmp_path, TASKS="rte", SEEDS="0,21", STEPS="tuning main_table fidelity", PRECISION="fp32")
    assert [each[1] for each in words if each[0] == "run.py"] == [
        "experiment=learning_rate",
        "experiment=main_table",
        "experiment=fidelity",
    ]
    assert words[1] == ["scripts/tune.py", "--results", "results"]
    for each in (words[0], *words[2:]):
        assert "study.tasks=[rte]" in each
        assert "precision=fp32" in each
    assert "study.seeds=[0,21]" in words[3]


def test_a_step_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="error: STEPS: got maintable, must be some of tuning main_table"):
        started(tmp_path, STEPS="maintable")
