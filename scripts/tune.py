"""Write the best learning rate of each method and task, and SoRA's threshold, into its recipe (torch-free).

    python scripts/tune.py [--results results] [--conf conf] [--tasks cola stsb]

Reads every learning_rate study of the results folder (python run.py experiment=learning_rate) and takes, of each
method on each task, the rate with the best mean on the select split; a second study adds its rates or its seed to those
of the first, and of rates with one seed and with two those with two decide. Of SoRA it reads the studies named rho too,
thresholds in units of that rate: the recipe <task> has the largest within half a point of the best (SoRA-small), the
recipe <task>_best the best (SoRA-best). It goes into conf/recipe/<backbone>/<method>/<task>.yaml, with the trials that
chose it: provenance.recipe.tuned of every later record has them, and the conditions on a study's page. A recipe with
published values is left alone. Exit status 2 where a run of a grid is missing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments import tuning
from experiments.conditions import RATE
from experiments.study import Study
from sora.cli.console import Parser, place_of, run
from sora.errors import UserError
from sora.files import CONF, is_name, write_text
from sora.runs import leaves

RHO = "method.rho"
CHOSEN = ("seed", "seeds.", RATE)  # keys of a configuration that differ within a grid
Choice = tuple[float, tuning.Scores, Sequence[str]]  # the chosen value, all that were tried, their studies


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the recipes; returns the exit status."""
    parser = Parser(
        prog="scripts/tune.py",
        description="Write the best learning rate of each grid, by the select split, into conf/recipe.",
    )
    parser.add_argument(
        "--results", type=place_of, default="results", help="the folder of records/ and studies/ (default: results)"
    )
    parser.add_argument(
        "--conf", type=place_of, default=CONF, help="the configuration to write to (default: this one's)"
    )
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="only these (default: all)")
    options = parser.parse_args(arguments)
    for path in tune(Path(options.results), options.conf, options.tasks):
        print(path)
    return 0


def tune(results: Path, conf: Path, tasks: Sequence[str] = ()) -> list[Path]:
    """Write the recipes and return their paths; those with published values are named and left alone.

    ``tasks``: only these; empty = all.
    """
    runs = all_runs(tuning.grids(results))
    if runs.empty or not (runs["name"] == "learning_rate").any():
        raise UserError(f"{results}: no learning_rate study here; python run.py experiment=learning_rate makes one")
    texts: dict[Path, str] = {}
    rates, rhos = (runs[runs["name"] == name] for name in tuning.STUDIES)
    for (backbone, method, task), grid in rates.groupby(["backbone", "method", "task"], sort=False):
        if tasks and task not in tasks:
            continue
        if not is_name(str(backbone)):
            raise UserError(f"{grid['study'].iloc[0]}: backbone {backbone!r} names no folder of conf/recipe")
        path = conf / "recipe" / str(backbone) / str(method) / f"{task}.yaml"
        if _content(path).get("unpublished") != ["*"]:
            print(f"{path}: has published values and is left alone", file=sys.stderr)
            continue
        rate, protocol = best_rate(path, grid), str(grid["protocol"].iloc[0])
        own = rhos[(rhos["backbone"] == backbone) & (rhos["task"] == task)]
        if method != "sora" or own.empty:
            texts[path] = recipe(path, protocol, rate)
            continue
        found, keys = rho_scores(own, rate[0])
        for name, rho in zip((f"{task}_best", str(task)), tuning.best_and_small(found), strict=True):
            file = path.with_stem(name)
            texts[file] = recipe(file, protocol, rate, (rho, found, keys))
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def all_runs(studies: Sequence[Study]) -> pd.DataFrame:
    """The runs of all grids: the columns of ``Study.runs``, ``name`` and ``study`` of their grid, and its ``config``.

    ``config``: what the record holds of each key that is not chosen; of a threshold that goes with the rate, its rho.
    """
    parts = []
    for study in studies:
        runs = study.runs.assign(name=study.name, study=study.key)
        runs["config"] = [_config(study, run_id) if run_id in study.records else None for run_id in runs["run_id"]]
        parts.append(runs)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _config(study: Study, run_id: str) -> dict[str, object]:
    config = study.records[run_id]["config"]
    found = {key: value for key, value in leaves(config) if not key.startswith(CHOSEN)}
    fixed = {RHO: study.fixed[RHO], "method.threshold": None} if RHO in study.fixed else {}
    return {"protocol": config["protocol"]["name"], **found, **fixed}


