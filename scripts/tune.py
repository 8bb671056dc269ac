"""Write the best learning rate of each method and task into its recipe (torch-free).

    python scripts/tune.py [--results results] [--conf conf]

Reads every learning_rate study of the results folder (python run.py experiment=learning_rate) and takes, of each
method on each task, the rate with the best mean on the select split; a second study of the same seeds adds its rates to
those of the first. It goes into conf/recipe/<backbone>/<method>/<task>.yaml, with the trials that chose it:
provenance.recipe.tuned of every later record, and the captions of tables, tell of them. A recipe with published values
is left alone. Exit status 2 where a run of a grid is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

import experiments
from experiments.learning_rate import Choice, choices
from experiments.study import Study, load
from sora.cli.console import Parser, place_of, run
from sora.errors import UserError
from sora.files import CONF, is_name, write_text
from sora.runs.manifest import FOLDER


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
    options = parser.parse_args(arguments)
    try:
        for path in tune(Path(options.results), options.conf):
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def tune(results: Path, conf: Path) -> list[Path]:
    """Write the recipes and return their paths; those with published values are named and left alone."""
    loaded = load(results, lambda name: experiments.find(name).accepts)
    studies = [study for study in loaded.studies if study.name == "learning_rate"]
    if not studies:
        raise UserError(f"{results}: no learning_rate study here; python run.py experiment=learning_rate makes one")
    unread = {path.stem for path in (results / FOLDER).glob("learning_rate-*.json")} - {study.key for study in studies}
    if unread:  # a grid less would choose another rate
        reasons = "; ".join(problem for problem in loaded.problems if any(name in problem for name in unread))
        raise UserError(f"{', '.join(sorted(unread))}: cannot be used ({reasons}); restore or remove the manifest")
    found: dict[Path, list[tuple[Choice, Study]]] = {}
    for study in studies:
        for backbone in study.values("backbone"):
            if not is_name(str(backbone)):
                raise UserError(f"{study.key}: backbone {backbone!r} names no folder of conf/recipe")
            for choice in choices(study):
                path = conf / "recipe" / str(backbone) / choice.method / f"{choice.task}.yaml"
                found.setdefault(path, []).append((choice, study))
    published = [path for path in found if _is_published(path)]
    for path in published:
        print(f"{path}: has published values and is left alone", file=sys.stderr)
    texts = {path: recipe(path, *joined(path, grids)) for path, grids in found.items() if path not in published}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


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
    """All rates of the studies that tried some for one recipe, and the studies' keys.

    Raises UserError where their seeds, protocols or any other setting differs: means over others cannot be compared.
    """
    first, keys = grids[0][0], sorted(study.key for _, study in grids)
    means: dict[float, float] = {}
    for choice, _ in grids:
        for what, mine, theirs in (
            ("seeds", choice.seeds, first.seeds),
            ("protocols", choice.protocol, first.protocol),
            *((key, choice.budget.get(key), first.budget.get(key)) for key in {**choice.budget, **first.budget}),
        ):
            if mine != theirs:
                raise UserError(f"{' and '.join(keys)}: different {what} for {path}; keep the manifest of one")
        means |= choice.means
    return replace(first, means=means), keys


def recipe(path: Path, choice: Choice, studies: Sequence[str]) -> str:
    """The recipe's text: what stands there of other values, then the trials and the rate."""
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
    rates = ", ".join(f"{rate:g}" for rate in sorted(choice.means))
    seeds = ", ".join(map(str, choice.seeds))
    keys = ", ".join(f"studies/{key}" for key in studies)
    # holdout selects on a part of the training file; the others on examples that a later table may report on.
    split = "the select split" + ("" if choice.protocol == "holdout" else f" of protocol={choice.protocol}")
    tuned = f"learning rate of {rates} by {split}, seeds {seeds} ({keys})"
    edge = ", at the edge of the grid" if choice.at_the_edge else ""
    tail = [
        f"tuned: {tuned}",
        "trainer:",
        f"  learning_rate: {choice.rate!r}  # ours: {choice.means[choice.rate]:.2f} points on the select split{edge}",
    ]
    return "\n".join([*head, *tail]) + "\n"


if __name__ == "__main__":
    run(main)
