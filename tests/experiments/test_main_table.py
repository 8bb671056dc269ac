"""The main table: numbers recomputed by hand from the records, and what is said of missing and marked runs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from sklearn.metrics import accuracy_score, f1_score

from experiments import figures, find, published
from experiments.comparisons import verdict
from experiments.conditions import conditions
from experiments.draws import draws
from experiments.labels import MAJORITY
from experiments.main_table import DOUBTFUL, _settings
from experiments.scores import chosen
from experiments.stats import t_interval
from experiments.study import load
from experiments.tables import EMPTY, Figure
from scripts import readme, tables
from sora.runs import records
from sora.runs.records import read, read_arrays
from tests.experiments import made, reading
from tests.experiments.reading import artefacts, row
from tests.experiments.test_bootstrap import paired_bootstrap

AXES = {"method": ["full", "lora", "sora"], "task": ["rte", "qqp"], "seed": [0, 1, 2]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    made.study(folder, "main_table", AXES, leave_out=2, items=50)
    return folder


@pytest.fixture(scope="module")
def built(results: Path) -> dict[str, Any]:
    """The tables and figures of ``results``."""
    return artefacts(results)


def of(folder: Path, method: str, task: str) -> list[Path]:
    return sorted((folder / "records" / "minilm-l6" / task).glob(f"{method}-*.json"))


def test_a_cell_is_mean_and_population_sd_of_its_records(results: Path, built: dict[str, Any]) -> None:
    values = [100 * read(path)["metrics"]["selected"]["report"]["accuracy"] for path in of(results, "lora", "rte")]
    cells = row(built["main_table"], "RTE acc.", "LoRA")
    assert cells["score"].text == f"{np.mean(values):.2f} ± {np.std(values):.2f}"
    assert cells["n"].text == "3/3"


def test_the_average_is_over_tasks_and_only_of_methods_that_have_all(built: dict[str, Any]) -> None:
    table = built["main_table"]
    rte, accuracy, f1 = (row(table, label, "LoRA")["score"].value for label in ("RTE acc.", "QQP acc.", "QQP F1"))
    assert row(table, "average", "LoRA")["score"].value == pytest.approx((rte + (accuracy + f1) / 2) / 2)
    assert row(table, "average", MAJORITY)["n"].text == EMPTY
    assert "Average: over tasks" in table.caption


def test_the_readme_of_the_project_names_missing_and_marked_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "render", lambda figure: (b"", b""))
    made.study(tmp_path, "main_table", {"method": ["lora", "sora"], "task": ["rte"], "seed": [0, 1]}, leave_out=1)
    made.change(tmp_path, lambda record: record["flags"].update(one_class=True), "sora")
    tables.build(tmp_path)
    lora, sora, _ = (line for line in readme.block(tmp_path).splitlines()[2:] if line.startswith("|"))
    assert "(" not in lora
    gap = re.search(r"\(1/2\) \[1 one-class\] \(([+-]\d+\.\d\d)\) \|$", sora)
    assert gap is not None
    found = row(artefacts(tmp_path)["main_table"], "RTE acc.", "SoRA")
    assert float(gap[1]) == pytest.approx(found["minus LoRA"].value, abs=0.005)


def test_published_numbers_are_those_of_the_rank_or_of_eight() -> None:
    runs = pd.DataFrame({"method": ["lora", "lora", "sora", "sora", "full"], "method.r": [4, 4, 2, 16, np.nan]})
    found = _settings(runs, pd.DataFrame({"method": ["lora", "sora", "full"]}))
    assert list(found[:2]) == ["method.r=4", "method.r=8"]
    assert pd.isna(found[2])


def test_the_page_says_under_which_conditions(results: Path) -> None:
    page = conditions(reading.study(results))
    for words in (
        "Backbone minilm-l6",
        "SNLI",
        "Protocol paper",
        "classifier and pooler train",
        "Seeds 0, 1, 2",
        "Precision fp32.",
    ):
        assert words in page
    lines = [line.strip("| ").split("|") for line in page.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line] for line in lines)
    alike, sora, *_ = (dict(zip(head, row, strict=True)) for row in rows)
    assert [row[:2] for row in rows] == [
        [task, who] for task in ("RTE", "QQP") for who in ("Fine-tuning, LoRA", "SoRA")
    ]
    assert [sora[name] for name in ("steps", "batch", "peak learning rate")] == ["30", "8", "0.0008"]
    assert [sora[name] for name in ("ξ", "ρ", "travel")] == ["0.0001", "0.125", EMPTY]
    assert (alike["ξ"], alike["ρ"]) == ("0.0001", EMPTY), "no gate, no regime"


def test_the_page_says_how_it_was_pooled_and_trained_and_what_was_not(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": ["probe", "lora"], "task": ["rte"], "seed": [0]})
    made.change(tmp_path, lambda record: record["config"]["backbone"].update(pooling="mean"))
    rest = {"clip": 0.1, "warmup_ratio": 0.5, "weight_decay": 0.25}
    made.change(tmp_path, lambda record: record["config"]["trainer"].update(rest))
    for value, method in ((1.0, "lora"), (7.0, "probe")):
        made.change(tmp_path, lambda record, value=value: record["config"]["trainer"].update(clip=value), method)
    made.change(tmp_path, lambda record: record["metrics"]["last"].update(step=0), "probe")
    page = conditions(reading.study(tmp_path))
    assert "Pooling mean (over all tokens)." in page
    assert "Training: clip 1, warmup_ratio 0.5, weight_decay 0.25 (keys of trainer.); all other" in page
    head, _, *rows = ([cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("|"))
    batch = {row[head.index("method")]: row[head.index("batch")] for row in rows}
    assert batch == {"Linear probe": EMPTY, "LoRA": "8"}


def test_the_page_names_a_slice_of_the_training_file(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": ["lora"], "task": ["sst2_10k", "rte"], "seed": [0]})
    page = conditions(reading.study(tmp_path))
    assert "| SST-2 (10k), 10,000 fixed rows |" in page
    assert "| RTE  " in page


def test_a_comparison_is_that_of_the_same_items_and_seeds(results: Path, built: dict[str, Any]) -> None:
    """Against the bootstrap called on the right answers themselves."""
    cell = row(built["comparisons"], "LoRA", "SoRA", "RTE acc.")
    right = []
    for method in ("sora", "lora"):
        loaded = [read_arrays(path) for path in of(results, method, "rte")]
        right.append([a["report_logits"].argmax(1) == a["report_labels"] for a in loaded])
    gaps = 100 * np.mean(right[0], axis=1) - 100 * np.mean(right[1], axis=1)
    over_seeds = ttest_1samp(gaps, 0).confidence_interval()
    assert (cell["t interval"].value, cell["t interval"].extra["high"]) == pytest.approx(tuple(over_seeds))
    found = paired_bootstrap(np.array(right[0], float), np.array(right[1], float), resamples=20_000, seed=3)
    assert cell["difference"].value == pytest.approx(100 * found.mean)
    assert cell["bootstrap interval"].value == pytest.approx(100 * found.interval.low, abs=0.8)
    assert cell["p"].value == pytest.approx(found.p, abs=0.03)
    assert cell["smallest gap"].value == pytest.approx(280.16 * found.standard_error, rel=0.03)
    assert cell["seeds"].value == 3
    assert any("0.25" in note for note in built["comparisons"].notes)  # what three seeds alone cannot show


@pytest.mark.parametrize(
    ("gaps", "p", "said"),
    [
        ([4, 5, 6], 0.001, "better"),
        ([-4, -5, -6], 0.001, "worse"),
        ([4, 5, 6], 0.2, "not resolved"),  # the items could have given it
        ([0.1, 5, 9.9], 0.001, "not resolved"),  # the seeds could have
        ([5], 0.001, "not resolved"),  # one seed says nothing of seeds
    ],
)
def test_a_verdict_needs_the_items_and_the_seeds(gaps: list[float], p: float, said: str) -> None:
    assert verdict(float(np.mean(gaps)), p, *t_interval(gaps)) == said


def test_published_numbers_stand_beside_ours(built: dict[str, Any]) -> None:
    table = built["published"]
    ours = row(built["main_table"], "RTE acc.", "SoRA")["score"].value
    cells = row(table, "SoRA", "RTE acc.")
    assert cells["published"].text == "87.77 ± 1.56"
    assert cells["difference"].value == pytest.approx(ours - 87.77)
    assert cells["source"].text == "SoRA paper, Table 1"
    assert "minilm-l6" in str(table.caption)
    assert "Not like for like" in str(table.caption)


def test_only_the_report_split_has_a_difference_from_the_select_split(tmp_path: Path) -> None:
    """MNLI's mismatched set is another one, whose first half selected nothing."""
    made.study(tmp_path, "main_table", {"method": ["lora"], "task": ["mnli"], "seed": [0, 1]})
    found = [read(path)["metrics"]["selected"] for path in of(tmp_path, "lora", "mnli")]
    gap = 100 * np.mean([each["select"]["accuracy"] - each["report"]["accuracy"] for each in found])
    details = artefacts(tmp_path)["details"]
    assert row(details, "LoRA", "MNLI-m acc.")["select - report"].value == pytest.approx(gap)
    assert row(details, "LoRA", "MNLI-mm acc.")["select - report"].text == EMPTY


