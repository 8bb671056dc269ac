"""The leaderboards' files from hand-made logits, in the official layouts, and the zip of the best runs."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scripts import submission
from sora.cli import console
from sora.publish import leaderboard
from sora.runs import records
from sora.tasks import Examples, load_task
from tests import composing


def examples(size: int, **more: Any) -> Examples:
    ids = np.arange(size)
    more.setdefault("idx", ids[:, None])
    return Examples("x/test.jsonl", ids, (["t"] * size,), np.full(size, -1), **more)


def lines_of(text: str) -> list[Any]:
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def logits(*classes: int, of: int = 2) -> np.ndarray:
    return np.eye(of)[list(classes)]


def test_tables_of_glue() -> None:
    assert leaderboard.content(load_task("rte"), examples(2), logits(1, 0)) == (
        "index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    )
    assert leaderboard.content(load_task("cola"), examples(2), logits(1, 0)) == "index\tprediction\n0\t1\n1\t0\n"
    assert leaderboard.content(load_task("mnli"), examples(1), logits(2, of=3)).endswith("\n0\tcontradiction\n")
    scores = leaderboard.content(load_task("stsb"), examples(4), np.array([[2.5], [-1], [7], [np.nan]]))
    assert scores == "index\tprediction\n0\t2.500\n1\t0.000\n2\t5.000\n3\t0.000\n"


def test_a_task_that_no_leaderboard_knows_gets_a_plain_table(tmp_path: Path) -> None:
    own = replace(load_task("rte"), benchmark="own", submission={})
    assert leaderboard.file_of(own, "test") == "test.tsv"
    assert leaderboard.file_of(load_task("rte"), "test") == "RTE.tsv"
    text = leaderboard.content(own, examples(2, idx=None), logits(1, 0))
    assert text == "index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    (tmp_path / "test.tsv").write_text(text)
    assert leaderboard.count(tmp_path / "test.tsv", own) == 2
    scores = replace(own, labels=[], score_range=[])  # no range, so nothing is clipped
    assert leaderboard.content(scores, examples(1), np.array([[-7.25]])).endswith("\n0\t-7.250\n")


@pytest.mark.parametrize(
    ("name", "label"),
    [("boolq", "true"), ("wic", "true"), ("wsc", "True"), ("copa", 1), ("rte_superglue", "not_entailment")],
)
def test_words_of_superglue(name: str, label: str | int) -> None:
    text = leaderboard.content(load_task(name), examples(2), logits(1, 1))
    assert lines_of(text) == [{"idx": 0, "label": label}, {"idx": 1, "label": label}]


@pytest.mark.parametrize("name", ["rte", "multirc", "record"])
def test_predictions_of_a_file_are_counted_by_whole_lines(name: str, tmp_path: Path) -> None:
    idx = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]])
    made = {"rte": examples(3), "multirc": examples(4, idx=idx, groups=idx[:, 1])}
    made["record"] = examples(4, idx=idx[:, :2], groups=idx[:, 1], answers=["Ann", "Zoë", "Ann", "Zoë"])
    task, path = load_task(name), tmp_path / "file"
    assert leaderboard.count(path, task) == 0
    text = leaderboard.content(task, made[name], np.eye(2)[[0, 1, 0, 1][: len(made[name])]])
    path.write_text(text, encoding="utf-8")
    whole = {"rte": 3, "multirc": 4, "record": 3}[name]
    assert leaderboard.count(path, task) == whole
    path.write_text(text[:-1], encoding="utf-8")
    assert leaderboard.count(path, task) == whole - 1


def test_multirc_nests_answers() -> None:
    idx = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]])
    text = leaderboard.content(load_task("multirc"), examples(4, idx=idx, groups=idx[:, 1]), logits(1, 0, 0, 1))
    first = [
        {"idx": 0, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]},
        {"idx": 1, "answers": [{"idx": 2, "label": 0}]},
    ]
    second = [{"idx": 2, "answers": [{"idx": 3, "label": 1}]}]
    assert lines_of(text) == [
        {"idx": 0, "passage": {"questions": first}},
        {"idx": 1, "passage": {"questions": second}},
    ]


def test_record_answers_with_the_entity() -> None:
    idx = np.array([[0, 0], [0, 0], [0, 1], [0, 1]])
    made = examples(4, idx=idx, groups=idx[:, 1], answers=["Ann", "Zoë", 'AC/DC "live"', "Zoë"])
    text = leaderboard.content(load_task("record"), made, np.array([[0, 1], [0, 2], [0, 3], [0, 2]]))
    assert lines_of(text) == [{"idx": 0, "label": "Zoë"}, {"idx": 1, "label": 'AC/DC "live"'}]
    assert "Zoë" in text


def test_predictions_are_there_only_when_every_file_is_whole(tmp_path: Path) -> None:
    from sora.training import predictions

    (folder := tmp_path / "predictions").mkdir()
    job: Any = SimpleNamespace(folder=tmp_path, run_id="0123456789ab", label="seed 0")
    asked: Any = [(load_task(name), "test", examples(3)) for name in ("rte", "cb")]
    texts = {
        task.submission["test"]: leaderboard.content(task, each, logits(0, 1, 0, of=len(task.labels)))
        for task, _, each in asked
    }
    (folder / "scores.json").write_text("{}")
    for name, text in texts.items():
        assert not predictions._done(job, asked)
        (folder / name).write_text(text)
    assert predictions._done(job, asked)
    (folder / "RTE.tsv").write_text(texts["RTE.tsv"][:-5])
    assert not predictions._done(job, asked)
    (folder / "RTE.tsv").write_text(texts["RTE.tsv"])
    (folder / "scores.json").unlink()
    assert not predictions._done(job, asked), "it is written last"


def test_official_counts() -> None:
    """Rows of the test files as the leaderboards know them."""
    counts = {
        file: task.items.get(split, task.sizes[split])
        for benchmark in ("glue", "superglue")
        for task in leaderboard.benchmark_tasks(benchmark)
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
        with pytest.raises(SystemExit) as left:
            console.run(lambda: submission.main(arguments))
        self.out, self.err = self.capsys.readouterr()
        return int(left.value.code or 0)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "outlive_reader", lambda: None)
    return Command(tmp_path, capsys)


def finished(
    folder: Path,
    run_id: str,
    select: float,
    task: str = "cb",
    word: str = "neutral",
    metric: str = "accuracy",
    partial: bool = False,
    **groups: str,
) -> None:
    """A record and the predictions of its run; ``groups``: backbone, protocol -> name."""
    record = composing.record(run_id)
    record["flags"]["partial"] = partial
    record["config"]["task"] = {"name": task, "select_metric": "accuracy"}
    record["metrics"]["selected"]["select"] = {metric: select}
    for group, name in groups.items():
        record["config"][group] = record["config"][group] | {"name": name}
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
    finished(tmp_path, "a" * 12, 0.9, word="entailment", metric="f1")
    finished(tmp_path, "b" * 12, 0.1)
    assert command("superglue", "--incomplete", "--out", "some.zip") == 0, command.err
    assert "run bbbbbbbbbbbb, protocol paper, select accuracy 0.1000" in command.out


@pytest.mark.parametrize(
    ("other", "said", "choice"),
    [
        ({"protocol": "dev"}, "cb: its runs were selected by the protocols dev and paper", ("--protocol", "paper")),
        (
            {"task": "copa", "backbone": "other"},
            "the best runs are of the backbones other and tiny, and a leaderboard ranks one system",
            ("--backbone", "tiny"),
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    other: dict[str, str], said: str, choice: tuple[str, str], command: Command, tmp_path: Path
) -> None:
    finished(tmp_path, "a" * 12, 0.7)
    finished(tmp_path, "b" * 12, 0.9, **other)  # type: ignore[arg-type]
    assert command("superglue", "--incomplete") == 2
    assert said in command.err
    assert not (tmp_path / "superglue.zip").exists()
    assert command("superglue", "--incomplete", *choice) == 0, command.err
    assert "run aaaaaaaaaaaa" in command.out


def test_predictions_of_a_part_are_refused(command: Command, tmp_path: Path) -> None:
    finished(tmp_path, "a" * 12, 0.7)
    path = tmp_path / "runs" / ("a" * 12) / "predictions" / "CB.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert command("superglue", "--incomplete") == 2
    assert "CB.jsonl: 249 predictions, and 250 are expected; give predict=true again" in command.err


def test_nothing_to_collect(command: Command, tmp_path: Path) -> None:
    finished(tmp_path, "a" * 12, 0.7)
    assert command("glue", "--incomplete") == 2
    assert "which no run in runs that counts has" in command.err
    assert command("superglue", "--incomplete", "--out", "runs") == 2
    assert "error: runs: cannot be written" in command.err
