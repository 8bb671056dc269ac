"""SoRA's code, its paper and each difference between them: the settings of conf/fidelity, and their table by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sora.runs import manifest as studies
from sora.runs.run_id import run_id
from tests.composing import CONF, runs
from tests.experiments import made
from tests.experiments.reading import artefacts, row, rows
from tests.typed import TOY, Command

SEEDS = (0, 1, 2)
NAMES = sorted(path.stem for path in (CONF / "fidelity").glob("*.yaml"))
CODE = {"gate_update": "adam", "threshold_rule": "constant", "prox": "authors", "penalty_rule": "mean"}
PAPER = {"gate_update": "gradient", "threshold_rule": "lr_scaled", "prox": "soft", "penalty_rule": "off"}


def identifier(folder: Path, *overrides: str) -> str:
    (run,) = runs(folder, "method=sora", "recipe=none", "budget=none", *overrides)
    return run_id(run, "0" * 64, {"kind": "random"})


def test_each_switch_is_changed_alone_once(tmp_path: Path) -> None:
    changed: Counter[str] = Counter()
    for name in NAMES:
        (run,) = runs(tmp_path, "method=sora", "recipe=none", "budget=none", f"fidelity={name}")
        values: dict[str, Any] = {key: getattr(run.method, key) for key in CODE}
        differing = {key for key in CODE if values[key] != CODE[key]} | ({"head"} if run.head == "frozen" else set())
        differing |= {"optimizer"} if run.trainer.optimizer != "adamw_hf" else set()
        if name == "paper":
            assert values == PAPER
            assert run.trainer.optimizer == "adamw"
            assert run.head == "classifier+pooler", "the paper says nothing of it"
        else:
            assert len(differing) == (name != "authors")
            changed.update(differing)
    assert changed == dict.fromkeys([*CODE, "head", "optimizer"], 1)


@pytest.mark.parametrize("name", ["authors", "paper", "only_prox", "only_head"])
def test_a_choice_of_the_group_is_the_run_of_its_switches(tmp_path: Path, name: str) -> None:
    """So that a run that was made before the group existed is not computed again."""
    values = PAPER if name == "paper" else CODE
    key = name.removeprefix("only_")
    values = values | ({key: PAPER[key]} if key in PAPER else {})
    words = [f'method.{key}="{value}"' for key, value in values.items()]
    words += ["method.fidelity=paper"] if name == "paper" else []
    words += ["head=frozen"] if name == "only_head" else []
    assert identifier(tmp_path / "a", f"fidelity={name}") == identifier(tmp_path / "b", *words)


def test_what_is_typed_goes_before_the_group(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, "method=sora", "recipe=none", "budget=none", "fidelity=only_head", "head=classifier")
    assert run.head == "classifier"


def test_the_table_of_changes_by_hand(tmp_path: Path) -> None:
    axes = {"method": ["sora"], "fidelity": ["authors", "only_prox", "paper"], "task": ["rte"], "seed": list(SEEDS)}
    manifest = made.study(tmp_path, "fidelity", axes, items=20)
    scores = {"authors": [0.5, 0.6, 0.7], "only_prox": [0.52, 0.6, 0.73], "paper": [0.4, 0.65, 0.7]}
    for run in manifest["runs"]:
        path, name, seed = tmp_path / run["record"], run["axes"]["fidelity"], run["axes"]["seed"]
        record = json.loads(path.read_text())
        record["metrics"]["selected"]["report"]["accuracy"] = scores[name][seed]
        record["config"]["method"]["r"] = 4
        record["ranks"] = dict(zip("ab", (1, 0) if name == "paper" else (4, 2), strict=True))
        record["params"] |= {"live": 1000 * sum(record["ranks"].values()), "authors_formula": 5000}
        path.write_text(json.dumps(record))
    (tmp_path / manifest["runs"][6]["record"]).unlink()  # paper, seed 0
    found = artefacts(tmp_path)
    base = row(found["changes"], "authors")
    assert [base[name].text for name in ("runs", "dead ranks, %", "live weights")] == ["3/3", "25.0", "6.0k"]
    assert base["by the code's formula"].text == "5.0k"
    paper = row(found["changes"], "paper")
    assert [paper[name].text for name in ("runs", "dead ranks, %")] == ["2/3", "87.5"]
    assert row(found["fidelity"], "authors")["RTE acc."].text == "60.00 ± 8.16"
    gaps = {each["method"].text: each["difference"].value for each in rows(found["comparisons"])}
    assert gaps == pytest.approx({"only_prox": 5 / 3, "paper": 2.5}), "the seeds that both have"


def test_the_experiment_is_an_ordinary_sweep_whose_seeds_are_packed(typed: Command, tmp_path: Path) -> None:
    done = typed("experiment=fidelity", "study.tasks=[synthetic_pair]", "study.seeds=[3,4]", *TOY[1:])
    assert done.status == 0, done.err
    assert [[run.seed for run in pack] for pack in done.packs] == [[3, 4]] * len(NAMES)
    (manifest,) = studies.read_all(tmp_path / "results", "fidelity")
    assert sorted(manifest["axes"]["fidelity"]) == NAMES
    assert len({run["run_id"] for run in manifest["runs"]}) == 2 * len(NAMES)
