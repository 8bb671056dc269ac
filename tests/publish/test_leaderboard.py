"""The leaderboards' files: written by hand-made logits, accepted when whole, refused with file:line when not."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scripts import submission
from sora import records, submissions
from sora.errors import UserError
from sora.tasks import Examples, load_task
from tests import composing

ROOT = Path(__file__).parents[1]


def examples(size: int, **more: Any) -> Examples:
    ids = np.arange(size)
    more.setdefault("idx", ids[:, None])
    return Examples("x/test.jsonl", ids, (["t"] * size,), np.full(size, -1), **more)


def logits(*classes: int, of: int = 2) -> np.ndarray:
    return np.eye(of)[list(classes)]


def test_tables_of_glue() -> None:
    assert submissions.content(load_task("rte"), examples(2), logits(1, 0)) == (
        "index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    )
    assert submissions.content(load_task("cola"), examples(2), logits(1, 0)) == "index\tprediction\n0\t1\n1\t0\n"
    assert submissions.content(load_task("mnli"), examples(1), logits(2, of=3)).endswith("\n0\tcontradiction\n")
    scores = submissions.content(load_task("stsb"), examples(4), np.array([[2.5], [-1], [7], [np.nan]]))
    assert scores == "index\tprediction\n0\t2.500\n1\t0.000\n2\t5.000\n3\t0.000\n"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("boolq", '{"idx": 0, "label": "true"}'),
        ("wic", '{"idx": 0, "label": "true"}'),
        ("wsc", '{"idx": 0, "label": "True"}'),
        ("copa", '{"idx": 0, "label": 1}'),
        ("rte_superglue", '{"idx": 0, "label": "not_entailment"}'),
    ],
)
def test_words_of_superglue(name: str, line: str) -> None:
    assert submissions.content(load_task(name), examples(1), logits(1)) == line + "\n"


def test_a_file_is_whole_that_has_the_lines_it_was_written_with(tmp_path: Path) -> None:
    idx = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]])
    asked = {"rte": examples(3), "multirc": examples(4, idx=idx, groups=idx[:, 1])}
    asked["record"] = examples(4, idx=idx[:, :2], groups=idx[:, 1], answers=["Ann", "Zoë", "Ann", "Zoë"])
    for name, each in asked.items():
        task = load_task(name)
        text = submissions.content(task, each, np.eye(2)[[0, 1, 0, 1][: len(each)]])
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert submissions.is_whole(tmp_path / name, task, each), name
        for part in (text[:-1], text.partition("\n")[2], ""):
            (tmp_path / name).write_text(part, encoding="utf-8")
            assert not submissions.is_whole(tmp_path / name, task, each), name
    assert not submissions.is_whole(tmp_path / "nothing", task, each)


def test_multirc_nests_answers() -> None:
    idx = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]])
    text = submissions.content(load_task("multirc"), examples(4, idx=idx, groups=idx[:, 1]), logits(1, 0, 0, 1))
    first = [
        {"idx": 0, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]},
        {"idx": 1, "answers": [{"idx": 2, "label": 0}]},
    ]
    second = [{"idx": 2, "answers": [{"idx": 3, "label": 1}]}]
    assert [json.loads(line) for line in text.splitlines()] == [
        {"idx": 0, "passage": {"questions": first}},
        {"idx": 1, "passage": {"questions": second}},
    ]


def test_record_answers_with_the_entity() -> None:
    idx = np.array([[0, 0], [0, 0], [0, 1], [0, 1]])
    made = examples(4, idx=idx, groups=idx[:, 1], answers=["Ann", "Zoë", "Ann", "Zoë"])
    text = submissions.content(load_task("record"), made, np.array([[0, 1], [0, 2], [0, 3], [0, 2]]))
    assert text == '{"idx": 0, "label": "Zoë"}\n{"idx": 1, "label": "Ann"}\n'


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaderboards whose test sets have three rows (MultiRC: four answers)."""
    tasks = {name: load_task(name) for name in ("rte", "stsb", "cb", "copa", "multirc", "record", "wsc")}
    few = [
        replace(task, sizes=dict.fromkeys(task.sizes, 3), items={"test": 4} if name == "multirc" else {})
        for name, task in tasks.items()
    ]
    monkeypatch.setattr(submissions, "benchmark_tasks", lambda name: [t for t in few if t.benchmark == name])


