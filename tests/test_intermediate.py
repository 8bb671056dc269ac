"""The two steps of docs/intermediate.md, with generated tasks and a small encoder in place of MNLI and DeBERTa."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sora.runs import records
from tests.cluster.jobs import environment
from tests.typed import SMALL, called

ROOT = Path(__file__).parents[1]
SHORT = [word for word in SMALL if not word.startswith(("task=", "backbone.weights="))]
INSTEAD = {
    "python": sys.executable,
    "scripts/export.py": str(ROOT / "scripts" / "export.py"),
    "scripts/tables.py": str(ROOT / "scripts" / "tables.py"),
    "task=mnli": "task=synthetic_pair",
    "task=rte,mrpc,stsb": "task=synthetic_single,synthetic_graded",
    "seed=0,1,2": "seed=0,1",
    "backbone.weights=pretrained,mnli-model": "backbone.weights=random,mnli-model",
}


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "intermediate.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (python .*)$", page, re.MULTILINE)
    assert len(commands) == 4
    run_id = ""
    for command in commands:
        words = [INSTEAD.get(word, word) for word in shlex.split(command)]
        words = [word.replace("RUN", run_id) if word == "RUN" else word for word in words]
        if "run.py" in command:
            words += SHORT
        if "task=synthetic_pair" in words:
            words.append("backbone.weights=random")
        if "run.py" in command:
            done = called(tmp_path, *words[2:])
            status, printed = done.status, done.out + done.err
        else:
            script = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
            status, printed = script.returncode, script.stdout + script.stderr
        assert status == 0, printed
        if not run_id:
            (path,) = (tmp_path / "results" / "records").rglob("*.json")
            run_id = path.stem.rpartition("-")[2]
            assert run_id in printed
    found = [each for each in records.read_many(tmp_path / "results" / "records") if each["run_id"] != run_id]
    assert len(found) == 2 * 2 * 2
    assert len({each["run_id"] for each in found}) == 8, "other weights are other runs"
    assert len(list((tmp_path / "results" / "tables").glob("intermediate-*/README.md"))) == 1
    assert sum(each["flags"]["random_weights"] for each in found) == 4, "the others begin from the first step"
