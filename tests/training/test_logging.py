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
from sora.training.logging import Tracker, columns, progress, read_metrics, summary

LABELS = ["seed 0", "seed 1"]


@pytest.fixture
def folders(tmp_path):
    return [tmp_path / "aaa", tmp_path / "bbb"]


def tracker_of(folders, **options):
    return Tracker(folders, LABELS[: len(folders)], 20, **({"interactive": False} | options))


def train(folders, steps, *, resume=None, stop_at=None):
    """A loop as the real one: a train line each step, an evaluation every fifth."""
    with tracker_of(folders) as tracker:
        if resume is not None:
            tracker.resume_at(resume)
        for step in steps:
            for replica in range(len(folders)):
                tracker.log(replica, step, "train", loss=1.0 / (step + replica), lr=np.float32(0.1))
                if step % 5 == 0:
                    tracker.log(replica, step, "eval", select={"accuracy": 0.5 + replica / 10}, ranks=[8, step])
                assert read_metrics(folders[replica] / "metrics.jsonl")[-1]["step"] == step  # with the system at once
            tracker.progress(step, summary({"loss": [1.0 / step]}))
            if step == stop_at:
                raise KeyboardInterrupt


def files(folders):
    return [(folder / "metrics.jsonl").read_bytes() for folder in folders]


@pytest.mark.parametrize(("checkpoint", "torn"), [(4, 0), (5, 0), (10, 9)])
def test_stopped_and_resumed_leaves_the_uninterrupted_file(folders, tmp_path, checkpoint, torn):
    """Also where a kill cut the last line short."""
    train(folders, range(1, 21))
    again = [tmp_path / "ccc", tmp_path / "ddd"]
    with pytest.raises(KeyboardInterrupt):
        train(again, range(1, 21), stop_at=13)
    for path in (folder / "metrics.jsonl" for folder in again):
        path.write_bytes(path.read_bytes()[: -torn or None])
        assert read_metrics(path)[-1]["step"] == (12 if torn else 13)
    train(again, range(checkpoint + 1, 21), resume=checkpoint)
    assert files(again) == files(folders)


def test_a_fresh_start_replaces_an_older_file_but_not_before_its_first_line(folders):
    train(folders, range(1, 6))
    before = files(folders)
    with tracker_of(folders):
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
        tracker_of(folders).resume_at(2)
    assert files(folders) == before


def test_values_that_are_not_finite_come_back_here_and_in_pandas(folders):
    with tracker_of(folders[:1]) as tracker:
        tracker.log(0, 1, "train", loss=math.nan, norm=np.float32("-inf"), by={"a": [0.0, math.inf]}, none=None)
    path = folders[0] / "metrics.jsonl"
    assert path.read_text() == (
        '{"step": 1, "kind": "train", "loss": NaN, "norm": -Infinity, "by": {"a": [0.0, Infinity]}, "none": null}\n'
    )
    (row,) = pd.read_json(path, lines=True).to_dict("records")
    for line in (*read_metrics(path), row):
        assert math.isnan(line["loss"])
        assert (line["norm"], line["by"]) == (-math.inf, {"a": [0.0, math.inf]})


def test_without_its_file_a_run_goes_on(folders):
    """What the sentence about a damaged one advises: no checkpoint is lost for lines of a log."""
    train(folders, range(1, 6))
    (folders[0] / "metrics.jsonl").unlink()
    train(folders, range(4, 8), resume=3)
    steps = [{line["step"] for line in read_metrics(folder / "metrics.jsonl")} for folder in folders]
    assert steps == [{4, 5, 6, 7}, {1, 2, 3, 4, 5, 6, 7}]


def test_a_file_that_cannot_be_read_or_written_is_one_sentence(folders):
    train(folders[:1], range(1, 4))
    path = folders[0] / "metrics.jsonl"
    first, _, *rest = path.read_bytes().splitlines(keepends=True)
    for damage in (b"{not json\n", b"\xff\n", b"[1]\n", b'{"kind": "train"}\n', b'{"step": 2}\n'):
        path.write_bytes(b"".join([first, damage, *rest]))
        with pytest.raises(UserError, match=rf"{re.escape(str(path))}:2: is no line .*; restore the file, or move it"):
            read_metrics(path)
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left.*paths\.runs"):
        train(folders[:1], range(1, 3))


def test_quiet_output_is_a_line_at_each_end(folders, capsys):
    train(folders, range(1, 21))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "training 2 runs as one pack (seed 0, seed 1): 20 steps"
    assert re.fullmatch(r"finished at step 20 of 20 after 0:\d\d; loss 0\.05", lines[1])
    assert len(lines) == 2
    assert "\x1b" not in err
    assert "\r" not in err
    assert [line[21:] for line in (folders[1] / "log.txt").read_text().splitlines()] == lines


def test_the_bar_shows_text_steps_and_eta(folders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with tracker_of(folders, interactive=True) as tracker:
        tracker.progress(7, summary({"loss": [0.25, math.nan], "live_ranks": [400, 410]}))
        tracker.print("a line above the bar")
    err = capsys.readouterr().err
    for words in ["7/20", "loss 0.25; live ranks 405", "ETA", "a line above the bar", "finished at step 7 of 20"]:
        assert words in err


def test_a_log_that_is_quiet_for_long_says_how_far_it_is(folders, capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", -1.0)
    with tracker_of(folders) as tracker:
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
    with tracker_of(folders) as tracker:
        for step in (1, 2, 3):
            tracker.log(1, step, "train", loss=1 / step)
    remote = Remote()

    def fail():
        with tracker_of(folders, remotes=[remote]) as tracker:
            tracker.resume_at(2)
            tracker.log(1, 3, "train", loss=np.float64(0.25))
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
    with tracker_of(folders, remotes=[remote]) as tracker:
        tracker.log(0, 1, "train", loss=1.0)
        assert remote.calls[-1] == ("close",), "what it holds must not wait for the end of the training"
        tracker.log(0, 2, "train", loss=0.5)
        tracker.summarize(0, status="ok")
    assert [call[0] for call in remote.calls] == ["log", "close"]
    assert len(read_metrics(folders[0] / "metrics.jsonl")) == 2
    assert capsys.readouterr().err.count("Remote.log failed (no route); the training goes on without it") == 1


def test_numbers_in_short():
    assert columns({"f1": [0.123456, math.nan], "live_ranks": [48, 51]}) == "f1 0.1235 nan; live ranks 48 51"
    assert summary({"loss": [1.0, math.nan, 3.0], "f1": [math.inf]}) == "loss 2; f1 nan"
