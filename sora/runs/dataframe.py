"""Records as DataFrames: one row a run, and longer ones with a row for each evaluation or matrix of a run.

A column is named after the record's key it holds, such as ``params.live``, ``time.train_s``, ``flags.one_class``; a
configured key after itself, such as ``method.r``. Scores are in points, 100 times the record's metric. docs/record.md
has the list.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sora.errors import UserError
from sora.runs import manifest as studies
from sora.runs.results import Record, Results, read

IDENTITY = ("run_id", "backbone", "task", "method", "protocol", "seed", "status")
PARTS = ("flags", "params", "regime", "time", "throughput", "memory", "provenance")  # whose single values are columns
NAMED = ("backbone", "method", "task", "protocol")  # groups of the configuration with a name
MOST_ALIVE = 0.95  # share of SoRA's ranks above which there is no data-dependence
LEFT_OUT = ("provenance.versions", "provenance.command", "provenance.recipe.unpublished", "provenance.recipe.changed")


def load(folder: Path | str, study: str | None = None) -> pd.DataFrame:
    """Load the runs below ``folder``, one row a run: every configured key that varies, scores, sizes, time.

    ``score``: the task's first metric on the report split, of the selected weights, in points, as tables show it.
    ``select``: its select_metric on the select split, by which weights and settings are chosen. ``studies``: the
    manifests that name the run, with spaces between; ``arm``: the rows of the study's table that it stands in (without
    ``study`` of every study's), likewise, None where there are none. ``attrs["problems"]``: a sentence for
    each file that could not be used and each manifest that lacks runs, given as warnings too.

    Args:
        folder: what paths.results named when training.
        study: only the runs of this study, such as ``main_table``.

    Raises:
        UserError: no such folder, or no manifest of that study.
    """
    results = read(folder)
    runs = table(results, Path(folder), study)
    for problem in runs.attrs["problems"]:
        warnings.warn(problem, stacklevel=2)
    if study is not None:
        of_study = [study in (key.rpartition("-")[0] for key in keys.split()) for keys in runs["studies"]]
        runs = runs[of_study].reset_index(drop=True)
        if runs.empty:
            raise UserError(f"{folder}: no run of the study {study} here")
    return varying(runs)


def table(results: Results, folder: Path, study: str | None = None) -> pd.DataFrame:
    """Add ``studies``, ``arm`` and ``attrs["problems"]`` to :func:`frame` of ``results``, read from ``folder``.

    ``study``: whose arms count; None = those of all.
    """
    named, arms, problems = _manifests(folder, results.records.keys(), study)
    runs = frame(results.records.values())
    runs["studies"] = [" ".join(named.get(run_id, [])) for run_id in runs["run_id"]]
    runs["arm"] = [" ".join(arms.get(run_id, [])) or None for run_id in runs["run_id"]]
    runs.attrs["problems"] = [*results.problems, *problems]
    return runs


def _manifests(
    folder: Path, known: Collection[str], study: str | None
) -> tuple[dict[str, list[str]], dict[str, dict[str, None]], list[str]]:
    """Run id -> its studies, and its arms; and a sentence for each manifest that is damaged or lacks runs."""
    named: dict[str, list[str]] = {}
    arms: dict[str, dict[str, None]] = {}
    problems = []
    for file in sorted((folder / studies.FOLDER).glob("*.json")):
        try:
            manifest = studies.read(file)
        except UserError as error:
            problems.append(str(error))
            continue
        entries, arm = manifest["runs"], manifest["fixed"].get(studies.ARM)
        for run_id in dict.fromkeys(entry["run_id"] for entry in entries):
            named.setdefault(run_id, []).append(file.stem)
            if arm and study in (None, file.stem.rpartition("-")[0]):
                arms.setdefault(run_id, {})[arm] = None
        if missing := sum(entry["run_id"] not in known for entry in entries):
            problems.append(f"{file}: {missing} of its {len(entries)} runs have no record here")
    return named, arms, problems


def varying(runs: pd.DataFrame) -> pd.DataFrame:
    """Drop empty columns, and the configured keys that have one value in all ``runs``."""
    constant = [key for key in runs.attrs["configured"] if runs[key].astype(str).nunique(dropna=False) < 2]
    return runs.drop(columns=constant).dropna(axis="columns", how="all")


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row a record, with every configured key; ``attrs["configured"]`` lists these.

    Rows are sorted by backbone, task, method, seed and run id.
    """
    found = [_row(record) for record in records]
    configured = list(dict.fromkeys(key for config, _ in found for key in config))
    rows = pd.DataFrame([config | values for config, values in found])
    if rows.empty:
        rows = pd.DataFrame(columns=[*IDENTITY, "score", "select"])
    rows = rows.sort_values(["backbone", "task", "method", "seed", "run_id"], ignore_index=True)
    first = [*IDENTITY, "score", "select"]
    rows = rows[[*first, *(key for key in rows if key not in first)]]
    rows.attrs["configured"] = [key for key in configured if key not in first]
    return rows