@pytest.mark.parametrize(
    ("flag", "words"),
    [("random_weights", "random weights"), ("synthetic", "a synthetic task"), ("partial", "partial data")],
)
def test_runs_that_are_about_something_else_are_refused(tmp_path: Path, flag: str, words: str) -> None:
    manifest = made.study(tmp_path, "main_table", {"method": ["lora"], "task": ["rte"], "seed": [0, 1]})
    made.write_run(tmp_path, manifest["runs"][0]["axes"], **{flag: True})
    found = artefacts(tmp_path)
    assert row(found["main_table"], "RTE acc.", "LoRA")["n"].text == "1/2"
    for name, place in (("main_table", ("RTE acc.", "LoRA")), ("details", ("LoRA",))):
        assert row(found[name], *place)["remarks"].text.startswith(f"1 refused, as it is about {words}")
    assert reading.study(tmp_path).missing() == []  # running it again would not help


def test_half_a_setting_does_not_stand_for_the_others(tmp_path: Path) -> None:
    """The second learning rate has one run of three, whichever its score: the first, whole one stands."""
    axes = {"method": ["lora"], "task": ["rte"], "trainer.learning_rate": [1e-4, 8e-4], "seed": [0, 1, 2]}
    manifest = made.study(tmp_path, "main_table", axes, leave_out=2)
    path = tmp_path / manifest["runs"][3]["record"]
    record = read(path)
    record["metrics"]["selected"]["select"]["accuracy"] = 1.0
    path.write_text(json.dumps(record), encoding="utf-8")
    assert row(artefacts(tmp_path)["main_table"], "RTE acc.", "LoRA")["n"].text == "3/3"


