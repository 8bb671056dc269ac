"""The study of SoRA's two readings: its settings, its table by hand from made-up records, and its script."""

import json
from collections import Counter

import pytest

import experiments
from experiments import fidelity
from experiments.artefacts import EMPTY
from experiments.study import Run, Study
from scripts import fidelity as script
from sora.config import SoraConfig
from tests import composing

SEEDS = (0, 1, 2)


def test_the_readings_are_those_of_the_method():
    settings = fidelity.settings()
    for name in ("authors", "paper"):
        resolved = SoraConfig("sora", fidelity=name).resolved()
        assert {f"method.{key}": getattr(resolved, key) for key in SoraConfig.SWITCHES[name]} | {
            "head": "classifier+pooler"
        } == settings[name]
    differing = Counter()
    for name, values in settings.items():
        changed = {key for key, value in values.items() if value != settings["authors"][key]}
        assert len(changed) == {"authors": 0, "paper": 4}.get(name, 1)
        differing.update(changed if name != "paper" else ())
    assert differing == dict.fromkeys(settings["authors"], 1), "each switch is changed alone, once"


def study(scores, ranks, missing=()):
    """Records whose accuracy is ``scores[setting][seed]`` and whose two matrices have ``ranks[setting]``."""
    axes = fidelity.axes("rte", SEEDS)
    runs = []
    for name, values in fidelity.settings().items():
        for seed in SEEDS:
            place = {"method": "sora", "task": "rte", **values, "seed": seed}
            record = None if (name, seed) in missing else composing.record()
            if record is not None:
                record["config"] |= {"seed": seed, "head": values["head"]}
                record["config"]["backbone"]["name"] = "minilm-l6"
                record["config"]["method"] |= {"r": 4}
                record["config"]["task"] |= {"metrics": ["accuracy"]}
                record["data"]["sizes"] |= {"report": 200}
                record["metrics"]["selected"]["report"] = {"accuracy": scores[name][seed]}
                record["ranks"] = dict(zip("ab", ranks[name], strict=True))
                record["params"] |= {"live": 1000 * sum(ranks[name]), "authors_formula": 5000}
            command = f"python run.py {name} seed={seed}"
            runs.append(Run("0" * 12, place, command, record, None, "" if record else "not run"))
    return Study("fidelity", "0" * 12, axes, {}, runs)


SCORES = {name: [0.5, 0.6, 0.7] for name in fidelity.settings()} | {
    "only prox=soft": [0.52, 0.6, 0.73],
    "paper": [0.4, 0.65, 0.7],
}
RANKS = {name: (4, 2) for name in fidelity.settings()} | {"paper": (1, 0)}


def rows(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_the_table_by_hand():
    switches, changes = fidelity.build(study(SCORES, RANKS))
    assert [row[0].text for row in switches.rows] == [switch.key for switch in fidelity.SWITCHES]
    found = rows(changes)
    assert next(iter(found)).startswith("authors")
    assert found["authors (all as the code)"] == ["60.00 ± 8.16", EMPTY, "25.0", "6.0k", "5.0k", "3/3"]
    assert found["only prox=soft"][:2] == ["61.67 ± 8.65", "+1.67 (+0.00 to +3.00)"]
    assert found["only head=frozen"][1] == "+0.00 (+0.00 to +0.00)"
    assert found["paper (all four as printed)"] == [
        "58.33 ± 13.12",
        "-1.67 (-10.00 to +5.00)",
        "87.5",
        "1.0k",
        "5.0k",
        "3/3",
    ]
    assert "One of the 200 reported examples is 0.50 points" in changes.notes[0]


def test_missing_seeds_are_counted_and_pairs_need_both():
    _, changes = fidelity.build(study(SCORES, RANKS, missing={("paper", 0), ("authors", 2)}))
    found = rows(changes)
    assert found["paper (all four as printed)"][1] == "+5.00 (+5.00 to +5.00)", "seed 1 alone is in both"
    assert found["paper (all four as printed)"][-1] == "2/3"
    commands = {command for row in changes.rows for cell in row for command in cell.commands}
    assert commands == {"python run.py authors seed=2", "python run.py paper seed=0"}


def test_a_study_without_a_record_says_what_is_missing():
    missing = {(name, seed) for name in fidelity.settings() for seed in SEEDS}
    _, changes = fidelity.build(study(SCORES, RANKS, missing=missing))
    assert {row[-1] for row in rows(changes).values()} == {"0/3"}


def test_the_script_trains_every_setting_and_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        *("task=synthetic_pair", "task.sizes={train: 24, validation: 20}", "seed=[3,4]", "method.threshold=0.2"),
        *("backbone.weights=random", "backbone.arch.num_hidden_layers=1", "paths.cache=cache"),
        *("trainer.max_steps=3", "trainer.eval_every=3", "trainer.batch_size=4", "trainer.max_length=12"),
    ]
    assert script.main(words) == 0
    out = capsys.readouterr().out
    assert "setting 7 of 7: paper" in out
    page = (tmp_path / "results" / "fidelity.md").read_text()
    assert page.count("| 2/2 |") == 7
    assert "14 on a generated task" in page
    assert str(tmp_path) not in page
    (manifest,) = (tmp_path / "results" / "studies").glob("fidelity-*.json")
    named = {run["run_id"] for run in json.loads(manifest.read_text())["runs"]}
    assert named == {path.stem.rpartition("-")[2] for path in (tmp_path / "results" / "records").rglob("*.json")}
    assert len(named) == 14
    assert experiments.find("fidelity") is fidelity.STUDY
    assert script.main(words) == 0
    assert "is finished" in capsys.readouterr().out
    assert (tmp_path / "results" / "fidelity.md").read_text() == page


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["task=rte", "data.dir=/nowhere"], "/nowhere"),
        (["seeds"], "must be key=value"),
        (["trainer.max_stepz=3"], "did you mean"),
    ],
)
def test_a_mistake_is_one_sentence(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script.main(words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert expected in error
    assert len(error.splitlines()) == 1
