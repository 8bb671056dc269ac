"""Write the best learning rate of each method and task, and SoRA's threshold, into its recipe (torch-free).

    python scripts/tune.py [--results results] [--conf conf] [--tasks cola stsb]

Reads every learning_rate study of the results folder (python run.py experiment=learning_rate) and takes, of each
method on each task, the rate with the best mean on the select split; a second study adds its rates or its seed to those
of the first, and of rates with one seed and with two those with two decide. Of SoRA it reads the studies named rho too,
thresholds in units of that rate: the recipe <task> has the largest within half a point of the best (SoRA-small), the
recipe <task>_best the best (SoRA-best). It goes into conf/recipe/<backbone>/<method>/<task>.yaml, with the trials that
chose it: provenance.recipe.tuned of every later record, and the captions of tables, tell of them. A recipe with
published values is left alone. Exit status 2 where a run of a grid is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import yaml

from experiments import tuning
from experiments.conditions import RATE
from experiments.learning_rate import RHO, Choice, choices
from experiments.study import Study
from sora.cli.console import Parser, place_of, run
from sora.errors import UserError
from sora.files import CONF, is_name, write_text


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
    try:
        for path in tune(Path(options.results), options.conf, options.tasks):
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def tune(results: Path, conf: Path, tasks: Sequence[str] = ()) -> list[Path]:
    """Write the recipes and return their paths; those with published values are named and left alone.

    ``tasks``: only these; empty = all.
    """
    found: dict[Path, list[tuple[Choice, Study]]] = {}
    read = tuning.grids(results)
    if not any(study.name == "learning_rate" for study in read):
        raise UserError(f"{results}: no learning_rate study here; python run.py experiment=learning_rate makes one")
    for study in read:
        if study.name != "learning_rate":
            continue
        for backbone in study.values("backbone"):
            if not is_name(str(backbone)):
                raise UserError(f"{study.key}: backbone {backbone!r} names no folder of conf/recipe")
            for choice in choices(study, tasks):
                path = conf / "recipe" / str(backbone) / choice.method / f"{choice.task}.yaml"
                found.setdefault(path, []).append((choice, study))
    published = [path for path in found if _is_published(path)]
    for path in published:
        print(f"{path}: has published values and is left alone", file=sys.stderr)
    texts: dict[Path, str] = {}
    for path, tried in found.items():
        if path in published:
            continue
        choice, keys = joined(path, tried)
        ratios = rhos(read, path.parts[-3], choice) if choice.method == "sora" else None
        if ratios is None:
            texts[path] = recipe(path, choice, keys)
            continue
        scores, of = ratios
        top, small = tuning.best_and_small(scores)
        texts[path] = recipe(path, choice, keys, (small, scores, of))
        texts[path.with_name(f"{path.stem}_best.yaml")] = recipe(
            path.with_name(f"{path.stem}_best.yaml"), choice, keys, (top, scores, of)
        )
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def rhos(studies: Sequence[Study], backbone: str, choice: Choice) -> tuple[tuning.Scores, list[str]] | None:
    """Points on the select split of each rho and seed at the chosen rate, and the studies' keys; None without one.

    Raises UserError where a run is missing, or where all of them are at another rate.
    """
    scores: dict[tuple[float, int], float] = {}
    keys, elsewhere = [], []
    for study in studies:
        runs = study.runs[study.runs["task"] == choice.task]
        if study.name != "rho" or not len(runs) or backbone not in study.values("backbone"):
            continue
        if (lacking := runs["select"].isna()).any():
            command = runs.loc[lacking, "command"].iloc[0]
            raise UserError(f"{study.key}: {int((~lacking).sum())}/{len(runs)} runs are there; run {command}")
        if set(runs[RATE]) != {choice.rate}:
            elsewhere.append(f"{study.key} at {', '.join(f'{rate:g}' for rate in sorted(set(runs[RATE])))}")
            continue
        keys.append(study.key)
        scores |= {
            (float(rho), int(seed)): float(points)
            for rho, seed, points in zip(runs[RHO], runs["seed"], runs["select"], strict=True)
        }
    if elsewhere and not scores:
        raise UserError(
            f"{'; '.join(elsewhere)}: SoRA's rate on {choice.task} is {choice.rate:g} now; run the rhos at that rate"
        )
    seeds = {rho: set(found) for rho, found in tuning.by_value(scores).items()}
    if any(found != set().union(*seeds.values()) for found in seeds.values()):
        raise UserError(f"{' and '.join(keys)}: not every rho of {choice.task} has the same seeds; finish the grid")
    return (scores, keys) if scores else None


def _is_published(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); restore it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; restore it")
    return content.get("unpublished") != ["*"]


def joined(path: Path, grids: Sequence[tuple[Choice, Study]]) -> tuple[Choice, list[str]]:
    """All rates and seeds of the studies that tried some for one recipe, and the studies' keys.

    Raises UserError where protocols or any other setting differs, or where a rate has seeds that those with most seeds
    do not have: means over others cannot be compared.
    """
    first, keys = grids[0][0], sorted(study.key for _, study in grids)
    by_seed: dict[float, dict[int, float]] = {}
    for choice, _ in grids:
        for what, mine, theirs in (
            ("protocols", choice.protocol, first.protocol),
            *((key, choice.budget.get(key), first.budget.get(key)) for key in {**choice.budget, **first.budget}),
        ):
            if mine != theirs:
                raise UserError(f"{' and '.join(keys)}: different {what} for {path}; keep the manifest of one")
        for rate, points in choice.by_seed.items():
            by_seed.setdefault(rate, {}).update(points)
    seeds = max(map(set, by_seed.values()), key=len)
    if any(not set(points) <= seeds for points in by_seed.values()):
        raise UserError(f"{' and '.join(keys)}: different seeds for {path}; keep the manifest of one")
    means = {rate: fmean(points.values()) for rate, points in by_seed.items() if set(points) == seeds}
    return replace(first, means=means, seeds=tuple(sorted(seeds)), by_seed=by_seed), keys


Threshold = tuple[float, tuning.Scores, Sequence[str]]  # the chosen rho, all that were tried, their studies


def recipe(path: Path, choice: Choice, studies: Sequence[str], threshold: Threshold | None = None) -> str:
    """The recipe's text: what stands there of other values, then the trials, SoRA's threshold and the rate."""
    name = "/".join((*path.parts[-3:-1], path.stem))
    head = [
        "# @package _global_",
        f"# Ours: a learning rate for {choice.method} on {choice.task} within its budget.",
        f"recipe: {name}",
        'unpublished: ["*"]',
    ]
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        head = lines[: next((i for i, line in enumerate(lines) if line.startswith("tuned:")), len(lines))]
        if "trainer" in (yaml.safe_load("\n".join(head)) or {}):
            raise UserError(f"{path}: has a trainer: of its own above tuned:; move its values into the budget")
        if threshold is not None:
            head = without_threshold(path, head)
    rates = ", ".join(f"{rate:g}" for rate in sorted(choice.by_seed or choice.means))
    seeds = ", ".join(map(str, choice.seeds))
    if choice.by_seed and len(choice.means) < len(choice.by_seed):
        seeds += f" (of {', '.join(f'{rate:g}' for rate in sorted(choice.means))}; of the others not all)"
    keys = ", ".join(f"studies/{key}" for key in studies)
    # holdout selects on a part of the training file; the others on examples that a later table may report on.
    split = "the select split" + ("" if choice.protocol == "holdout" else f" of protocol={choice.protocol}")
    tuned = f"learning rate of {rates} by {split}, seeds {seeds} ({keys})"
    edge = ", at the edge of the grid" if choice.at_the_edge else ""
    method = []
    if threshold is not None:
        rho, scores, of = threshold
        means = {value: fmean(points.values()) for value, points in tuning.by_value(scores).items()}
        listed, top = ", ".join(f"{value:g}" for value in sorted(means)), max(means.values())
        tuned += f"; rho of {listed} by the same split (studies/{', studies/'.join(of)})"
        why = "the best" if means[rho] == top else f"the largest within half a point of the best, {top:.2f}"
        xi = float(f"{rho * choice.rate:.6g}")
        method = [
            "method:",
            f"  threshold: {_yaml(xi)}  # ours: rho {rho:g}, {means[rho]:.2f} points on the select split, {why}",
        ]
    points = f"{choice.means[choice.rate]:.2f} points on the select split{edge}"
    tail = [
        f'tuned: "{tuned}"' if ": " in tuned else f"tuned: {tuned}",
        *method,
        "trainer:",
        f"  learning_rate: {_yaml(choice.rate)}  # ours: {points}",
    ]
    return "\n".join([*head, *tail]) + "\n"


def _yaml(value: float) -> str:
    """A number as YAML 1.1 has it, to which 5e-05 is text."""
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def without_threshold(path: Path, head: Sequence[str]) -> list[str]:
    """The lines above ``tuned:`` less a method whose threshold is now chosen. Raises UserError for other keys of it."""
    own = (yaml.safe_load("\n".join(head)) or {}).get("method")
    if own is None:
        return list(head)
    if set(own) != {"threshold"}:
        raise UserError(
            f"{path}: has {', '.join(sorted(own))} of its own under method:; leave its threshold alone there"
        )
    start = next(i for i, line in enumerate(head) if line.startswith("method:"))
    end = next((i for i in range(start + 1, len(head)) if not head[i].startswith((" ", "#"))), len(head))
    return [*head[:start], *head[end:]]


if __name__ == "__main__":
    run(main)