@pytest.mark.parametrize(("lost", "rate"), [(0, 8e-4), (3, 1e-4)])
def test_a_setting_that_diverged_before_its_first_score_is_the_worst(lost: int, rate: float, tmp_path: Path) -> None:
    """The sweep is whole: one seed of one of two rates has no score, and the other rate stands for the method."""
    axes = {"method": ["lora"], "task": ["rte"], "trainer.learning_rate": [1e-4, 8e-4], "seed": [0, 1, 2]}
    path = tmp_path / made.study(tmp_path, "main_table", axes)["runs"][lost]["record"]
    record = read(path)
    record["status"], record["flags"]["diverged_at"] = "diverged", 7
    record["metrics"]["selected"]["select"]["accuracy"] = None
    records.write(path, record, read_arrays(path))
    runs = chosen(reading.study(tmp_path), "method")
    assert set(runs["trainer.learning_rate"]) == {rate}
    assert set(runs["trials"]) == {2}


def test_a_seed_that_diverged_before_its_first_score_leaves_neither_interval(tmp_path: Path) -> None:
    """Its logits are there, so that a bootstrap could be made of them."""
    made.study(tmp_path, "main_table", {"method": ["lora", "sora"], "task": ["rte"], "seed": [0, 1, 2]})

    def diverged(record: dict[str, Any]) -> None:
        if record["config"]["seed"] == 0:
            record["status"], record["flags"]["diverged_at"] = "diverged", 7
            record["metrics"]["selected"]["report"]["accuracy"] = None

    made.change(tmp_path, diverged, "sora")
    found = artefacts(tmp_path)
    cells = row(found["main_table"], "RTE acc.", "SoRA")
    assert [cells[name].text for name in ("minus LoRA", "t interval", "bootstrap interval")] == [EMPTY] * 3
    cells = row(found["primary"], "not inferior to LoRA", "RTE acc.")
    assert [cells[name].text for name in ("t interval", "bootstrap interval", "p", "smallest gap")] == [EMPTY] * 4
    assert "comparisons" not in found, "no p of a bootstrap either"