GOOD = {
    "RTE.tsv": "index\tprediction\n0\tentailment\n1\tentailment\n2\tnot_entailment\n",
    "STS-B.tsv": "index\tprediction\n0\t0\n1\t2.5\n2\t5.000\n",
    "CB.jsonl": "".join(f'{{"idx": {i}, "label": "neutral"}}\n' for i in range(3)),
    "COPA.jsonl": "".join(f'{{"idx": {i}, "label": {i % 2}}}\n' for i in range(3)),
    "WSC.jsonl": "".join(f'{{"idx": {i}, "label": "False"}}\n' for i in range(3)),
    "ReCoRD.jsonl": "".join(f'{{"idx": {i}, "label": "Zoë"}}\n' for i in range(3)),
    "MultiRC.jsonl": "".join(
        json.dumps(
            {
                "idx": i,
                "passage": {
                    "questions": [{"idx": i, "answers": [{"idx": 2 * i, "label": 1}, {"idx": 2 * i + 1, "label": 0}]}]
                },
            }
        )
        + "\n"
        for i in range(2)
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_whole_file_is_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    (tmp_path / name).write_text(GOOD[name], encoding="utf-8")
    assert submissions.check(tmp_path / name) == (4 if name == "MultiRC.jsonl" else 3)


def test_predictions_are_there_only_when_every_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sora.training import predictions

    small(monkeypatch)
    folder = tmp_path / "predictions"
    folder.mkdir()
    job: Any = SimpleNamespace(folder=tmp_path, run_id="0123456789ab", label="seed 0")
    asked: Any = [(submissions.task_of(name)[0], "test", examples(3)) for name in ("RTE.tsv", "CB.jsonl")]
    for name in ("RTE.tsv", "CB.jsonl"):
        assert not predictions._done(job, asked)
        (folder / name).write_text(GOOD[name], encoding="utf-8")
    (folder / "scores.json").write_text("{}")
    assert predictions._done(job, asked)
    (folder / "RTE.tsv").write_text(GOOD["RTE.tsv"][:-5], encoding="utf-8")
    assert not predictions._done(job, asked)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("RTE.tsv", "index\tprediction\n", "id\tprediction\n", r"RTE\.tsv:1: header 'id\\tprediction'"),
        ("RTE.tsv", "1\tentailment", "2\tentailment", r":3: index '2', 1 expected"),
        ("RTE.tsv", "not_entailment", "neutral", r":4: 'neutral' is not one of entailment, not_entailment"),
        ("RTE.tsv", "2\tnot_entailment\n", "", "2 predictions, and 3 are expected"),
        ("RTE.tsv", "not_entailment\n", "not_entailment", r":4: no line end"),
        ("STS-B.tsv", "2.5", "nan", r":3: 'nan' is no score from 0 to 5"),
        ("STS-B.tsv", "5.000", "5.001", r":4: '5\.001' is no score"),
        ("CB.jsonl", "neutral", "0", r":1: label '0' is not one of 'entailment', 'contradiction', 'neutral'"),
        ("CB.jsonl", '"idx": 1', '"idx": 2', r":2: idx 2, 1 expected"),
        ("CB.jsonl", '"idx": 0, ', "", r":1: an object with idx and label"),
        ("CB.jsonl", "{", "", r":1: not JSON"),
        ("COPA.jsonl", '"label": 1', '"label": "1"', r":2: label '1' is not one of 0, 1"),
        ("WSC.jsonl", "False", "false", r":1: label 'false' is not one of 'False', 'True'"),
        ("ReCoRD.jsonl", "Zoë", " ", r":1: label ' ', the text of an entity"),
        ("MultiRC.jsonl", '"idx": 3', '"idx": 4', r":2: idx 4, 3 expected"),
        ("MultiRC.jsonl", '{"questions": [', '[{"questions": [', r":1: not JSON"),
        ("MultiRC.jsonl", '"questions"', '"question"', r":1: a list of questions expected"),
        ("MultiRC.jsonl", ', {"idx": 3, "label": 0}', "", "3 predictions, and 4 are expected"),
    ],
)
def test_a_wrong_file_is_refused(
    name: str, old: str, new: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    assert old in GOOD[name]
    (tmp_path / name).write_text(GOOD[name].replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        submissions.check(tmp_path / name)


def test_official_counts() -> None:
    """Rows of the test files as the leaderboards know them."""
    counts = {
        file: task.items.get(split, task.sizes[split])
        for benchmark in ("glue", "superglue")
        for task in submissions.benchmark_tasks(benchmark)
        for split, file in task.submission.items()
    }
    assert counts == {
        "AX.tsv": 1104,
        "CoLA.tsv": 1063,
        "MNLI-m.tsv": 9796,
        "MNLI-mm.tsv": 9847,
        "MRPC.tsv": 1725,
        "QNLI.tsv": 5463,
        "QQP.tsv": 390965,
        "RTE.tsv": 3000,
        "SST-2.tsv": 1821,
        "STS-B.tsv": 1379,
        "WNLI.tsv": 146,
        "AX-b.jsonl": 1104,
        "AX-g.jsonl": 356,
        "BoolQ.jsonl": 3245,
        "CB.jsonl": 250,
        "COPA.jsonl": 500,
        "MultiRC.jsonl": 9693,
        "RTE.jsonl": 3000,
        "ReCoRD.jsonl": 10000,
        "WSC.jsonl": 146,
        "WiC.jsonl": 1400,
    }


# -- the script ----------------------------------------------------------------------------------------------


@dataclass
class Command:
    """The script in a folder of its own; ``out`` and ``err`` are what it printed last."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, *arguments: str) -> int:
        status = submission.main(arguments)
        self.out, self.err = self.capsys.readouterr()
        return status


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, capsys)


def finished(folder: Path, run_id: str, select: float, task: str = "cb", word: str = "neutral", **flags: bool) -> None:
    """A record and the predictions of its run."""
    record = composing.record(run_id)
    record["flags"] |= flags
    record["config"]["task"] = {"name": task, "select_metric": "accuracy"}
    record["metrics"]["selected"]["select"] = {"accuracy": select}
    records.write(folder / "results" / "records" / f"x-{run_id}.json", record, composing.arrays())
    predictions = folder / "runs" / run_id / "predictions"
    predictions.mkdir(parents=True)
    name, size = {"cb": ("CB.jsonl", 250), "copa": ("COPA.jsonl", 500)}[task]
    label = word if task == "cb" else 1
    lines = [json.dumps({"idx": index, "label": label}) for index in range(size)]
    (predictions / name).write_text("\n".join(lines) + "\n")
    (predictions / "scores.json").write_text("{}\n")


def test_the_best_run_by_the_select_split_is_collected(command: Command, tmp_path: Path) -> None:
    finished(tmp_path, "a" * 12, 0.7)
    finished(tmp_path, "b" * 12, 0.8, word="entailment")
    finished(tmp_path, "c" * 12, 0.9, word="contradiction", partial=True)
    finished(tmp_path, "d" * 12, 0.6, task="copa")
    assert command("superglue") == 2
    assert "missing: AX-b.jsonl, AX-g.jsonl, BoolQ.jsonl" in command.out
    assert "left out: 1 runs on partial or generated data, or of random weights" in command.out
    assert "error: the leaderboard of superglue refuses a zip without AX-b.jsonl" in command.err
    assert not (tmp_path / "superglue.zip").exists()
    assert command("superglue", "--incomplete", "--out", "some.zip") == 0, command.err
    assert "250 predictions  tiny sora seed 0 run bbbbbbbbbbbb, protocol paper, select accuracy 0.8000" in command.out
    with zipfile.ZipFile(tmp_path / "some.zip") as archive:
        assert archive.namelist() == ["CB.jsonl", "COPA.jsonl"]
        assert b"entailment" in archive.read("CB.jsonl")
    first = (tmp_path / "some.zip").read_bytes()
    command("superglue", "--incomplete", "--out", "some.zip")
    assert (tmp_path / "some.zip").read_bytes() == first


def test_a_run_selected_by_another_metric_comes_last(command: Command, tmp_path: Path) -> None:
    finished(tmp_path, "a" * 12, 0.9, word="entailment")
    finished(tmp_path, "b" * 12, 0.1)
    path = tmp_path / "results" / "records" / f"x-{'a' * 12}.json"
    record = records.read(path)
    record["metrics"]["selected"]["select"] = {"f1": 0.9}
    path.write_text(json.dumps(record))
    assert command("superglue", "--incomplete", "--out", "some.zip") == 0, command.err
    assert "run bbbbbbbbbbbb, protocol paper, select accuracy 0.1000" in command.out


def test_protocols_are_not_compared(command: Command, tmp_path: Path) -> None:
    finished(tmp_path, "a" * 12, 0.7)
    finished(tmp_path, "b" * 12, 0.9)
    path = tmp_path / "results" / "records" / f"x-{'b' * 12}.json"
    record = records.read(path)
    record["config"]["protocol"] = {"name": "dev"}
    path.write_text(json.dumps(record))
    assert command("superglue", "--incomplete") == 2
    assert "cb: its runs were selected by the protocols dev and paper, whose scores cannot be" in command.err
    assert command("superglue", "--incomplete", "--protocol", "paper") == 0, command.err
    assert "run aaaaaaaaaaaa" in command.out


def test_nothing_to_collect_and_files_to_check(command: Command, tmp_path: Path) -> None:
    finished(tmp_path, "a" * 12, 0.7)
    assert command("glue") == 2
    assert "error: runs: no run of glue that counts has predictions; give predict=true" in command.err
    assert command("superglue", "--incomplete", "--out", "runs") == 2
    assert "error: --out runs: is a folder, must be the zip to write, such as runs/superglue.zip" in command.err
    path = tmp_path / "runs" / ("a" * 12) / "predictions" / "CB.jsonl"
    assert command("check", str(path)) == 0
    assert command.out == f"{path}: 250 predictions\n"
    path.write_text(path.read_text().replace("neutral", "maybe", 1))
    assert command("check", str(path)) == 2
    assert command.err.startswith(f"error: {path}:1: label 'maybe' is not one of")


def test_the_exit_status_is_that_of_the_script(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "scripts" / "submission.py"), "check", "CD.jsonl"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "CD.jsonl: no leaderboard takes a file of that name; they are AX-b.jsonl" in done.stderr