def _row(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configured keys of a record, and everything else of its row."""
    config, metrics = record["config"], record["metrics"]
    values: dict[str, Any] = {"run_id": record["run_id"], "seed": config["seed"], "status": record["status"]}
    values |= {group: config[group]["name"] for group in NAMED}
    shown, chooses = (config["task"].get("metrics") or [""])[0], config["task"].get("select_metric", "")
    values["score"] = points(metrics["selected"]["report"].get(shown))
    values["select"] = points(metrics["selected"]["select"].get(chooses))
    for above, which in (("", "selected"), ("last.", "last")):
        for split, scores in metrics[which].items():
            if isinstance(scores, Mapping):
                values |= {f"{above}{split}.{name}": points(score) for name, score in scores.items()}
            else:
                values[f"{above}{split}"] = scores
    ranks = record["ranks"]
    values["ranks"], values["matrices"] = (sum(ranks.values()), len(ranks)) if ranks else (math.nan, math.nan)
    values |= _dependence(record)
    values["epochs"] = record["history"][-1]["epoch"] if record["history"] else 0.0
    values |= {f"data.{split}": size for split, size in record["data"]["sizes"].items()}
    values |= {"data.sha256": record["data"]["sha256"], "pack.size": record["pack"]["size"]}
    for part in PARTS:
        values |= dict(leaves(record.get(part, {}), f"{part}."))
    return dict(leaves(config)), values


def points(value: float | None) -> float:
    """Return a metric of a record in points; NaN where it was not finite, or is not there."""
    return math.nan if value is None else 100.0 * value


def leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten an object to dotted keys, lists as tuples; without the names of a configuration's groups."""
    for name, value in node.items():
        key = f"{above}{name}"
        if key in LEFT_OUT or (name == "name" and above[:-1] in NAMED):
            continue
        if isinstance(value, Mapping):
            yield from leaves(value, f"{key}.")
        else:
            yield key, frozen(value)


def frozen(value: Any) -> Any:
    """Return the value, lists and objects as tuples, so that it can be a key."""
    if isinstance(value, Mapping):
        return tuple((str(key), frozen(each)) for key, each in sorted(value.items()))
    return tuple(frozen(each) for each in value) if isinstance(value, list | tuple) else value


def data_dependence(ranks: Mapping[str, int], no_data: Mapping[str, int]) -> dict[str, float]:
    """Measure how far a run's ranks are from those left without any data (``no_data_ranks``), matrix by matrix.

    ``index``: 1 - Pearson's correlation; 0: the draw explains every rank. NaN where one side is the same in every
    matrix. ``differ``: the share of the matrices whose two ranks differ. Raises ValueError where the matrices are not
    the same, or there are none.
    """
    if not ranks or ranks.keys() != no_data.keys():
        raise ValueError(f"ranks of {len(ranks)} matrices, no-data ranks of {len(no_data)}: must be of the same")
    x, y = np.array([[ranks[name], no_data[name]] for name in ranks], dtype=float).T
    index = math.nan if np.ptp(x) == 0 or np.ptp(y) == 0 else 1.0 - float(np.corrcoef(x, y)[0, 1])
    return {"index": max(index, 0.0), "differ": float(np.mean(x != y))}


def _dependence(record: Record) -> dict[str, float]:
    """Return the columns of a row; no index where hardly a rank died, as a few gates near zero would make all of it."""
    ranks, drawn, method = record["ranks"], record.get("no_data_ranks", {}), record["config"]["method"]
    whole = method["name"] == "sora" and sum(ranks.values()) > MOST_ALIVE * method["r"] * len(ranks)
    found = dict.fromkeys(("data_dependence", "data_dependence_same_total", "ranks_differ"), math.nan)
    for name, column in (("selected", "data_dependence"), ("same_total", "data_dependence_same_total")):
        if ranks and ranks.keys() == drawn.get(name, {}).keys():
            each = data_dependence(ranks, drawn[name])
            found[column] = math.nan if whole else each["index"]
            if name == "selected":
                found["ranks_differ"] = each["differ"]
    return found


# -- longer tables ---------------------------------------------------------------------------------------------


def history(records: Iterable[Record]) -> pd.DataFrame:
    """List each evaluation of each run as one row: run_id, step, epoch, lr, threshold, loss, live_ranks, select.*."""
    return pd.DataFrame(
        [
            {"run_id": record["run_id"]}
            | {key: frozen(value) for key, value in entry.items() if key != "select"}
            | {f"select.{name}": points(value) for name, value in entry["select"].items()}
            for record in records
            for entry in record["history"]
        ]
    )


def ranks(records: Iterable[Record]) -> pd.DataFrame:
    """List each adapted matrix of each run as one row: run_id, module, rank, and where they are known no_data_rank.

    no_data_rank_same_total: of the initial draw as well, as many ranks in all as the run has.
    """
    return pd.DataFrame(
        [
            {
                "run_id": record["run_id"],
                "module": name,
                "rank": rank,
                "no_data_rank": record.get("no_data_ranks", {}).get("selected", {}).get(name, math.nan),
                "no_data_rank_same_total": record.get("no_data_ranks", {}).get("same_total", {}).get(name, math.nan),
            }
            for record in records
            for name, rank in record["ranks"].items()
        ]
    )
