"""Kill a training at random moments and check that it ends with the record of an undisturbed one.

    SORA_DATA=/path/to/glue python scripts/chaos.py --kills 20 [--seed 0] [--keep FOLDER] [overrides]

A run of RTE on minilm-l6 is trained once without disturbance. Then, --kills times in a fresh folder, the same command
is started, killed with SIGKILL, and repeated until it ends. The moments are spread over the four things that a training
does (a training step, an evaluation, writing a checkpoint, writing a record); which of them, and when in its course, is
drawn from --seed. Compared are records.science and the arrays of logits. Exit status 1 when one differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import pkgutil
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sora.runs import records

PHASES = {  # what is done -> the names under which the function that does it is called
    "training": ["sora.training.loop.Loop._update"],
    "evaluation": ["sora.training.loop.predict", "sora.training.evaluation.predict"],
    "checkpoint": ["sora.training.checkpoint.save"],
    "record": ["sora.runs.records.write"],
}
RTE = (
    "method=sora",
    "task=rte",
    "seed=0",
    "backbone=minilm-l6",
    "recipe=none",
    "trainer.max_steps=9",
    "trainer.max_length=8",
    "trainer.batch_size=4",
    "trainer.eval_every=4",
    "trainer.checkpoint_every=3",
)
PRELOAD = ("sora.cli.main", "sora.training.session", "transformers.models.bert.modeling_bert")
Span = tuple[float, float]  # seconds since the process began


@dataclass(frozen=True)
class Kill:
    """SIGKILL ``delay_s`` after the ``call``-th call (from 0) of a phase has begun."""

    phase: str
    call: int
    delay_s: float


def run(
    folder: Path, overrides: Sequence[str], kill: Kill | None = None, prepare: Callable[[], None] | None = None
) -> int:
    """The command ``python run.py <overrides>`` in ``folder``, in a process of its own; its exit status.

    ``prepare``, a function of some module, is called in that process before the command.
    """
    process = _processes().Process(target=_command, args=(folder, list(overrides), kill, prepare))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def spans(folder: Path) -> dict[str, list[Span]]:
    """When each call of each phase began and ended, of the last command that ended in ``folder``."""
    noted = json.loads((folder / "spans.json").read_text())
    return {phase: [(began, ended) for began, ended in calls] for phase, calls in noted.items()}


def moments(undisturbed: dict[str, list[Span]], count: int, rng: random.Random) -> Iterator[Kill]:
    """``count`` kills, each phase in turn."""
    phases = [phase for phase in PHASES if undisturbed[phase]]
    for number in range(count):
        phase = phases[number % len(phases)]
        call = rng.randrange(len(undisturbed[phase]))
        began, ended = undisturbed[phase][call]
        yield Kill(phase, call, rng.uniform(0.0, ended - began))


def disturbed(folder: Path, overrides: Sequence[str], kill: Kill) -> bool:
    """Run, be killed, and repeat the command until it ends; whether the kill came before the end.

    Raises:
        RuntimeError: the repeated command fails.
    """
    status = run(folder, overrides, kill)
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{kill}: exit status {status}; see {folder}/output.txt")
    again = run(folder, overrides)
    if again != 0:
        raise RuntimeError(f"repeated after {kill}: exit status {again}; see {folder}/output.txt")
    return status != 0


def left(folder: Path) -> list[dict[str, Any]]:
    """What the runs of a folder ended in: science and, by their hash in it, the arrays, which must be readable."""
    paths = sorted((folder / "results" / "records").rglob("*.json"))
    for path in paths:
        records.read_arrays(path)
    return [records.science(records.read(path)) for path in paths]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill it (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--keep", type=Path, help="keep what the runs leave in this folder (default: remove it)")
    parser.add_argument("overrides", nargs="*", default=[], help="further overrides of the run, such as seed=[0,1]")
    options = parser.parse_args(arguments)
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep {options.keep}: there is something in it already; name an empty or a new folder")
    overrides = [*RTE, *options.overrides]
    with contextlib.ExitStack() as stack:
        place = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        whole = place.resolve() / "undisturbed"
        if (status := run(whole, overrides)) != 0:
            print((whole / "output.txt").read_text(), file=sys.stderr)
            return status
        expected, undisturbed = left(whole), spans(whole)
        print("undisturbed: " + ", ".join(f"{len(each)} x {phase}" for phase, each in undisturbed.items()), flush=True)
        equal = 0
        for number, kill in enumerate(moments(undisturbed, options.kills, random.Random(options.seed)), start=1):
            folder = place.resolve() / f"kill-{number:02d}"
            killed, same = disturbed(folder, overrides, kill), left(folder) == expected
            where = f"{kill.phase} {kill.call + 1}, {kill.delay_s * 1000:.1f} ms after its begin"
            end = "the command was over before" if not killed else "equal" if same else "DIFFERENT"
            print(f"{number:3d}  killed in {where}: {end}", flush=True)
            equal += killed and same
    print(f"{equal} of {options.kills} equal")
    return 0 if equal == options.kills else 1


# -- in the process that is killed -----------------------------------------------------------------------------


def _processes() -> Any:
    """Where processes come from: forked from one that has imported what a training needs, and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


def _command(folder: Path, overrides: list[str], kill: Kill | None, prepare: Callable[[], None] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["run.py", *overrides]
    calls: dict[str, list[Span]] = {phase: [] for phase in PHASES}
    for phase, names in PHASES.items():
        timer = _Timer(kill.call, kill.delay_s) if kill is not None and kill.phase == phase else None
        for name in names:
            _watch(name, calls[phase], timer)
    if prepare is not None:
        prepare()
    from sora.cli.main import main

    main()
    Path("spans.json").write_text(json.dumps(calls))


class _Timer:
    """Ends the process ``delay_s`` after the ``call``-th call that it is given."""

    def __init__(self, call: int, delay_s: float) -> None:
        self.left, self.delay_s = call, delay_s

    def note_call(self) -> None:
        if self.left == 0:
            threading.Thread(target=self._die, daemon=True).start()
        self.left -= 1

    def _die(self) -> None:
        time.sleep(self.delay_s)
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(name: str, calls: list[Span], timer: _Timer | None) -> None:
    """Enter into ``calls`` when each call of a function begins and ends, and tell the timer of it."""
    path, _, name = name.rpartition(".")
    owner: Any = pkgutil.resolve_name(path)
    whole: Callable[..., Any] = getattr(owner, name)

    def watched(*arguments: Any, **keywords: Any) -> Any:
        if timer is not None:
            timer.note_call()
        began = time.monotonic()
        answer = whole(*arguments, **keywords)
        calls.append((began, time.monotonic()))
        return answer

    setattr(owner, name, watched)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
