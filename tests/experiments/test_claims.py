"""The paper's claims against made-up runs whose answer is known, number by number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments import bootstrap, claims
from experiments.stats import t_interval
from experiments.study import Study, load
from experiments.tables import EMPTY
from sora.runs import records
from tests.experiments import answered, armed, levelled, made
from tests.experiments.answered import Answered, share

SEEDS = [0, 1, 2]


def studies(results: Path) -> list[Study]:
    return load(results).studies


def every(results: Path) -> list[claims.Claim]:
    return [each for study in studies(results) for each in claims.claims(study)]


def of(results: Path, beginning: str) -> claims.Claim:
    (found,) = [each for each in every(results) if each.claim.startswith(beginning)]
    return found


@pytest.mark.parametrize(
    ("values", "towards", "bound", "verdict"),
    [
        ((1.0, 1.1, 0.9), 1, 0.0, "holds"),
        ((1.0, 1.1, 0.9), -1, 0.0, "fails"),
        ((1.0, -1.1, 0.9), 1, 0.0, "cannot be decided"),
        ((1.0, 1.1, 0.9), 1, 2.0, "fails"),
        ((1.0, 1.1, 0.9), -1, 2.0, "holds"),
        ((-1.0, -1.0, -1.0), -1, 0.0, "cannot be decided"),  # no spread, no interval
        ((1.0,), 1, 0.0, "cannot be decided"),
    ],
)
def test_the_interval_alone_decides(values: tuple[float, ...], towards: int, bound: float, verdict: str) -> None:
    assert claims.Claim("c", "p", "t", values, "", t_interval(values), towards, bound).verdict == verdict


def test_score_and_parameters_of_the_main_table(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": ["lora", "sora"], "task": ["stsb"], "seed": SEEDS}, items=400)
    scores: dict[tuple[str, int], float] = {}
    live: dict[tuple[str, int], int] = {}
    for path in (tmp_path / "records").rglob("*.json"):
        record = records.read(path)
        key = record["config"]["method"]["name"], record["config"]["seed"]
        scores[key] = 100 * record["metrics"]["selected"]["report"]["pearson"]
        live[key] = record["params"]["live"]
    higher = of(tmp_path, "SoRA scores higher than LoRA")
    assert higher.values == pytest.approx([scores["sora", seed] - scores["lora", seed] for seed in SEEDS])
    assert higher.paper == "+0.36 (Table 1)"  # 92.22 - 91.86
    student = t_interval(higher.values)
    assert higher.interval.low <= student.low <= student.high <= higher.interval.high
    fewer = of(tmp_path, "SoRA has fewer live parameters than LoRA")
    assert fewer.values == pytest.approx([100 * (live["sora", s] / live["lora", s] - 1) for s in SEEDS])
    assert fewer.verdict == "by construction"  # both have r = 8
    made.change(tmp_path, lambda record: record["config"]["method"].update(r=16), "sora")
    assert of(tmp_path, "SoRA has fewer live parameters than LoRA").verdict == "holds"
    made.change(tmp_path, lambda record: record["config"]["method"].update(r=8, targets=["query"]), "sora")
    assert of(tmp_path, "SoRA has fewer live parameters than LoRA").verdict == "holds", "other matrices, no comparison"


def test_what_was_fixed_beforehand_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its margin, Holm's p and the paper's number; each claim has the dependence of its own SoRA arm."""
    monkeypatch.setattr(bootstrap, "MOST", 2_000)
    kept, opposite = [8, 6, 2, 0], [0, 2, 6, 8]
    for name, start, counts, ranks in (
        ("lora_r8", 0, (300, 300, 300), None),
        ("lora_equal", 0, (300, 300), None),
        ("sora_small", 0, (304, 308, 312), (kept, kept)),
        ("sora_best", 0, (308, 312, 316), (kept, opposite)),
    ):
        rights = {seed: armed.right(count, start=start) for seed, count in zip(armed.SEEDS, counts, strict=False)}
        armed.arm(tmp_path, name, rights, live=300_000 if name == "lora_r8" else 200_000, ranks=ranks)
    found = every(tmp_path)
    assert [each.claim for each in found] == [
        "SoRA-small is not inferior to LoRA r = 8",
        "SoRA-small is better than LoRA of equal size",
        "SoRA-best scores higher than LoRA r = 8",
        "SoRA-best has fewer live parameters than LoRA r = 8",
        "SoRA-small has fewer live parameters than LoRA r = 8",
    ]
    first, second, best, *_ = found
    assert first.values == pytest.approx((1, 2, 3))
    assert (first.paper, second.paper) == ("+0.07 (Table 1)", "not in the paper")
    assert (first.bound, first.margin, first.fixed, best.fixed) == (-1, 1, True, False)
    assert first.holm == pytest.approx(0.5 - 3 * math.sqrt(3) / (2 * math.sqrt(2 + 27)))  # two degrees of freedom
    assert (first.verdict, second.verdict) == ("holds", "is unfinished")
    assert [each.dependence["data dependence"] for each in found] == pytest.approx([0, 0, 2, 2, 0])
    row = answered.row(answered.built(tmp_path, "main_table")["claims"], claim=first.claim)
    assert (row["margin"], row["fixed beforehand"], row["verdict"]) == ("1", "yes", "holds")
    assert "1 is unfinished" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_seed_that_diverged_before_its_first_score_leaves_a_dash(tmp_path: Path) -> None:
    for name in ("lora_r8", "sora_small"):
        armed.arm(tmp_path, name, {seed: armed.right(300) for seed in armed.SEEDS})

    def diverged(record: dict[str, Any]) -> None:
        if record["config"]["seed"] == armed.SEEDS[0]:
            record["status"], record["flags"]["diverged_at"] = "diverged", 7
            record["metrics"]["selected"]["report"]["accuracy"] = None

    made.change(tmp_path, diverged, "sora")
    table = claims.table(studies(tmp_path))
    assert table is not None
    assert list(table.show.loc[0, ["ours", "95 % interval"]]) == [EMPTY, EMPTY]
    assert table.data.loc[0, "verdict"].startswith("cannot be decided")