def test_what_is_not_compared_is_named(tmp_path: Path) -> None:
    """Without the logits beside the records there is no bootstrap: the task is left out, and the table says so."""
    axes = {"method": ["lora", "sora"], "task": ["rte", "mrpc", "stsb"], "seed": [0, 1]}
    for run in made.study(tmp_path, "main_table", axes)["runs"]:
        if run["axes"]["task"] == "stsb":
            (tmp_path / run["record"]).with_suffix(".npz").unlink()
    (study,) = load(tmp_path).studies
    table = next(each for each in find("main_table").build(study) if each.name == "comparisons")
    assert list(table.data["metric"]) == ["RTE acc.", "MRPC acc."], "two tasks of three have no average"
    assert any(note.startswith("Left out, and with it the average: STS-B Pearson") for note in table.notes)


def test_nothing_run_yet_is_a_table_of_zeros_and_no_figure(tmp_path: Path) -> None:
    manifest = made.manifest("main_table", AXES)
    made.studies.write(tmp_path, manifest)
    loaded = load(tmp_path)
    assert "none of its 18 runs has a record" in loaded.problems[0]
    found = find("main_table").build(loaded.studies[0])
    assert not any(isinstance(artefact, Figure) for artefact in found)
    cells = row(found[0], "RTE acc.", "LoRA")
    assert (cells["n"].text, cells["score"].text, cells["minus LoRA"].text) == ("0/3", EMPTY, EMPTY)


def test_every_published_column_is_one_of_ours() -> None:
    every = published.scores()
    columns = set(zip(every["task"], every["metric"], every["split"], strict=True))
    assert {("qqp", "f1", "report"), ("mnli", "accuracy", "report_mm")} <= columns
    assert (every["where"] == "SoRA paper, Table 1").sum() == 60
    # Every average the SoRA paper prints follows from its cells (QQP and MNLI as pairs); see its Table 1.
    sora = every[(every["where"] == "SoRA paper, Table 1") & (every["method"] == "sora")]
    assert round(sora.groupby("task")["mean"].mean().mean(), 2) == 89.36


