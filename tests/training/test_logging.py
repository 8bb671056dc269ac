"""metrics.jsonl through kills and resumption, values that are not finite, quiet output, a logger that fails."""

import errno
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sora.errors import UserError
from sora.training.logging import Tracker, progress, read_metrics, summary

LABELS = ["seed 0", "seed 1"]


@pytest.fixture
def folders(tmp_path):
    return [tmp_path / "aaa", tmp_path / "bbb"]


def train(folders, steps, *, resume=None, total=20, stop_at=None):
    """A loop as the real one: a train line each step, an evaluation every fifth."""
    with Tracker(folders, LABELS[: len(folders)], total, interactive=False) as tracker:
        if resume is not None:
            tracker.resume_at(resume)
        for step in steps:
            for replica in range(len(folders)):
                tracker.log(replica, step, "train", loss=1.0 / (step + replica), lr=np.float32(0.1))
                if step % 5 == 0:
                    tracker.log(replica, step, "eval", select={"accuracy": 0.5 + replica / 10}, ranks=[8, step])
            tracker.progress(step, summary(loss=[1.0 / step]))
            if step == stop_at:
                raise KeyboardInterrupt


def files(folders):
    return [(folder / "metrics.jsonl").read_bytes() for folder in folders]


@pytest.mark.parametrize("checkpoint", [4, 5, 10])
def test_stopped_and_resumed_leaves_the_uninterrupted_file(folders, tmp_path, checkpoint):
    train(folders, range(1, 21))
    again = [tmp_path / "ccc", tmp_path / "ddd"]
    with pytest.raises(KeyboardInterrupt):
        train(again, range(1, 21), stop_at=13)
    train(again, range(checkpoint + 1, 21), resume=checkpoint)
    assert files(again) == files(folders)


def test_killed_in_the_middle_of_a_line_and_resumed(folders, tmp_path):
    train(folders, range(1, 21))
    again = [tmp_path / "ccc", tmp_path / "ddd"]
    train(again, range(1, 14))
    for path in (folder / "metrics.jsonl" for folder in again):
        path.write_bytes(path.read_bytes()[:-9])
        assert read_metrics(path)[-1]["step"] == 12  # the torn line of step 13 is left out
    train(again, range(11, 21), resume=10)
    assert files(again) == files(folders)


def test_a_killed_process_loses_nothing_it_logged(folders):
    """Each line is with the operating system as soon as it is logged."""
    with Tracker(folders[:1], LABELS[:1], 9, interactive=False) as tracker:
        for step in range(1, 8):
            tracker.log(0, step, "train", loss=1.0)
            assert read_metrics(folders[0] / "metrics.jsonl")[-1]["step"] == step


def test_a_fresh_start_replaces_an_older_file_but_not_before_its_first_line(folders):
    train(folders, range(1, 6))
    before = files(folders)
    with Tracker(folders, LABELS, 20, interactive=False):
        pass
    assert files(folders) == before
    train(folders, range(1, 3))
    assert [line["step"] for line in read_metrics(folders[0] / "metrics.jsonl")] == [1, 2]


def test_truncation_is_atomic(folders, monkeypatch):
    train(folders, range(1, 6))
    before = files(folders)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="Input/output error"):
        Tracker(folders, LABELS, 20, interactive=False).resume_at(2)
    assert files(folders) == before


def test_values_that_are_not_finite_come_back_here_and_in_pandas(folders):
    with Tracker(folders[:1], LABELS[:1], 5, interactive=False) as tracker:
        tracker.log(0, 1, "train", loss=math.nan, norm=np.float32("-inf"), by={"a": [0.0, math.inf]})
    path = folders[0] / "metrics.jsonl"
    assert path.read_text() == (
        '{"step": 1, "kind": "train", "loss": NaN, "norm": -Infinity, "by": {"a": [0.0, Infinity]}}\n'
    )
    (line,) = read_metrics(path)
    assert math.isnan(line["loss"])
    assert line["norm"] == -math.inf
    assert line["by"] == {"a": [0.0, math.inf]}
    (row,) = pd.read_json(path, lines=True).to_dict("records")
    assert math.isnan(row["loss"])
    assert row["norm"] == -math.inf


