"""Measure what training costs, against what people would run instead.

    make bench DATA=/path/to/data        or        python scripts/bench.py [--quick] [--section WORDS]

Real texts of RTE and CoLA. On a machine with a GPU the shapes that need one are measured, elsewhere MiniLM-L6 on the
CPU; what is not measured says so. Ends in a quarter of an hour. Prints a table and writes it, with the measurements and
their circumstances, to <results>/bench/. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import report
from benchmark.cases import sections
from benchmark.measure import take_turns
from sora.cli.console import run
from sora.errors import UserError
from sora.files import write_text
from sora.runs.commands import published
from sora.runs.compose import runs_of
from sora.tasks import load

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = {"cpu": 10 * 60, "cuda": 9 * 60}
STARTS = {  # commands whose start-up is measured, and how often
    "python run.py --help": 3,
    "python run.py metod=lora": 3,
}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    options = _parser().parse_args(words)
    found = measure(options.section, options.quick, options.minutes)
    name = f"{found['provenance']['started'].replace(':', '').replace('-', '')[:15]}-{found['device']}"
    path = options.results / "bench" / f"{name}{'-quick' if options.quick else ''}.json"
    table = report.markdown(found)
    write_text(path, json.dumps(found, indent=1) + "\n")
    write_text(path.with_suffix(".md"), table)
    print(table)
    print(path)
    return 0


def measure(only: str, quick: bool, minutes: float | None = None) -> dict[str, Any]:
    """All sections whose title has the words ``only``, in about ``minutes``.

    Raises UserError where the data or a section is missing.
    """
    for task in ("rte", "cola"):  # now, in one sentence, and not once in every process
        (run,) = runs_of(["backbone=minilm-l6", f"task={task}"])
        load(run.task, run.protocol, run.data)
    chosen = [each for each in sections() if only in each.title]
    if not chosen:
        raise UserError(f"--section {only}: no section has that in its title; rte, deberta, pack size are some that do")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the Trainer would spread a batch over all there are
    from sora.training.job import now

    device, started = _device(), now()
    startup = {} if quick or only else {command: _start(command, times) for command, times in STARTS.items()}
    limit = LIMIT_S[device] if minutes is None else minutes * 60
    deadline, written = time.monotonic() + limit, []
    waiting = [each for each in chosen if each.device == device]
    for each in chosen:
        results = []
        if each in waiting:
            share = max(0.0, deadline - time.monotonic()) / (len(waiting) - waiting.index(each))
            print(f"{each.title} ({len(each.cases)} contestants, about {share:.0f} s)", file=sys.stderr, flush=True)
            results = take_turns(each.cases, device == "cuda", share, quick)
        written.append(report.section(each, results))
    return {
        "schema": report.SCHEMA,
        "device": device,
        "quick": quick,
        "sections": written,
        "startup": startup,
        "provenance": _provenance(device) | {"started": started, "finished": now()},
    }


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _provenance(device: str) -> dict[str, Any]:
    import torch

    from sora.training.device import environment

    cores = len(os.sched_getaffinity(0))
    return environment(torch.device(device)) | {
        "cores": cores,
        "command": published(["python", "scripts/bench.py", *sys.argv[1:]]),
    }


def _start(command: str, times: int) -> list[float]:
    """Seconds of each of ``times`` calls."""
    seconds = []
    for _ in range(times):
        clock = time.perf_counter()
        words = [sys.executable, str(ROOT / "run.py"), *command.split()[2:]]
        subprocess.run(words, capture_output=True, check=False)
        seconds.append(time.perf_counter() - clock)
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench.py",
        description="Measure a training step against peft and the Trainer, taking turns, on real texts.",
    )
    parser.add_argument("--quick", action="store_true", help="one short turn each: to see that everything runs")
    parser.add_argument("--section", default="", metavar="WORDS", help="only sections with these words in their title")
    parser.add_argument("--minutes", type=float, help="how long it may take (default: 10 on a CPU, 9 on a GPU)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where bench/ is written (default: results)"
    )
    return parser


if __name__ == "__main__":
    run(main)
