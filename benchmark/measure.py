"""Contestants in processes of their own.

On a CPU they take turns: every round, each trains the same number of steps, so that what slows the machine slows all.
On a GPU they come one after another: its memory would not hold all of a section, and nobody else uses it meanwhile.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from benchmark.cases import Case

WARM_UP = 3  # steps of a first turn that is not reported, from which a turn's length follows; one in a quick run
ROUND_S = 0.5  # seconds that the fastest contestant's turn should take
LONGEST_S = 3.0  # and the slowest one's at most
MOST_STEPS, MOST_ROUNDS, LEAST_ROUNDS = 50, 15, 3


class Finished(Exception):
    """Raised in a contestant when nothing more is asked of it."""


class Gate:
    """Stands between a contestant's steps: waits for the turn, times it, reports it.

    All contestants get ready and take their first step side by side, which is on one thread each, ``threads`` from
    then on: processes that spin for the same cores would make each other wait many times longer than the work takes.
    """

    def __init__(self, connection: Connection, cuda: bool, threads: int) -> None:
        self.connection, self.cuda, self.threads = connection, cuda, threads
        self.wanted, self.done = 1, 0
        self.started = time.perf_counter()

    def step(self) -> None:
        """Called after every optimiser step. Raises Finished when the measurement is over."""
        import torch

        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        self.done += 1
        if self.done < self.wanted:
            return
        self._wait_for_device()
        self.connection.send((time.perf_counter() - self.started, self._peak()))
        self.wanted, self.done = self.connection.recv(), 0
        if not self.wanted:
            raise Finished
        self._wait_for_device()
        self.started = time.perf_counter()

    def _wait_for_device(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize()

    def _peak(self) -> int:
        """Bytes: what torch allocated on a GPU, the resident set of the process on a CPU."""
        if self.cuda:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Result:
    """What was measured of a case: seconds of each turn of ``steps`` steps; ``error``: why there is nothing."""

    case: Case
    steps: int = 0
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    error: str = ""


class Contestant:
    """A case and the process that trains it."""

    def __init__(self, case: Case, context: Any, cuda: bool) -> None:
        self.result = Result(case)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, case, cuda), daemon=True)
        self.process.start()
        theirs.close()

    def wait(self) -> float | None:
        """Seconds of the turn, or None, with the reason noted, when the process failed."""
        try:
            answer = self.connection.recv()
        except EOFError:
            answer = "the process ended"
        if isinstance(answer, str):
            self.result.error = answer
            return None
        seconds, self.result.peak_bytes = answer
        return float(seconds)

    def turn(self, steps: int) -> float | None:
        """Train ``steps`` steps, alone."""
        try:
            self.connection.send(steps)
        except OSError:  # it was killed while it waited for its turn
            self.result.error = "the process ended"
            return None
        return self.wait()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it failed before
            self.connection.send(0)
        self.process.join(timeout=20)
        if self.process.is_alive():
            self.process.kill()
        self.connection.close()


def take_turns(cases: Sequence[Case], cuda: bool, seconds: float, quick: bool = False) -> list[Result]:
    """Measure ``cases`` for about ``seconds``: rounds in which each has one turn, in an order drawn anew.

    On a GPU every case has its rounds alone, and a share of the seconds. ``quick``: one round of one step, to see that
    everything runs.
    """
    if not cuda:
        return _rounds(cases, cuda, seconds, quick)
    deadline, results = time.monotonic() + seconds, []
    for index, case in enumerate(cases):
        share = max(0.0, deadline - time.monotonic()) / (len(cases) - index)
        results += _rounds([case], cuda, share, quick)
    return results


def _rounds(cases: Sequence[Case], cuda: bool, seconds: float, quick: bool) -> list[Result]:
    """Rounds of cases that are alive at once."""
    deadline = time.monotonic() + seconds
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else a library that looks for a GPU spoils it for the forks
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmark.contestants"])  # torch, transformers and peft are imported once
    contestants, warm_up = [Contestant(case, context, cuda) for case in cases], 1 if quick else WARM_UP
    try:
        ready = [each for each in contestants if each.wait() is not None]
        steps = {each: taken / warm_up for each in ready if (taken := each.turn(warm_up)) is not None}
        alive = list(steps)
        length = 1 if quick else turn_length(list(steps.values()))
        rounds, order = 0, random.Random(0)
        while alive and rounds < (1 if quick else MOST_ROUNDS):
            if rounds >= LEAST_ROUNDS and time.monotonic() > deadline:
                break
            order.shuffle(alive)
            for each in list(alive):
                taken = each.turn(length)
                if taken is None:
                    alive.remove(each)
                    continue
                each.result.steps = length
                each.result.seconds.append(taken)
            rounds += 1
        return [each.result for each in contestants]
    finally:
        for each in contestants:
            each.close()


def turn_length(seconds: Sequence[float]) -> int:
    """Steps of a turn, from what one step of each contestant took: enough to be timed, short enough for all."""
    if not seconds:
        return 2
    return max(2, min(MOST_STEPS, round(ROUND_S / min(seconds)), round(LONGEST_S / max(seconds))))


def _serve(connection: Connection, case: Case, cuda: bool) -> None:
    """Body of a contestant's process: train until it is to stop; what goes wrong is sent as one line."""
    import torch

    from benchmark import contestants

    threads = torch.get_num_threads()
    if not cuda:
        torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (advice and bars of the libraries; lives as long)
    try:
        contestants.TRAIN[case.kind](case, Gate(connection, cuda, threads))
    except Finished:
        return
    except Exception as error:  # a contestant that cannot run is a row that says so
        connection.send(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
