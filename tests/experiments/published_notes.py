"""The two notes on published numbers, results/published/anomalies.md and dispersion.md, computed from those numbers.

    python -m tests.experiments.published_notes        # writes both anew; test_published_notes.py compares them

anomalies.md: an accuracy on n items is a whole number of n-ths, so that a mean and a standard deviation over k runs can
take few values (the GRIM and SPRITE tests: Brown and Heathers (2017), Social Psychological and Personality Science
8(4)). dispersion.md: were each of the ranks of each matrix kept with one chance, the ranks would be binomial; their
variance against that one's is Fisher's index of dispersion, about chi-square (Fisher (1925), Statistical Methods for
Research Workers).
"""

from __future__ import annotations

import math
from itertools import combinations, combinations_with_replacement

import numpy as np
from scipy import stats

from experiments.labels import METHODS, TASKS
from experiments.published import FOLDER, ranks, scores

HALF, WHOLE = {"rte": 139, "mrpc": 204}, {"rte": 277, "mrpc": 408}  # items of the split that is reported on
RUNS = 5  # as the papers say
R_MAX, LEVEL = 8, 0.05
PRINTED = 0.005 + 1e-9  # a printed number with two decimals stands for anything this near


def printable(mean: float, sd: float | None, items: int, runs: int) -> list[str]:
    """By which SD so many accuracies on so many items can print as ``mean ± sd``; of none asked for, ``any``.

    Every combination is tried whose total the mean allows. A log may have rounded what was averaged.
    """
    middle, reach = mean * items / 100, 0.0 if sd is None else (sd + 0.01) * math.sqrt(runs) * items / 100
    right = range(max(0, math.floor(middle - reach - 1)), min(items, math.ceil(middle + reach + 1)) + 1)
    first = np.array(list(combinations_with_replacement(right, runs - 1)))
    found = set()
    for total in range(math.ceil(runs * (middle - items / 1e4)), math.floor(runs * (middle + items / 1e4)) + 1):
        last = total - first.sum(axis=1)
        whole = (last >= first[:, -1]) & (last <= right[-1])
        exact = 100 * np.column_stack([first, last])[whole] / items
        for values in (exact, exact.round(2)):
            near = np.abs(values.mean(axis=1) - mean) <= PRINTED
            for name, less in (("population", 0), ("sample", 1)) if sd is not None else ():
                if (near & (np.abs(values.std(axis=1, ddof=less) - sd) <= PRINTED)).any():
                    found.add(name)
            if sd is None and near.any():
                found.add("any")
    return sorted(found)


def anomalies() -> str:
    """The text of anomalies.md."""
    cells = scores()
    cells = cells[cells["task"].isin(HALF) & (cells["metric"] == "accuracy")]
    sora = cells[(cells["source"] == "sora") & cells["sd"].notna()]
    lines, elsewhere, nowhere = [], [], []
    for cell in sora.drop_duplicates(["method", "task", "mean", "sd"]).itertuples():  # Table 2 repeats rows of Table 1
        name, printed = _name(cell.method, cell.setting), f"{cell.mean:.2f} ± {cell.sd:.2f}"
        stated, others = printable(cell.mean, cell.sd, HALF[cell.task], RUNS), ""
        if not stated:
            others = "; ".join(
                f"{runs} runs on {items} ({deviation} SD)"
                for items in (HALF[cell.task], WHOLE[cell.task])
                for runs in range(RUNS, 1, -1)
                for deviation in printable(cell.mean, cell.sd, items, runs)
            )
            place = f"{name}, {TASKS[cell.task]} {printed} (Table {cell.table})"
            (elsewhere if others else nowhere).append(place)
            others = others or "**nothing**"
        words = f"yes, {' or '.join(stated)} SD" if stated else "**no**"
        lines.append(f"| {cell.table} | {name} | {TASKS[cell.task]} | {printed} | {words} | {others} |")
    means = [
        f"| {_name(cell.method, cell.setting)} | {cell.params} | {TASKS[cell.task]} | {cell.mean:.2f} "
        f"| {'yes' if printable(cell.mean, None, WHOLE[cell.task], RUNS) else '**no**'} |"
        for cell in cells[cells["source"] == "adalora"].itertuples()
    ]
    closing = [
        f"No {RUNS} runs on the half print these, but other runs do: {'; '.join(elsewhere) or 'none'}.",
        f"No 2 to {RUNS} runs on either print these as accuracies: {'; '.join(nowhere) or 'none'}.",
    ]
    return _filled("anomalies.md", ["\n".join(lines), "\n\n".join(closing), "\n".join(means)])


def _name(method: str, setting: str) -> str:
    name = {"hadapter": "HAdapter", "padapter": "PAdapter"}.get(method, METHODS.get(method, method))
    return f"{name} {setting.removeprefix('method.')}".strip()


def dispersion() -> str:
    """The text of dispersion.md."""
    maps = {
        TASKS[task]: part.filter(like="layer_").to_numpy().ravel() for task, part in ranks().groupby("task", sort=False)
    }
    lines, chance = [], []
    for task, values in maps.items():
        kept = values.mean() / R_MAX
        ratio = values.var(ddof=1) / (R_MAX * kept * (1 - kept))
        p = stats.chi2.sf(ratio * (len(values) - 1), len(values) - 1)
        chance += [task] if p >= LEVEL else []
        lines.append(f"| {task} | {100 * kept:.1f} % | {ratio:.2f} | {_p(p)} | {'yes' if p < LEVEL else '**no**'} |")
    closing = f"{len(chance)} of the {len(maps)} printed maps cannot be told from cutting ranks at random"
    closing = f"{closing}: {', '.join(chance)}." if chance else f"{closing}."
    pairs = []
    for one, other in combinations(maps, 2):
        found = stats.pearsonr(maps[one], maps[other])
        pairs.append(f"| {one}, {other} | {found.statistic:.2f} | {_p(found.pvalue)} |")
    return _filled("dispersion.md", ["\n".join(lines), closing, "\n".join(pairs)])


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _filled(name: str, parts: list[str]) -> str:
    """The note with its computed parts anew: the rows of its tables and the sentences after the first of them."""
    found, blocks = [], (FOLDER / name).read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    rows, closing, more = parts
    for index, block in enumerate(blocks):
        if block.startswith("|"):
            block = "\n".join([*block.splitlines()[:2], rows if not found else more])
            found.append(index)
        blocks[index] = block
    first = found[0]
    count = len(closing.split("\n\n"))
    return "\n\n".join([*blocks[: first + 1], closing, *blocks[first + 1 + count :]]) + "\n"


if __name__ == "__main__":
    for note, text in (("anomalies.md", anomalies()), ("dispersion.md", dispersion())):
        (FOLDER / note).write_text(text, encoding="utf-8")
