"""The comparisons that docs/study.md fixed, on records whose truth is known by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from experiments import bootstrap, primary
from experiments.primary import ENDS, FAILS, FAMILIES, HOLDS, OPEN, UNFINISHED
from experiments.stats import NONE
from experiments.study import Study
from tests.conftest import ROOT
from tests.experiments import answered, armed, made, reading
from tests.experiments.answered import Answered
from tests.experiments.armed import SEEDS, right


@pytest.fixture(autouse=True, scope="module")
def fewer_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "MOST", 2_000)
        yield


@pytest.mark.parametrize(
    ("seeds", "items", "bound", "verdict"),
    [
        ((-0.9, 1.0), (-0.8, 2.0), -1.0, HOLDS),
        ((-0.9, 1.0), (-1.1, 2.0), -1.0, OPEN),  # one interval is not enough
        ((-1.1, 1.0), (-0.8, 2.0), -1.0, OPEN),
        ((-1.0, 1.0), (-0.8, 2.0), -1.0, OPEN),  # on the margin is not above it
        ((-3.0, -1.1), (-2.0, -1.2), -1.0, FAILS),
        ((-3.0, -1.1), (-2.0, -1.0), -1.0, OPEN),
        ((0.1, 1.0), (0.1, 1.0), 0.0, HOLDS),
        ((-1.0, -0.1), (-1.0, -0.1), 0.0, FAILS),
        ((-1.0, 0.1), (0.1, 0.2), 0.0, OPEN),
        ((0.1, 1.0), NONE, 0.0, OPEN),  # no items: one of the two is missing
        (NONE, (0.1, 1.0), 0.0, OPEN),  # one seed
    ],
)
def test_both_intervals_decide(
    seeds: tuple[float, float], items: tuple[float, float], bound: float, verdict: str
) -> None:
    row = dict(zip(ENDS, (*seeds, *items), strict=True)) | {"margin": -bound or math.nan, "comparison": "c", "p": 0.5}
    row |= {"seeds": 6, "planned": 6}
    assert list(primary.judged(pd.DataFrame([row, row | {"seeds": 5}]))["verdict"]) == [verdict, UNFINISHED]


def test_p_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), two degrees of freedom, whose t has a closed form."""

    def tail(t: float) -> float:
        return 0.5 - t / (2 * math.sqrt(2 + t * t))

    above_margin = 3 * math.sqrt(3)
    assert primary.p_value([1, 2, 3], -1.0, one_sided=True) == pytest.approx(tail(above_margin))
    assert primary.p_value([1, 2, 3], 0.0, one_sided=False) == pytest.approx(2 * tail(2 * math.sqrt(3)))
    assert math.isnan(primary.p_value([1, 1, 1], 0.0, one_sided=False)), "no spread, no t"
    assert math.isnan(primary.p_value([1], 0.0, one_sided=False))
    assert math.isnan(primary.p_value([1, math.nan], 0.0, one_sided=False))


def test_holm_is_over_the_tasks_of_one_comparison() -> None:
    rows = pd.DataFrame({"comparison": [*"aaaab"], "p": [0.01, 0.04, math.nan, 0.03, 0.02]})
    found = primary.judged(rows.assign(margin=math.nan, seeds=6, planned=6, **dict.fromkeys(ENDS, math.nan)))
    assert list(found["p (Holm)"]) == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    early = primary.judged(
        pd.DataFrame({"comparison": "a", "p": [0.02, math.nan], "seeds": 6, "planned": [6, 9]}).assign(
            margin=math.nan, **dict.fromkeys(ENDS, math.nan)
        )
    )
    assert list(early["p (Holm)"]) == pytest.approx([0.04, math.nan], nan_ok=True), "an unfinished task will count"


def test_margins_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    stated = re.search(r"Margins: ([\d.]+) \(accuracy\), ([\d.]+) \(Pearson x 100\), ([\d.]+) \(Matthews x 100\)", page)
    assert stated is not None
    names = "accuracy", "pearson", "matthews"
    assert dict(zip(names, map(float, stated.groups()), strict=True)) == primary.MARGINS


def test_seeds_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    stated = re.search(r"^\| LoRA r = 8, SoRA-best, SoRA-small \| ([\d, ]+) \|$", page, re.MULTILINE)
    assert stated is not None
    assert tuple(map(int, stated[1].split(","))) == primary.SEEDS
    assert "on mpnet-base with LoRA r = 8, SoRA-small and LoRA of equal size\n(three seeds)" in page