def test_a_damaged_line_is_named(folders):
    train(folders[:1], range(1, 4))
    path = folders[0] / "metrics.jsonl"
    lines = path.read_text().splitlines()
    for damage in ["{not json", "[1]", '{"kind": "train"}', '{"step": "2"}']:
        path.write_text("\n".join([lines[0], damage, lines[2], ""]))
        with pytest.raises(UserError, match=re.escape(f"{path}:2")):
            read_metrics(path)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be read \(No such file"):
        read_metrics(folders[1] / "metrics.jsonl")


def test_full_disk_is_one_sentence(folders):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folders[0].mkdir()
    (folders[0] / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left.*paths\.runs"):
        train(folders[:1], range(1, 3))


def test_quiet_output_is_a_line_at_each_end_and_one_an_evaluation(folders, capsys):
    train(folders, range(1, 21))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2 + 4
    assert lines[0] == "training 2 runs as one pack (seed 0, seed 1): 20 steps"
    assert lines[1].startswith("step 5 of 20: select.accuracy 0.5 0.6")
    assert re.fullmatch(r"finished at step 20 of 20 after 0:\d\d; loss 0\.05", lines[-1])
    assert "\x1b" not in err
    assert "\r" not in err
    assert [line[21:] for line in (folders[1] / "log.txt").read_text().splitlines()] == lines


def test_a_replica_that_diverged_is_not_waited_for(folders, capsys):
    with Tracker(folders, LABELS, 20, interactive=False) as tracker:
        tracker.log(0, 5, "eval", accuracy=0.5)
        assert "step 5" not in capsys.readouterr().err
        tracker.progress(5)
        assert capsys.readouterr().err == "step 5 of 20: accuracy 0.5\n"


def test_what_a_method_does_not_have_is_not_shown_and_what_is_not_finite_is(folders, capsys):
    with Tracker(folders, LABELS, 20, interactive=False) as tracker:
        for replica, loss in enumerate((math.nan, -math.inf)):
            tracker.log(replica, 5, "eval", select={"accuracy": 0.5, "f1": math.nan}, live_ranks=None, loss=loss)
            assert read_metrics(folders[replica] / "metrics.jsonl")[-1]["live_ranks"] is None
        shown = capsys.readouterr().err.splitlines()[-1]
        assert shown == "step 5 of 20: select.accuracy 0.5 0.5; select.f1 nan nan; loss nan -inf"


def test_the_bar_shows_text_steps_and_eta(folders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with Tracker(folders, LABELS, 20, interactive=True) as tracker:
        tracker.progress(7, summary(loss=[0.25, math.nan], live_ranks=[400, 410]))
        tracker.print("a line above the bar")
    err = capsys.readouterr().err
    for words in [
        "7/20",
        "loss 0.25  live ranks 405",
        "ETA",
        "a line above the bar",
        "finished at step 7 of 20",
    ]:
        assert words in err


def test_a_log_that_is_quiet_for_long_says_how_far_it_is(folders, capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", -1.0)
    with Tracker(folders, LABELS, 20) as tracker:
        tracker.progress(5, "loss 0.5")
    assert re.search(r"^step 5 of 20: [\d.e-]+ s a step, about \d+ min left$", capsys.readouterr().err, re.MULTILINE)


class Remote:
    """A logger outside the run folders that notes what it is given, and fails when it is told to ``break_at``."""

    def __init__(self, break_at=()):
        self.calls, self.break_at = [], break_at

    def _note(self, name, *values):
        self.calls.append((name, *values))
        if name in self.break_at:
            raise ConnectionError("no route")

    def log(self, replica, line):
        self._note("log", replica, line["step"], line["loss"])

    def summarize(self, replica, values):
        self._note("summarize", replica, values)

    def close(self):
        self._note("close")


def test_a_remote_logger_gets_the_history_again_and_is_closed_after_an_exception(folders, capsys):
    with Tracker(folders, LABELS, 20, interactive=False) as tracker:
        for step in (1, 2, 3):
            tracker.log(1, step, "train", loss=1 / step)
    remote = Remote()

    def fail():
        with Tracker(folders, LABELS, 20, interactive=False, remotes=[remote]) as tracker:
            tracker.resume_at(2)
            tracker.log(1, 3, "train", loss=0.25)
            tracker.progress(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert remote.calls == [("log", 1, 1, 1.0), ("log", 1, 2, 0.5), ("log", 1, 3, 0.25), ("close",)]
    err = capsys.readouterr().err
    assert "steps 3 to 20" in err
    assert "stopped by ZeroDivisionError at step 3 of 20" in err


def test_a_remote_logger_that_fails_is_dropped_with_one_line(folders, capsys):
    remote = Remote(break_at=("log", "close"))
    with Tracker(folders, LABELS, 20, interactive=False, remotes=[remote]) as tracker:
        tracker.log(0, 1, "train", loss=1.0)
        assert remote.calls[-1] == ("close",), "what it holds must not wait for the end of the training"
        tracker.log(0, 2, "train", loss=0.5)
        tracker.summarize(0, status="ok")
    assert [call[0] for call in remote.calls] == ["log", "close"]
    assert len(read_metrics(folders[0] / "metrics.jsonl")) == 2
    assert capsys.readouterr().err.count("Remote.log failed (no route); the training goes on without it") == 1


def test_summary_skips_what_is_not_finite():
    assert summary(loss=[1.0, math.nan, 3.0], f1=[0.123456]) == "loss 2  f1 0.1235"
    assert summary(loss=[math.inf]) == "loss nan"