def test_the_majority_class_has_a_row_of_every_number(results: Path, built: dict[str, Any]) -> None:
    """Against scikit-learn on the labels themselves."""
    for task, label, metric in (
        ("rte", "RTE acc.", accuracy_score),
        ("qqp", "QQP acc.", accuracy_score),
        ("qqp", "QQP F1", f1_score),
    ):
        labels = read_arrays(of(results, "lora", task)[0])["report_labels"]
        expected = 100 * max(metric(labels, np.full(len(labels), each)) for each in (0, 1))
        cells = row(built["main_table"], label, MAJORITY)
        assert cells["score"].value == pytest.approx(expected)
        assert (cells["n"].text, cells["live parameters"].text) == (EMPTY, "0")


def test_the_constant_answer_on_resampled_items_is_the_same_class(results: Path) -> None:
    study = reading.study(results)
    found = draws(study, study.runs[study.runs["task"] == "rte"])["RTE acc."]
    assert found.constant > 51  # so that the other class would be more than 2 points off
    assert found.constant_draws is not None
    assert found.constant_draws.mean() == pytest.approx(found.constant, abs=0.5)


def with_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a record anew with these arrays beside its own or instead of them."""
    record, content = read(path), read_arrays(path) | arrays
    record["data"]["arrays_sha256"] = records.arrays_digest(content)
    records.write(path, record, content)


def test_a_run_on_other_items_than_most_is_not_resampled_and_is_named(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": ["lora"], "task": ["rte"], "seed": [0, 1, 2]})
    *alike, other = of(tmp_path, "lora", "rte")
    with_arrays(other, report_ids=np.arange(60) + 60)
    study = reading.study(tmp_path)
    assert draws(study, study.runs)["RTE acc."].place.keys() == {read(path)["run_id"] for path in alike}
    (problem,) = study.problems
    assert other.name in problem
    assert problem.endswith("its report items are not those of most runs here")


def test_items_that_belong_together_are_not_resampled_one_by_one(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": ["lora"], "task": ["rte"], "seed": [0, 1]})
    for path in of(tmp_path, "lora", "rte"):
        with_arrays(path, report_groups=np.arange(60) // 2)
    study = reading.study(tmp_path)
    assert draws(study, study.runs) == {}


@pytest.mark.parametrize("kind", ["chance", "seeds apart", "above"])
def test_cells_that_may_be_no_better_than_the_constant_answer_are_named(tmp_path: Path, kind: str) -> None:
    """By chance no interval lies above; of two seeds far above it, but far apart, the bootstrap's does and t's not."""
    manifest = made.study(
        tmp_path, "main_table", {"method": ["lora", "sora"], "task": ["rte"], "seed": [0, 1]}, items=90
    )
    for run in manifest["runs"]:
        content = made.arrays("rte", np.random.default_rng(run["axes"]["seed"]), 90, 3.0)
        if run["axes"]["method"] == "sora" and kind == "chance":  # answers that have nothing to do with the labels
            noise = np.random.default_rng(run["axes"]["seed"]).normal(size=(90, 2))
            content |= {"report_logits": noise.astype(np.float16)}
        if run["axes"]["method"] == "sora" and kind == "seeds apart":  # all right, and all but 15 of 90
            wrong = np.arange(90) < 15 * run["axes"]["seed"]
            right = np.arange(2) == content["report_labels"][:, None]
            content |= {"report_logits": (right ^ wrong[:, None]).astype(np.float16)}
        record = made.record(run["axes"], made.scores("rte", content), records.arrays_digest(content))
        records.write(tmp_path / run["record"], record, content)
    table = artefacts(tmp_path)["main_table"]
    remarks = {name: row(table, "RTE acc.", name)["remarks"].text for name in ("LoRA", "SoRA")}
    assert remarks == {"LoRA": EMPTY, "SoRA": EMPTY if kind == "above" else DOUBTFUL}


def test_a_regression_has_no_majority_class(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": ["lora"], "task": ["stsb", "cola"], "seed": [0, 1]})
    data = artefacts(tmp_path)["main_table"].data
    assert list(data.loc[data["method"] == MAJORITY, "task"]) == ["CoLA MCC"]