def _whole(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs. Raises UserError where one has no record yet: the best of a part is not the best."""
    if runs["done"].all():
        return runs
    first = runs[~runs["done"]].iloc[0]
    counts = f"{runs['done'].sum()}/{len(runs)} runs of {first['method']} on {first['task']} are there"
    raise UserError(f"{' and '.join(sorted(set(runs['study'])))}: {counts}; run {first['command']}")


def best_rate(path: Path, runs: pd.DataFrame) -> Choice:
    """The best rate of all grids that tried some for one recipe; of rates with fewer seeds than others, none.

    Raises UserError where a run is missing, where protocols or any other setting differ, where a rate has seeds that
    those with most seeds do not have (means over others cannot be compared), or where none has a score.
    """
    keys = sorted(set(_whole(runs)["study"]))
    settings = pd.DataFrame(list(runs["config"])).astype(str)
    if differing := [key for key in settings if settings[key].nunique(dropna=False) > 1]:
        raise UserError(f"{' and '.join(keys)}: different {differing[0]} for {path}; keep the manifest of one")
    found = tuning.scores(runs, RATE)
    seeds = runs.groupby(RATE)["seed"].agg(set)
    if any(not each <= max(seeds, key=len) for each in seeds):
        raise UserError(f"{' and '.join(keys)}: different seeds for {path}; keep the manifest of one")
    rate = tuning.best(found)
    if tuning.means(found)[rate] == -math.inf:
        tried = _listed(sorted({value for value, _ in found}))
        raise UserError(f"{' and '.join(keys)}: learning rates of {tried} for {path}: {tuning.DIVERGED}")
    return rate, found, keys


def rho_scores(runs: pd.DataFrame, rate: float) -> tuple[tuning.Scores, list[str]]:
    """The scores of each rho at the chosen rate, and their studies.

    Raises UserError where a run is missing, where all of them are at another rate, or where seeds differ.
    """
    own, task = _whole(runs[runs[RATE].isna() | (runs[RATE] == rate)]), runs["task"].iloc[0]
    if own.empty:
        others = "; ".join(f"{key} at {part[RATE].iloc[0]:g}" for key, part in runs.groupby("study"))
        raise UserError(f"{others}: SoRA's rate on {task} is {rate:g} now; run the rhos at that rate")
    keys = list(dict.fromkeys(own["study"]))
    if own.groupby(RHO)["seed"].agg(lambda seeds: tuple(sorted(seeds))).nunique() > 1:
        raise UserError(f"{' and '.join(keys)}: not every rho of {task} has the same seeds; finish the grid")
    return tuning.scores(own, RHO), keys


def _content(path: Path) -> dict[str, Any]:
    """What the recipe holds now. Raises UserError where it cannot be read."""
    if not path.is_file():
        return {"unpublished": ["*"]}
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); restore it") from error


def _kept(path: Path, chooses_threshold: bool) -> dict[str, Any]:
    """What stands under method: and stays. Raises UserError where the recipe has values that would be lost."""
    content = _content(path)
    method, trainer = content.get("method") or {}, content.get("trainer") or {}
    lost = [key for key in content if key not in ("recipe", "unpublished", "tuned", "method", "trainer")]
    lost += [f"trainer.{key}" for key in trainer if key != "learning_rate"]
    if chooses_threshold:
        lost += [f"method.{key}" for key in method if key not in ("threshold", "rho")]
    if lost:
        raise UserError(f"{path}: {', '.join(lost)} would be lost; move it into the budget, or take the recipe away")
    return {} if chooses_threshold else method


def recipe(path: Path, protocol: str, rate: Choice, threshold: Choice | None = None) -> str:
    """The recipe's text: the trials, the rate, SoRA's threshold, and without one what stands under method: there."""
    chosen, scores, studies = rate
    means = tuning.means(scores)
    tried = sorted({value for value, _ in scores})
    seeds = ", ".join(map(str, sorted({seed for value, seed in scores if value == chosen})))
    if len(means) < len(tried):
        seeds += f" (of {_listed(sorted(means))}; of the others not all)"
    # holdout selects on a part of the training file; the others on examples that a later table may report on.
    split = "the select split" + ("" if protocol == "holdout" else f" of protocol={protocol}")
    tuned = f"learning rate of {_listed(tried)} by {split}, seeds {seeds} ({_named(studies)})"
    kept = _kept(path, chooses_threshold=threshold is not None)
    method = yaml.safe_dump({"method": kept}, sort_keys=False).splitlines() if kept else []
    if threshold is not None:
        rho, rho_scores, rho_studies = threshold
        rhos = tuning.means(rho_scores)
        top = max(rhos.values())
        tuned += f"; rho of {_listed(sorted(rhos))} by the same split ({_named(rho_studies)})"
        why = "the best" if rhos[rho] == top else f"the largest within half a point of the best, {top:.2f}"
        why = f"ours: rho {rho:g}, {rhos[rho]:.2f} points on the select split, {why}"
        method = ["method:", f"  threshold: {_yaml(float(f'{rho * chosen:.6g}'))}  # {why}"]
    edge = ", at the edge of the grid" if tuning.at_the_edge(chosen, tried) else ""
    lines = [
        "# @package _global_",
        f"# Ours, within the budget of {path.stem.removesuffix('_best')}: written by scripts/tune.py.",
        f"recipe: {'/'.join((*path.parts[-3:-1], path.stem))}",
        'unpublished: ["*"]',
        f'tuned: "{tuned}"' if ": " in tuned else f"tuned: {tuned}",
        *method,
        "trainer:",
        f"  learning_rate: {_yaml(chosen)}  # ours: {means[chosen]:.2f} points on the select split{edge}",
    ]
    return "\n".join(lines) + "\n"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _named(studies: Sequence[str]) -> str:
    return ", ".join(f"studies/{key}" for key in studies)


def _yaml(value: float) -> str:
    """A number as YAML 1.1 has it, to which 5e-05 is text."""
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


if __name__ == "__main__":
    run(main)