@pytest.mark.parametrize("seeds", [primary.SEEDS, primary.SEEDS[:3]])
def test_a_verdict_on_fewer_seeds_than_the_page_fixed_says_so(seeds: tuple[int, ...], tmp_path: Path) -> None:
    armed.arm(tmp_path, "lora_r8", {seed: right(300) for seed in seeds})
    armed.arm(tmp_path, "sora_small", {seed: right(304 + n) for n, seed in enumerate(seeds)})
    study, words = reading.study(tmp_path), "Not on all seeds that docs/study.md fixed: SST-2 acc."
    table = primary.table(study)
    assert table is not None
    assert list(table.data["verdict"]) == [HOLDS]
    assert primary.headline(study).endswith(words) == (words in table.notes) == (len(seeds) < 6)
    armed.arm(tmp_path, "lora_equal", {seed: right(300) for seed in seeds[:2]})
    armed.arm(tmp_path, "sora_small", {2: right(300)})
    assert set(primary.tests(reading.study(tmp_path))["verdict"]) == {UNFINISHED}
    assert "docs/study.md" not in primary.headline(reading.study(tmp_path)), "no verdict, nothing to say"


def test_three_seeds_are_all_that_the_page_fixed_on_another_backbone(tmp_path: Path) -> None:
    for name, counts in (("lora_r8", (300, 300, 300)), ("sora_small", (304, 308, 312))):
        rights = dict(zip(SEEDS, map(right, counts), strict=True))
        armed.arm(tmp_path, name, rights, fixed={"backbone": "mpnet-base"})
    made.change(tmp_path, lambda record: record["config"]["backbone"].update(name="mpnet-base"))
    words = primary.headline(reading.study(tmp_path))
    assert "is not inferior to LoRA r = 8" in words
    assert "Not on all seeds" not in words


def test_a_difference_by_hand(tmp_path: Path) -> None:
    """400 answers, so one is a quarter of a point: SoRA-small gains 4, 8 and 12 of them."""
    armed.arm(tmp_path, "lora_r8", {seed: right(300) for seed in SEEDS}, live=400_000)
    armed.arm(tmp_path, "sora_small", dict(zip(SEEDS, map(right, (304, 308, 312)), strict=True)), live=100_000)
    (test,) = of_study(tmp_path)
    assert test["other"] == "lora_r8"
    assert test["values"] == pytest.approx((1.0, 2.0, 3.0))
    half = 4.302653 / math.sqrt(3)
    assert (test["t interval"], test["t interval high"]) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert (test["margin"], test["share"]) == (1.0, 25.0)
    # Items: each of the additional ones is in a resample or not; about sqrt(p (1 - p) / 400) around the mean.
    assert 0.3 < test["bootstrap interval"] < 1.0
    assert 3.0 < test["bootstrap interval high"] < 4.0
    assert test["verdict"] == HOLDS, "-0.48 and 0.6 are above -1"
    armed.arm(tmp_path, "lora_equal", {seed: right(300) for seed in SEEDS})
    better = of_study(tmp_path)[1]
    assert better["values"] == pytest.approx((1.0, 2.0, 3.0))
    assert better["verdict"] == OPEN, "-0.48 is not above 0"
    power = TTestPower().solve_power(nobs=3, alpha=0.05, power=0.8)  # in units of the SD, which is 1 here
    assert better["smallest gap"] == pytest.approx(power, rel=1e-3)
    armed.arm(tmp_path, "lora_permuted", {seed: right(200) for seed in SEEDS[:2]})
    early = of_study(tmp_path)[2]
    assert (early["seeds"], early["planned"], early["verdict"]) == (2, 3, UNFINISHED)
    assert math.isnan(early["p"])


def of_study(results: Path) -> list[dict[str, Any]]:
    """The tests of the only study, a row each."""
    return primary.tests(reading.study(results)).to_dict("records")


