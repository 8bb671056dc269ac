"""Which runs, splits, families and streams enter the tables: from records to the files, by hand, number by number.

Nothing here knows how tables are made. Every expectation is computed from the answers that the test itself gave.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tests.experiments import made
from tests.experiments.answered import Answered, Right, built, page, row, share, study

ITEMS = 100
RATE = "trainer.learning_rate"


def shuffled(right: int, items: int, seed: int) -> Right:
    """``right`` of ``items`` answers are right, scattered."""
    return np.random.default_rng(seed).permutation(items) < right


def points(value: str) -> float:
    return float(value)


# -- which setting stands --------------------------------------------------------------------------------------

DISAGREE = {1e-4: (90, 60), 8e-4: (70, 80), 3e-3: (50, 99)}  # rate -> right on select, right on report


def disagreeing(results: Path, name: str, missing: Sequence[dict[str, object]] = ()) -> None:
    """Three rates of LoRA, of which select prefers the first and report the last."""
    runs = [
        Answered({"method": "lora", "task": "rte", RATE: rate, "seed": seed}, share(r - seed, ITEMS), share(s, ITEMS))
        for (rate, (s, r)), seed in product(DISAGREE.items(), (0, 1))
    ]
    study(results, name, runs, missing)


def test_the_main_table_takes_the_setting_that_is_best_on_select(tmp_path: Path) -> None:
    disagreeing(tmp_path, "main_table")
    found = built(tmp_path)
    assert points(row(found["main_table"], method="LoRA")["score"]) == pytest.approx(59.5)
    details = row(found["details"], method="LoRA", metric="RTE acc.")
    assert points(details["peak learning rate"]) == 1e-4
    assert points(details["trials in this study"]) == 3
    assert points(details["select - report"]) == pytest.approx(90 - 59.5)


def test_the_learning_rate_is_chosen_on_select_and_shown_on_report(tmp_path: Path) -> None:
    """Of rates that are whole: a fourth one has no run yet."""
    lacking = [{"method": "lora", "task": "rte", RATE: 9e-3, "seed": 0}]
    disagreeing(tmp_path, "learning_rate", lacking)
    found = built(tmp_path)
    best = row(found["best"], method="LoRA")
    assert [points(best[name]) for name in ("best", "select", "report")] == pytest.approx([1e-4, 90, 59.5])
    assert (best["learning rates"], best["learning rates of"]) == ("3", "4")
    assert best["remark"] == "at the edge of the grid"
    there = [each for each in found["learning_rate"] if each["RTE acc."]]
    grid = {points(each["learning rate"]): points(each["RTE acc."]) for each in there}
    assert grid == pytest.approx({rate: report - 0.5 for rate, (_, report) in DISAGREE.items()})


def test_every_rank_has_its_own_choice(tmp_path: Path) -> None:
    runs = [
        Answered(
            {"method": "sora", "method.r": r, "task": "rte", RATE: rate, "seed": 0},
            share(report, ITEMS),
            share(s, ITEMS),
        )
        for r, rate, s, report in [(4, 1e-4, 80, 60), (4, 8e-4, 70, 90), (8, 1e-4, 70, 91), (8, 8e-4, 80, 61)]
    ]
    study(tmp_path, "rank_budget", runs)
    found = {points(each["r"]): points(each["RTE acc."]) for each in built(tmp_path)["rank_budget"]}
    assert found == pytest.approx({4: 60, 8: 61})


# -- averages and coverage -------------------------------------------------------------------------------------


def test_an_average_stays_empty_where_a_task_is_missing(tmp_path: Path) -> None:
    """LoRA was never planned on SST-2 at r = 2, SoRA was and has no run: neither has an average, LoRA at r = 4 has."""
    there = {("lora", 4, "rte"): 60, ("lora", 4, "sst2"): 80, ("lora", 2, "rte"): 99, ("sora", 4, "rte"): 99}
    runs = [
        Answered({"method": m, "method.r": r, "task": task, "seed": seed}, share(right + seed, ITEMS), share(50, ITEMS))
        for (m, r, task), right in there.items()
        for seed in (0, 1)
    ]
    lacking = [{"method": "sora", "method.r": 4, "task": "sst2", "seed": seed} for seed in (0, 1)]
    study(tmp_path, "rank_budget", runs, lacking)
    found = {(each["method"], points(each["r"])): each for each in built(tmp_path)["rank_budget"]}
    assert points(found["LoRA", 4]["average"]) == pytest.approx((60.5 + 80.5) / 2)
    for place in (("LoRA", 2), ("SoRA", 4)):
        assert (found[place]["average"], found[place]["SST-2 acc."]) == ("", "")
        assert points(found[place]["RTE acc."]) == pytest.approx(99.5)
    assert [found[place]["SST-2 acc. of"] for place in (("SoRA", 4), ("LoRA", 2))] == ["2", ""]


def test_missing_diverged_and_one_class_runs_are_counted_in_their_row(tmp_path: Path) -> None:
    axes = {"method": "lora", "task": "rte"}
    runs = [Answered(axes | {"seed": seed}, share(60 + 4 * seed, ITEMS), share(50, ITEMS)) for seed in (0, 1, 2)]
    study(tmp_path, "main_table", runs, [axes | {"seed": 3}])
    flags = {0: {"one_class": True}, 1: {"one_class": True}, 2: {"diverged_at": 7}}

    def flag(record: dict[str, Any]) -> None:
        record["flags"] |= flags[record["config"]["seed"]]
        record["status"] = "ok" if record["flags"]["diverged_at"] is None else "diverged"

    made.change(tmp_path, flag)
    line = row(built(tmp_path)["main_table"], method="LoRA")
    assert [points(line[name]) for name in ("score", "n", "n of")] == pytest.approx([64, 3, 4])
    assert points(line["score sd"]) == pytest.approx(np.std([60, 64, 68]), abs=1e-6)
    assert (line["score one_class"], line["score diverged"]) == ("2", "1")
    for words in ("64.00 ± 3.27 |", "3/4 |", "| 1 diverged, 2 one-class", "python run.py method=lora task=rte seed=3"):
        assert words in page(tmp_path)


def test_a_rank_that_misses_a_seed_is_compared_over_the_others(tmp_path: Path) -> None:
    """SoRA at r = 8 has no seed 2; beside it LoRA at as many live parameters."""
    right = {("lora", 4): 60, ("lora", 8): 64, ("sora", 4): 62, ("sora", 8): 70}
    places = [{"method": m, "method.r": r, "task": "rte", "seed": s} for (m, r) in right for s in (0, 1, 2)]
    lacking = {"method": "sora", "method.r": 8, "task": "rte", "seed": 2}
    runs = []
    for axes in (place for place in places if place != lacking):
        count = right[axes["method"], axes["method.r"]] + (3 * axes["seed"] if axes["method"] == "sora" else 0)
        runs.append(Answered(axes, share(count, ITEMS), share(50, ITEMS), live=1000 * axes["method.r"]))
    study(tmp_path, "rank_budget", runs, [lacking])
    found = built(tmp_path)
    cells = {(each["method"], points(each["r"])): each for each in found["rank_budget"]}
    assert cells["SoRA", 8.0]["RTE acc. n"] == "2"
    (iso,) = [each for each in found["iso_parameter"] if (each["method"], points(each["r"])) == ("SoRA", 8)]
    assert points(iso["score"]) == pytest.approx(np.mean([70, 73]))
    assert points(iso["difference"]) == pytest.approx(71.5 - 64)


# -- comparisons: streams, intervals, families -----------------------------------------------------------------

TASKS = ("rte", "sst2")
LABELS = {"rte": "RTE acc.", "sst2": "SST-2 acc."}


def compared(results: Path, seeds: dict[str, list[int]], methods: dict[str, int], items: int = ITEMS) -> dict:
    """Runs of ``methods`` (right answers of ``items``) on two tasks; returns (method, task) -> answers [S, N]."""
    answers, runs = {}, []
    for (method, right), task in product(methods.items(), TASKS):
        mine = []
        for seed in seeds[task]:
            count = right + 5 * (task == "sst2") + 2 * (seed * right % 7)  # seeds differ, and not alike in two methods
            mine.append(shuffled(count, items, 100 * seed + 10 * len(task) + len(method) + right))
        answers[method, task] = np.array(mine)
        for seed, each in zip(seeds[task], mine, strict=True):
            axes = {"method": method, "task": task, "seed": seed}
            runs.append(Answered(axes, each, share(items // 2, items)))
    study(results, "main_table", runs)
    return answers


def bootstrapped(gaps: np.ndarray, task: str, stream: int = 0) -> np.ndarray:
    """[B] mean gaps in points over resampled items and seeds; ``gaps`` [S, N] are differences of single answers.

    Generators: items [crc32 of task and split, 0], the same for all runs of a task, and seeds [0, 1, number of seeds,
    stream], the same for all comparisons of one stream.
    """
    count, items = gaps.shape
    resamples = 10_000
    of_task = zlib.crc32(f"{task} report".encode())
    drawn_items = np.random.default_rng([of_task, 0]).integers(items, size=(resamples, items))
    drawn_seeds = np.random.default_rng([0, 1, count, stream]).integers(count, size=(resamples, count))
    by_seed = np.stack([gaps[seed][drawn_items].mean(axis=1) for seed in range(count)], axis=1)
    return 100 * np.take_along_axis(by_seed, drawn_seeds, axis=1).mean(axis=1)


def p_of(draws: np.ndarray) -> float:
    draws = np.where(np.abs(draws) < 1e-9, 0, draws)
    return float(min(1.0, 2 * (1 + min((draws <= 0).sum(), (draws >= 0).sum())) / (len(draws) + 1)))


def gap(answers: dict, method: str, baseline: str, task: str) -> np.ndarray:
    return answers[method, task].astype(float) - answers[baseline, task]


def matches(line: dict[str, str], draws: np.ndarray, mean: float) -> None:
    """The row has that mean, the percentile interval of the draws, and their p (single precision: a draw may tip)."""
    assert points(line["difference"]) == pytest.approx(mean, abs=2e-6)
    interval = points(line["bootstrap interval"]), points(line["bootstrap interval high"])
    assert interval == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-4)
    assert points(line["p"]) == pytest.approx(p_of(draws), abs=4.1e-4)


@pytest.mark.parametrize("seeds", [{"rte": [0, 1, 2], "sst2": [0, 1, 2]}, {"rte": [0, 1, 2], "sst2": [5, 6, 7]}])
def test_seeds_that_tasks_share_are_drawn_together_and_others_apart(tmp_path: Path, seeds: dict) -> None:
    answers = compared(tmp_path, seeds, {"lora": 70, "sora": 74})
    apart = seeds["rte"] != seeds["sst2"]
    found = built(tmp_path)["comparisons"]
    gaps = [gap(answers, "sora", "lora", task) for task in TASKS]
    draws = [bootstrapped(each, TASKS[index], index if apart else 0) for index, each in enumerate(gaps)]
    for task, each, mine in zip(TASKS, gaps, draws, strict=True):
        matches(row(found, baseline="LoRA", method="SoRA", metric=LABELS[task]), mine, 100 * each.mean())
    line = row(found, baseline="LoRA", method="SoRA", metric="average")
    matches(line, np.mean(draws, axis=0), 100 * np.mean([each.mean() for each in gaps]))
    same_places = [bootstrapped(each, TASKS[0], index if apart else 0) for index, each in enumerate(gaps)]
    assert np.std(np.mean(draws, axis=0)) != pytest.approx(np.std(np.mean(same_places, axis=0)), rel=0.01)
    by_seed = [100 * each.mean(axis=1) for each in gaps]
    if apart:
        test = scipy_stats.ttest_ind(by_seed[0] / 2, -by_seed[1] / 2, equal_var=False)
    else:
        test = scipy_stats.ttest_1samp(np.mean(by_seed, axis=0), 0)
    interval = points(line["t interval"]), points(line["t interval high"])
    assert interval == pytest.approx(tuple(test.confidence_interval()), abs=2e-6)
    if apart:  # the streams matter: drawn together, the intervals would be others
        alike = [bootstrapped(*each) for each in zip(gaps, TASKS, strict=True)]
        together = np.quantile(np.mean(alike, axis=0), [0.025, 0.975])
        assert np.abs(together - np.quantile(np.mean(draws, axis=0), [0.025, 0.975])).max() > 0.05


def test_an_average_of_tasks_with_some_common_seeds_is_over_those(tmp_path: Path) -> None:
    seeds = {"rte": [0, 1, 2, 3], "sst2": [1, 2, 3, 9]}
    answers = compared(tmp_path, seeds, {"lora": 70, "sora": 74})
    line = row(built(tmp_path)["comparisons"], baseline="LoRA", method="SoRA", metric="average")
    gaps = [gap(answers, "sora", "lora", "rte")[1:], gap(answers, "sora", "lora", "sst2")[:3]]
    drawn = [bootstrapped(each, task) for each, task in zip(gaps, TASKS, strict=True)]
    matches(line, np.mean(drawn, axis=0), 100 * np.mean(gaps))
    low, high = scipy_stats.ttest_1samp(100 * np.mean([g.mean(axis=1) for g in gaps], axis=0), 0).confidence_interval()
    assert (points(line["t interval"]), points(line["t interval high"])) == pytest.approx((low, high), abs=2e-6)
    assert points(line["seeds"]) == 3


def holm(p: list[float]) -> list[float]:
    """By hand: the i-th smallest of m times m - i, never below the one before."""
    order, least, adjusted = sorted(range(len(p)), key=lambda i: p[i]), 0.0, [0.0] * len(p)
    for place, index in enumerate(order):
        least = max(least, (len(p) - place) * p[index])
        adjusted[index] = min(1.0, least)
    return adjusted


def test_tasks_and_averages_against_each_baseline_are_families_of_their_own(tmp_path: Path) -> None:
    """Three methods against LoRA and three against fine-tuning: 6 tests on tasks and 3 on averages, each twice."""
    seeds = {task: [0, 1, 2] for task in TASKS}
    compared(tmp_path, seeds, {"full": 228, "lora": 250, "sora": 276, "bitfit": 298}, items=400)
    found = built(tmp_path)["comparisons"]
    assert len(found) == 18
    families = [
        [each for each in found if each["baseline"] == baseline and (each["metric"] == "average") == averages]
        for baseline in ("LoRA", "Fine-tuning")
        for averages in (False, True)
    ]
    assert [len(family) for family in families] == [6, 3, 6, 3]
    everything = holm([points(each["p"]) for each in found])
    other = dict(zip(map(id, found), everything, strict=True))
    for family in families:
        p = [points(each["p"]) for each in family]
        assert len(family) * max(p) < 1, "nothing is capped"
        assert [points(each["p (Holm)"]) for each in family] == pytest.approx(holm(p), abs=6e-6)
        assert max(abs(other[id(each)] - points(each["p (Holm)"])) for each in family) > 1e-4, "one family is another"