def test_at_equal_rank_the_ranks_are_averaged_seed_by_seed(tmp_path: Path) -> None:
    """100 answers: SoRA has 2 and 4 more at the two ranks for seed 0, 6 and 8 more for seed 1; seed 2 lacks a rank."""
    gains = {(1, 0): 2, (2, 0): 4, (1, 1): 6, (2, 1): 8, (1, 2): 9}
    runs = [
        Answered({"method": method, "method.r": r, "task": "rte", "seed": seed}, answers, answers)
        for (r, seed), gain in gains.items()
        for method, answers in (("lora", share(60, 100)), ("sora", share(60 + gain, 100)))
    ]
    answered.study(tmp_path, "rank_budget", runs)
    equal = of(tmp_path, "SoRA scores higher than LoRA at equal r")
    assert equal.values == pytest.approx([3, 7])
    assert equal.paper == "+1.73, +1.01, +4.03, +2.45, +0.36 at r = 1 to 16 (Table 2)"
    assert equal.interval == t_interval([3, 7]), "where a seed lacks a rank, no bootstrap"


def test_fewer_parameters_than_adalora_are_measured(tmp_path: Path) -> None:
    """As many ranks in smaller matrices are fewer parameters: no start at AdaLoRA's ranks decides it."""
    made.study(tmp_path, "main_table", {"method": ["adalora", "sora"], "task": ["stsb"], "seed": SEEDS})

    def live(record: dict[str, Any]) -> None:
        sora = record["config"]["method"]["name"] == "sora"
        record["params"]["live"] = 331_776 + 384 * record["config"]["seed"] if sora else 330_624

    made.change(tmp_path, live)
    assert of(tmp_path, "SoRA has fewer live parameters than AdaLoRA").verdict == "fails"


@pytest.mark.parametrize(
    ("task", "other", "higher"),
    [
        ("stsb", "LoRA", "+0.36 (Table 1)"),
        ("sst2_10k", "AdaLoRA", "-0.31 (Table 1, SST-2, all rows)"),
        ("boolq", "AdaLoRA", "+0.53 on average (Table 1)"),
    ],
)
def test_the_papers_number_is_of_the_same_task(tmp_path: Path, task: str, other: str, higher: str) -> None:
    made.study(tmp_path, "main_table", {"method": ["lora", "adalora", "sora"], "task": [task], "seed": SEEDS})
    assert of(tmp_path, f"SoRA scores higher than {other}").paper == higher


def test_the_cost_of_a_threshold_has_the_items_in_its_interval(tmp_path: Path) -> None:
    """Nearly equal gaps in every seed: over the seeds there is little doubt, over the items there is more."""
    runs = [
        Answered({"method": "sora", "method.threshold": xi, "task": "rte", "seed": seed}, answers, answers)
        for xi, counts in ((1e-4, (70, 70, 70)), (1e-2, (60, 61, 59)))
        for seed, answers in zip(SEEDS, (share(count, 100) for count in counts), strict=True)
    ]
    answered.study(tmp_path, "threshold", runs)
    cost = of(tmp_path, "The largest threshold costs score")
    assert cost.values == pytest.approx([-10, -9, -11])
    reach = 100 * 1.96 * math.sqrt(0.1 * 0.9 / 100)  # of a share of 10 % among 100 items
    assert (cost.interval.low, cost.interval.high) == pytest.approx((-10 - reach, -10 + reach), abs=1.5)


def test_thresholds(tmp_path: Path) -> None:
    """Live parameters are set by hand: they fall with the threshold for seeds 0 and 1, and rise for seed 2."""
    axes = {"method": ["sora"], "method.threshold": [1e-4, 1e-3, 1e-2], "task": ["stsb"], "seed": SEEDS}
    made.study(tmp_path, "threshold", axes)

    def live(record: dict[str, Any]) -> None:
        place = [1e-4, 1e-3, 1e-2].index(record["config"]["method"]["threshold"])
        record["params"]["live"] = 1000 * (1 + place if record["config"]["seed"] == 2 else 3 - place)

    made.change(tmp_path, live)
    order = of(tmp_path, "A larger threshold leaves fewer parameters")
    assert order.values == pytest.approx([-1, -1, 1])
    assert tuple(order.interval) == (-1, 1), "Student's would go on to where no correlation is"
    assert order.verdict == "cannot be decided"
    assert math.isnan(order.exact)
    assert of(tmp_path, "The largest threshold costs score").paper == "-1.23 (Table 6)"