def test_seeds_that_agree_do_not_decide_for_the_items(tmp_path: Path) -> None:
    """Half a point more in every seed, 42 answers against 40 others: the seeds give no interval, the items do."""
    for name, start in (("lora_r8", 0), ("lora_equal", 0), ("sora_small", 40)):
        armed.arm(tmp_path, name, {seed: right(302 if start else 300, start=start) for seed in SEEDS})
    found = {test["other"]: test for test in of_study(tmp_path)}
    equal = found["lora_equal"]
    assert equal["difference"] == pytest.approx(0.5)
    assert all(math.isnan(equal[name]) for name in (*ENDS[:2], "p", "smallest gap"))
    assert equal["bootstrap interval"] < 0 < equal["bootstrap interval high"]
    assert (equal["verdict"], found["lora_r8"]["verdict"]) == (OPEN, OPEN)


def test_only_seeds_that_both_have(tmp_path: Path) -> None:
    armed.arm(tmp_path, "sora_small", {seed: right(300) for seed in (*SEEDS, 81)})
    armed.arm(tmp_path, "lora_permuted", {21: right(296), 42: right(292)})
    (test,) = of_study(tmp_path)
    assert test["values"] == pytest.approx((1.0, 2.0))


@pytest.fixture(scope="module")
def three_tasks(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """SST-2: everything holds. RTE: two comparisons fail. MRPC: nothing to tell."""
    results = tmp_path_factory.mktemp("three")
    gain = {"sst2": (240, 320, 240, 240), "rte": (320, 240, 320, 240), "mrpc": (300, 300, 300, 300)}
    for task, counts in gain.items():
        for name, count in zip(("lora_r8", "sora_small", "lora_equal", "lora_permuted"), counts, strict=True):
            shifts = (0, 2, 4) if name == "sora_small" else (0, 1, 2)  # no difference is the same in all seeds
            rights = {seed: right(count + shift) for seed, shift in zip(SEEDS, shifts, strict=True)}
            if task == "mrpc" and name != "sora_small":
                rights = {seed: right(count, start=start) for seed, start in zip(SEEDS, (0, 90, 180), strict=True)}
            armed.arm(results, name, rights, task=task, live=400_000 if name == "lora_r8" else 100_000)
    return reading.study(results)


def test_each_comparison_is_corrected_by_itself(three_tasks: Study) -> None:
    """Holm's p over its three tasks, by statsmodels; over all nine tests they would be larger."""
    found = primary.tests(three_tasks)
    for family in FAMILIES["arm"]:
        own = found[found["comparison"] == family.name]
        assert len(own) == 3
        assert list(own["p (Holm)"]) == pytest.approx(list(multipletests(own["p"], method="holm")[1]), abs=1e-12)
    everything = multipletests(found["p"], method="holm")[1]
    assert list(found["p (Holm)"]) != pytest.approx(list(everything), abs=1e-3)


def test_the_sentences_say_what_holds_fails_and_cannot_be_decided(three_tasks: Study) -> None:
    words = primary.headline(three_tasks)
    beginning = (
        "On SST-2 acc. SoRA-small, with 25 % of LoRA's live parameters, is not inferior to LoRA r = 8, better than a "
        "LoRA of equal size and better than its own pattern permuted; on RTE acc. it is worse than LoRA r = 8 by more "
        "than the margin and worse than a LoRA of equal size; on MRPC acc. three seeds cannot decide whether it is not "
        "inferior to LoRA r = 8 or better than a LoRA of equal size; on MRPC acc. and RTE acc. three seeds cannot "
        "decide whether it is better than its own pattern permuted. Either 95 % "
        "interval alone would have shown a difference of "
    )
    assert words.startswith(beginning)
    found = primary.tests(three_tasks)
    gaps = found[found["verdict"] == OPEN].groupby("task")["smallest gap"]
    low, high = gaps.get_group("MRPC acc.").agg(["min", "max"])
    (other,) = gaps.get_group("RTE acc.")
    assert low == pytest.approx(high, abs=0.01)
    assert words.removeprefix(beginning) == (
        f"{low:.1f} points on MRPC acc. and {other:.1f} points on RTE acc. in 80 % of cases. Not on all "
        "seeds that docs/study.md fixed: SST-2 acc., MRPC acc. and RTE acc."
    )


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (HOLDS, "On A and B {} is not inferior to LoRA r = 8, better than {} and better than {}."),
        (FAILS, "On A and B {} is worse than LoRA r = 8 by more than the margin, worse than {} and worse than {}."),
        (OPEN, "On A and B six seeds cannot decide whether {} is not inferior to LoRA r = 8, better than {} or better"),
        (UNFINISHED, "On A and B it is unfinished whether {} is not inferior to LoRA r = 8, better than {} or better"),
    ],
)
def test_where_all_comparisons_agree_it_is_said_once(
    verdict: str, words: str, three_tasks: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = primary.tests(three_tasks).query("task != 'RTE acc.'")
    share = found["task"].map({"SST-2 acc.": 61.6, "MRPC acc.": 73.4})
    task = found["task"].map({"SST-2 acc.": "A", "MRPC acc.": "B"})
    given = {"verdict": verdict, "task": task, "share": share, "seeds": 6, "short": False, "p (Holm)": 0.01}
    gaps = dict(zip((family.name for family in FAMILIES["arm"]), (1.3, 2.6, 1.9), strict=True))
    found = found.assign(**given, **{"smallest gap": found["comparison"].map(gaps)})
    monkeypatch.setattr(primary, "tests", lambda study: found)
    said = primary.headline(three_tasks)
    who = "SoRA-small, with 62 to 73 % of LoRA's live parameters,"
    assert said.startswith(words.format(who, "a LoRA of equal size", "its own pattern permuted"))
    assert said.count(" on ") == (2 if verdict == OPEN else 0), "the tasks at the beginning, and those of the gaps"
    gap = "would have shown a difference of 1.3 to 2.6 points on A and 1.3 to 2.6 points on B in 80 % of cases."
    assert said.endswith(gap) == (verdict == OPEN)


def test_an_advantage_that_does_not_outlive_holm_says_so(three_tasks: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = primary.tests(three_tasks).assign(**{"p (Holm)": 0.08})
    monkeypatch.setattr(primary, "tests", lambda study: weak)
    assert primary.headline(three_tasks).startswith("On SST-2 acc. (p = 0.08 after Holm) SoRA-small, with 25 %")
    monkeypatch.setattr(primary, "tests", lambda study: weak.assign(worse=weak["verdict"] == HOLDS))
    assert primary.headline(three_tasks).startswith("On SST-2 acc. (though worse) (p = 0.08 after Holm) SoRA-small")


def test_a_method_is_an_arm(tmp_path: Path) -> None:
    """SoRA's 76, 77 and 78 points against LoRA's 75, with a third of its parameters: not inferior by a margin of 1."""
    runs = [
        Answered({"method": method, "task": "sst2", "seed": seed}, right(count), right(count), live)
        for method, counts, live in (("lora", (300, 300, 300), 3000), ("sora", (304, 308, 312), 1000))
        for seed, count in zip(SEEDS, counts, strict=True)
    ]
    answered.study(tmp_path, "main_table", runs)
    study = reading.study(tmp_path)
    (test,) = of_study(tmp_path)
    assert (test["values"], test["share"]) == (pytest.approx((1, 2, 3)), pytest.approx(100 / 3))
    assert primary.headline(study) == (
        "On SST-2 acc. SoRA, with 33 % of LoRA's live parameters, is not inferior to LoRA (margins as in "
        "docs/study.md; not fixed beforehand for this sweep)."
    )
    table = primary.table(study)
    assert table is not None
    assert "not fixed beforehand for this sweep" in table.caption
    assert "before the first run" not in table.caption


def test_what_is_worse_within_the_margin_says_so(tmp_path: Path) -> None:
    """Both intervals above minus one point: below 0 as well it holds, but is worse."""
    for name in ("lora_r8", "sora_small"):
        armed.arm(tmp_path, name, {seed: right(300) for seed in SEEDS})
    (test,) = of_study(tmp_path)
    for highest, words in ((0.1, "holds"), (-0.1, "holds, but worse")):
        ends = dict(zip(ENDS, (-0.5, -0.4, -0.6, highest), strict=True))
        judged = primary.judged(pd.DataFrame([test | ends])).iloc[0]
        assert primary.verdict_text(judged) == words


def test_a_task_without_a_margin_is_named_once(tmp_path: Path) -> None:
    for name in ("lora_r8", "sora_small"):
        armed.arm(tmp_path, name, {seed: right(300) for seed in SEEDS})
    study = reading.study(tmp_path)
    for path in study.records:
        study.records[path]["config"]["task"]["metrics"] = ["f1"]
    study.runs["task.metrics"] = [("f1",)] * len(study.runs)
    study.runs["report.f1"] = 0.5
    assert primary.tests(study).empty
    assert primary.tests(study).empty
    assert study.problems == [f"{study.key}: no margin is fixed for SST-2 F1, so it is not tested"]
