"""Numbers that the README quotes are those of the files under results/ that it names."""

from __future__ import annotations

import csv
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_it_shows_is_there() -> None:
    named = re.findall(r"\]\((results/[^)]*)\)", README)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_main_table() -> None:
    (path,) = (ROOT / "results" / "tables").glob("main_table-*/main_table.csv")
    found = rows(path)
    scores = [name.removesuffix(" sd") for name in found[0] if name.endswith(" sd")]
    assert (len(found), len(scores)) == (6, 4)
    assert f"| method | live parameters | {' | '.join(scores)} |" in README
    for row in found:
        line = next(line for line in README.splitlines() if line.startswith(f"| {row['method']} | "))
        cells = [f"{float(row[name]):.2f} ± {float(row[f'{name} sd']):.2f}" for name in scores]
        assert f"| {' | '.join(cells)} |" in line


def test_sora_against_lora() -> None:
    claims = {(row["claim"], row["task"]): row for row in rows(ROOT / "results" / "tables" / "claims" / "claims.csv")}
    tasks = [task for claim, task in claims if claim == "SoRA scores higher than LoRA"]
    assert len(tasks) == 4
    for task in tasks:
        higher, fewer = (
            claims[f"SoRA {what} than LoRA", task] for what in ("scores higher", "has fewer live parameters")
        )
        low, high = float(higher["95 % interval"]), float(higher["95 % interval high"])
        score = f"{float(higher['ours']):+.2f} | {low:+.2f} to {high:+.2f}"
        assert f"| {task} | {score} | {float(fewer['ours']):+.0f} % | {higher['verdict']} |" in README


def test_the_speed_table() -> None:
    (path,) = (ROOT / "results" / "bench").glob("*-cpu.md")
    titles = {
        "RTE, batch 8": "rte, sora, batch 8",
        "RTE, batch 32": "rte, sora, batch 32",
        "CoLA, batch 8": "cola, sora, batch 8",
    }
    found = sections(path.read_text(encoding="utf-8"))
    (start,) = (i for i, line in enumerate(README.splitlines()) if line.startswith("| | RTE, batch 8 |"))
    head, _, *lines = README.splitlines()[start : start + 7]
    for line in lines:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for column, cell in zip(head.strip("|").split("|")[1:], cells, strict=True):
            rows = found[f"minilm-l6, {titles[column.strip()]} (CPU)"]
            assert cell == (rows[name]["speed / Trainer"] if name in rows else "not measured")
    quoted = [
        found["minilm-l6, rte, sora, batch 8 (CPU)"]["peft, our batches (LoRA)"]["speed / ours solo"],
        found["minilm-l6, cola, sora, batch 8 (CPU)"]["peft, our batches (LoRA)"]["speed / ours solo"],
        found["minilm-l6, rte, batch 8, without dropout (CPU)"]["ours, sora"]["time / frozen"],
    ]
    assert [number for number in quoted if number not in README] == []


def sections(text: str) -> dict[str, dict[str, dict[str, str]]]:
    """The tables of a benchmark: section -> contestant -> column -> cell."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for section in text.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        if cells:
            found[title] = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}
    return found