@pytest.mark.parametrize(
    ("thresholds", "seeds", "rising", "verdict"),
    [
        ([1e-4, 1e-3, 1e-2, 1e-1], SEEDS, False, "holds"),  # (1 / 24)^3
        ([1e-4, 1e-3, 1e-2, 1e-1], SEEDS, True, "fails"),
        ([1e-4, 1e-3, 1e-2], SEEDS[:2], False, "cannot be decided"),  # 1/36 is above 0.025
        ([1e-4, 1e-2], SEEDS, False, "cannot be decided"),  # 1/8
    ],
)
def test_thresholds_of_one_order_in_every_seed(
    thresholds: list[float], seeds: list[int], rising: bool, verdict: str, tmp_path: Path
) -> None:
    """Without spread there is no interval; that all orders are the same by chance has a probability."""
    axes = {"method": ["sora"], "method.threshold": thresholds, "task": ["stsb"], "seed": seeds}
    made.study(tmp_path, "threshold", axes)

    def live(record: dict[str, Any]) -> None:
        place = thresholds.index(record["config"]["method"]["threshold"])
        record["params"]["live"] = 1000 * (1 + place if rising else 9 - place)

    made.change(tmp_path, live)
    order = of(tmp_path, "A larger threshold leaves fewer parameters")
    assert order.values == pytest.approx([1 if rising else -1] * len(seeds))
    assert (order.verdict, math.isnan(order.interval.low)) == (verdict, True)


def test_what_a_schedule_keeps(tmp_path: Path) -> None:
    """From 96 ranks to 48, the upper third nearly whole and the lower nearly empty; then to 3, with about 89 %."""

    def levels(axes: Mapping[str, Any]) -> list[dict[str, object]]:
        seed = axes["seed"]
        ranks = [[8] * 12, [0, 0, 0, seed, 4, 4, 4, 4, 8, 8, 8, 8 - seed], [0] * 11 + [3]]
        return [
            levelled.level(i, 1e-3 * i, r, dict.fromkeys(("select", "report", "train_subset"), score))
            for i, (r, score) in enumerate(zip(ranks, (0.8, 0.8, 0.704 + 0.008 * seed), strict=True))
        ]

    axes = {"method": ["sora"], "task": ["sst2"], "seed": SEEDS}
    levelled.study(tmp_path, "scheduler", axes, levels, lambda axes: {"name": "sparsify"})
    shallow = of(tmp_path, "Shallow layers lose their ranks first")
    assert shallow.values == pytest.approx([100, 93.75, 87.5])
    assert shallow.verdict == "holds"
    kept = of(tmp_path, "About 3.7 % of the dense model's parameters keep more than 99 %")
    between = (math.log1p(9600 * 47_104 / 1_265_000) - math.log1p(300)) / (math.log1p(4800) - math.log1p(300))
    assert kept.values == pytest.approx([last + (100 - last) * between for last in (88, 89, 90)])
    assert kept.verdict == "fails"
    below = [each for each in every(tmp_path) if each.claim.startswith("About 0.32 %")]
    assert below == [], "no level has so few parameters"


def test_a_level_without_any_rank_says_nothing_of_where_ranks_are_lost(tmp_path: Path) -> None:
    """The only one after the dense model is empty; the claim about layers has no number then."""

    def levels(axes: Mapping[str, Any]) -> list[dict[str, object]]:
        scores = dict.fromkeys(("select", "report", "train_subset"), 0.8)
        return [levelled.level(i, 1e-3 * i, ranks, scores) for i, ranks in enumerate(([8] * 12, [0] * 12))]

    axes = {"method": ["sora"], "task": ["sst2"], "seed": SEEDS}
    levelled.study(tmp_path, "scheduler", axes, levels, lambda axes: {"name": "sparsify"})
    found = [each.claim for each in every(tmp_path)]
    assert found, "the others do have one"
    assert not any(claim.startswith("Shallow layers") for claim in found)


@pytest.mark.parametrize("seeds", [[0], SEEDS])
def test_claims_need_two_seeds_and_are_written_and_shown(seeds: list[int], tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": ["lora", "sora"], "task": ["stsb"], "seed": seeds})
    found = answered.built(tmp_path)
    written = tmp_path / "tables" / "claims" / "README.md"
    assert ("claims" in found) == written.exists() == (len(seeds) > 1)
    assert (tmp_path / "report.html").read_text().count('<h2 id="claims">') == (len(seeds) > 1)
    assert not written.exists() or "SoRA scores higher than LoRA" in written.read_text()
