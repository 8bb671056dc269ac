"""What holds on a CUDA device, shown on the pretend one: ``python -m tests.pretend_cuda.checks [--all] [NAME ...]``.

Prints a line for each case and ends with the number of failures. ``--all`` takes every family with every method in
fp32, with dropout and in bf16, and the launches of the real architectures; without it a chosen few. It runs in a
process of its own, because the device must be loaded before torch. ``planted`` shows that the others can fail; like the
mutants of tests/mutation it is no part of make test.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.pretend_cuda.device import Device, load

MORE: dict[str, dict[str, Any]] = {  # next to tests.tiny.METHODS
    "lora-dropout": {"name": "lora", "dropout": 0.1},
    "full": {"name": "full"},
    "peft-lora": {"name": "peft", "peft_type": "LORA", "options": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}},
    "peft-dora": {"name": "peft", "peft_type": "DORA", "options": {"r": 4, "lora_alpha": 8}},
}
Case = tuple[str, str, str, float | None]  # family, method, precision, dropout (None: the architecture's)
FEW: tuple[Case, ...] = (
    ("roberta", "adalora", "fp32", None),
    ("roberta", "bitfit", "bf16", None),
    ("bert", "lora-dropout", "bf16", None),
    ("bert", "adapter", "fp32", 0.0),
    ("deberta-v2", "sora", "fp32", None),
    ("deberta-v2", "full", "fp32", None),
    ("deberta-v2", "peft-dora", "fp32", None),
    ("deberta-v2", "sora-paper", "bf16", None),
    ("albert", "lora-dropout", "fp32", 0.1),  # one site, used by several layers
)


def every_case() -> list[Case]:
    from tests import tiny

    settings = (("fp32", 0.0), ("fp32", None), ("bf16", None))
    return [(family, method, *how) for family in tiny.FAMILIES for method in tiny.METHODS | MORE for how in settings]


def runs(case: Case, seeds: list[int] | None = None, **trainer: Any) -> list[Any]:
    """Three runs of a case (one where a method cannot be packed), six steps long."""
    from tests import tiny

    family, name, precision, dropout = case
    method = (tiny.METHODS | MORE)[name]
    if seeds is None:
        seeds = [0] if method["name"] in ("full", "peft") else [0, 1, 2]
    short = {"max_steps": 6, "eval_every": 3, "checkpoint_every": 2, "log_every": 2} | trainer
    return tiny.runs(
        family, seeds, method=dict(method), precision=precision, backbone={"dropout": dropout}, trainer=short
    )


def trained(configs: list[Any], place: str, folder: Path, double: bool = True, **loop: Any) -> Any:
    """The loop of a pack that has trained on ``place``."""
    import torch

    from tests import tiny

    with contextlib.redirect_stderr(io.StringIO()):
        return tiny.finish(tiny.pack(configs, torch.float64 if double else torch.float32, device=place), folder, **loop)


CAPTURING = "CUDA error: operation not permitted when stream is capturing"
Verdict = tuple[bool, str, str]  # whether it holds, the case, what was found


def as_on_the_cpu(device: Device, cases: tuple[Case, ...] | list[Case]) -> Iterator[Verdict]:
    """Trained, evaluated, saved and exported, a run is on the device what it is on the CPU: in float64 to 1e-9."""
    import torch

    from sora.training.evaluation import predict

    for case in cases:
        ends = {}
        with tempfile.TemporaryDirectory() as folder:
            for place in ("cpu", "cuda"):
                loop = trained(runs(case), place, Path(folder) / place, double=case[2] == "fp32")
                pack = loop.pack
                logits = torch.from_numpy(predict(pack, pack.splits["report"]))
                for replica in range(pack.replicas):
                    pack.method.export(replica, Path(folder) / f"{place}-{replica}", pack.model.head)
                ends[place] = (pack.optimizer.rows.detach().cpu(), logits)
        apart = max((a - b).abs().max().item() for a, b in zip(ends["cpu"], ends["cuda"], strict=True))
        yield apart < (1e-9 if case[2] == "fp32" else 0.2), f"{case}", f"{apart:.1e} apart"


def no_waits(device: Device, cases: tuple[Case, ...] | list[Case]) -> Iterator[Verdict]:
    """After the first step none waits for the device, whatever the lengths of the texts."""
    from sora.training.loop import Loop

    steps: list[dict[str, int]] = []
    whole = Loop._update

    def update(self: Loop, indices: Any) -> None:
        device.forget_waits()
        whole(self, indices)
        steps.append(device.waits())

    with mock.patch.object(Loop, "_update", update):
        for case in cases:
            steps.clear()
            with tempfile.TemporaryDirectory() as folder:
                trained(runs(case, max_steps=8, eval_every=8, log_every=8), "cuda", Path(folder), double=False)
            late = [step for step in steps[1:] if step]
            yield not late, f"{case}", f"first step {steps[0]}, later {late}"


def in_fp32(cases: tuple[Case, ...] | list[Case]) -> list[Case]:
    """Leave out the cases in bf16: what trains in float64, to be compared, has no bf16 next to it."""
    return [case for case in cases if case[2] == "fp32"]


def resumed(device: Device, cases: tuple[Case, ...] | list[Case]) -> Iterator[Verdict]:
    """A run that stops on one device goes on on another, and says that it did."""

    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        if step == 4:
            raise Stop

    for case in in_fp32(cases):
        with tempfile.TemporaryDirectory() as folder:
            whole = trained(runs(case), "cpu", Path(folder) / "whole").pack.optimizer.rows
            for first, second in (("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")):
                place = Path(folder) / f"{first}-{second}"
                with contextlib.suppress(Stop):
                    trained(runs(case), first, place, after_checkpoint=stop)
                loop = trained(runs(case), second, place)
                apart = (loop.pack.optimizer.rows.cpu() - whole).abs().max().item()
                progress = loop.progress[0]
                good = apart < 1e-9 and progress.resumed_at == [4] and progress.device_changed == (first != second)
                yield good, f"{case} {first} -> {second}", f"{apart:.1e} apart, flagged {progress.device_changed}"


def out_of_memory(device: Device, cases: object = None) -> Iterator[Verdict]:
    """A pack that the device has no memory for is halved and comes to its records."""
    from sora.runs import records
    from sora.training.runner import run_pack
    from tests.superglue import tiny_runs

    words = ("method=lora", "task=synthetic_pair", "recipe=none", "trainer.max_steps=2", "trainer.batch_size=64")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said:
        with contextlib.redirect_stdout(io.StringIO()):
            (record, _) = run_pack(tiny_runs(Path(folder) / "a", *words, "seed=[0,1]"), "test")
            device.limit(record["memory"]["peak_bytes"] * 3 // 4)
            try:
                run_pack(tiny_runs(Path(folder) / "b", *words, "seed=[0,1]"), "test")
            finally:
                device.limit(None)
        sizes = [record["pack"]["size"] for record in records.read_many(Path(folder) / "b" / "results/records")]
    split = "out of memory with 2 x 64 examples a step: split into packs of 1 + 1 runs" in said.getvalue()
    yield sizes == [1, 1] and split, "two runs, memory for one", f"packs of {sizes}; {said.getvalue()[-300:]!r}"


def mixed_devices(device: Device, cases: object = None) -> Iterator[Verdict]:
    """An operation on tensors of two devices raises, and names both; a step of a pack has none."""
    import torch

    here, there = torch.ones(3), torch.ones(3, device="cuda")
    for name, mix in (("add", lambda: here + there), ("cat", lambda: torch.cat([here, there]))):
        try:
            mix()
            yield False, name, "did not raise"
        except RuntimeError as error:
            yield "cuda:0 and cpu" in str(error), name, str(error)


def graphs(device: Device, cases: tuple[Case, ...] | list[Case]) -> Iterator[Verdict]:
    """Steps that were recorded and given again, operation by operation, train as steps that were not."""
    from sora.training import cuda_graphs as module
    from sora.training.loop import Loop
    from tests.pretend_cuda.recording import Recorder

    for case in in_fp32(cases):
        recorders: list[Recorder] = []

        def record(work: Callable[[], None], made: list[Recorder] = recorders) -> Recorder:
            made.append(Recorder(work))
            return made[-1]

        run = Loop.run

        def recorded(self: Loop, run: Any = run, record: Any = record) -> None:
            self.use_graphs(record)
            run(self)

        with tempfile.TemporaryDirectory() as folder, mock.patch.object(module, "LENGTHS", 4):
            eager = trained(runs(case), "cuda", Path(folder) / "eager").pack.optimizer.rows
            with mock.patch.object(Loop, "run", recorded):
                loop = trained(runs(case), "cuda", Path(folder) / "graphs")
        apart = (loop.pack.optimizer.rows - eager).abs().max().item()
        replays = sum(each.replays for each in recorders)
        good = apart < 1e-9 and replays == 6 and len(recorders) < 6 and not loop.progress[0].fallbacks
        found = f"{apart:.1e} apart, {len(recorders)} graphs, {replays} replays, {loop.progress[0].fallbacks}"
        yield good, f"{case}", found

        def refused(self: Loop, run: Any = run) -> None:
            self.use_graphs(cannot)
            run(self)

        with tempfile.TemporaryDirectory() as folder, mock.patch.object(Loop, "run", refused):
            loop = trained(runs(case), "cuda", Path(folder))
        apart = (loop.pack.optimizer.rows - eager).abs().max().item()
        told = [progress.fallbacks for progress in loop.progress]
        good = apart < 1e-9 and all(each == [f"cuda graphs: a step cannot be recorded ({CAPTURING})"] for each in told)
        yield good, f"{case}, a device that cannot", f"{apart:.1e} apart, {told[0]}"


def cannot(work: Callable[[], None]) -> Any:
    """A device that records nothing."""
    raise RuntimeError(CAPTURING)


def launches(device: Device, cases: object = None) -> Iterator[Verdict]:
    """Operations that a step of a real architecture launches, against transformers and peft with LoRA (1 run)."""
    from tests.pretend_cuda.counting import step_of

    everything = cases is None
    for backbone, theirs in (("deberta-v3-base", 2148), ("roberta-base", 1164)):
        counts = {}
        shallow = [] if everything else ["backbone.arch.num_hidden_layers=2"]  # layers launch alike
        twenty = f"seed={list(range(20))}".replace(" ", "")
        wanted = {"sora": ("sora", []), "one run": ("sora", shallow), "20 runs": ("sora", [twenty, *shallow])}
        if everything:
            wanted |= {
                "sora, bf16": ("sora", ["precision=bf16"]),
                "sora, no dropout": ("sora", ["backbone.dropout=0.0"]),
                "lora": ("lora", []),
                "adalora": ("adalora", []),
                "full": ("full", []),
            }
        elif backbone != "deberta-v3-base":
            continue
        for label, (method, words) in wanted.items():
            parts = step_of(backbone, method, words)
            counts[label] = sum(parts)
            yield True, f"{backbone}, {label}", f"{parts} = {sum(parts)}"
        yield counts["sora"] <= theirs, f"{backbone}: sora against peft", f"{counts['sora']} and {theirs}"
        yield counts["20 runs"] <= 1.1 * counts["one run"], f"{backbone}: 20 runs against 1", f"{counts}"
        if everything:
            yield counts["sora, bf16"] <= 1.01 * counts["sora"], f"{backbone}: bf16 against fp32", f"{counts}"
            yield counts["adalora"] <= 1.2 * counts["lora"], f"{backbone}: adalora against lora", f"{counts}"


def planted(device: Device, cases: object = None) -> Iterator[Verdict]:
    """Every bug that is planted is found by the check that is meant to find it."""
    import torch

    from sora import optim
    from sora.backbones import deberta, dropout, dropout_op
    from sora.methods.bank import Bank
    from sora.training import cuda_graphs as module
    from sora.training.loop import Loop
    from sora.training.pack import EncodedSplit

    sora, adalora = ("deberta-v2", "sora", "fp32", None), ("roberta", "adalora", "fp32", None)

    def wrong_order(self: Bank, columns: Any, outer: bool, mean: bool = False) -> Any:
        parts = columns.split_with_sizes(self.outer if outer else self.inner, dim=1)
        found = [part.reshape(self.replicas, self.r, -1).sum(-1) for part in parts]
        return torch.cat(found[::-1], dim=1)

    def no_moments(self: Any, replica: int, index: int, state: Any) -> None:
        """Nothing is restored."""

    def other_masks(x: Any, keys: Any, *how: Any) -> Any:
        return passes(x, keys + 1, *how)

    def on_the_host(table: Any, device: Any) -> Any:
        return torch.from_numpy(table)

    def waits_a_length(self: Any, length: int, device: Any) -> Any:
        return deberta.bucket_rows(length, self.buckets, self.max_position).to(device)

    def asks(self: Any, losses: Any, *how: Any) -> Any:
        assert bool(self.alive.any())
        return step(self, losses, *how)

    def from_pageable_memory(self: Any, indices: Any, device: Any) -> Any:
        labels = torch.from_numpy(self.examples.labels[indices])
        return {k: v.to(device) for k, v in self.tokens.collate(indices).items()}, labels.to(device)

    def labels_stay(self: Any, batch: Any, labels: Any) -> None:
        for name, tensor in batch.items():
            self.batch[name].copy_(tensor)
        self.labels.zero_()

    def stale_keys(self: Any, key: Any) -> None:
        begin(self, key if self._host_keys is None or self._held is None else dropout.DropoutKey(key.seeds, 0))

    def without_decay(self: Any, lr: float) -> None:
        for group in self.rows.groups:
            group.weight_decay = 0.0
        rows_step(self, lr)

    passes, step, begin, rows_step = (
        dropout_op.passes,
        optim.PackOptimizer.step,
        dropout.DropoutContext.begin,
        optim.RowsAdam.step,
    )
    bugs: list[tuple[str, Any, str, Any, Any, Case]] = [
        ("gates get one another's gradients", Bank, "by_rank", wrong_order, as_on_the_cpu, sora),
        ("AdamW of the rows forgets the decay", optim.RowsAdam, "step", without_decay, as_on_the_cpu, sora),
        ("moments are lost on resuming", optim.RowsAdam, "load_state", no_moments, resumed, adalora),
        ("masks differ from the CPU's", dropout_op, "passes", other_masks, as_on_the_cpu, sora),
        ("a table stays on the host", sys.modules["sora.methods.bank"], "_moved", on_the_host, as_on_the_cpu, sora),
        ("a table is copied for each length", deberta.Distances, "__call__", waits_a_length, no_waits, sora),
        ("a step asks the device", optim.PackOptimizer, "step", asks, no_waits, sora),
        ("a batch is not pinned", EncodedSplit, "batch", from_pageable_memory, no_waits, sora),
        ("a recorded step keeps its labels", module._Step, "fill", labels_stay, graphs, sora),
        ("a recorded step keeps its masks", dropout.DropoutContext, "begin", stale_keys, graphs, sora),
    ]
    assert Loop is not None
    for label, owner, name, bug, check, case in bugs:
        with mock.patch.object(owner, name, bug):
            try:
                failed = [found for good, _, found in check(device, [case]) if not good]
            except Exception as error:  # a crash is a find too
                failed = [f"{type(error).__name__}: {str(error)[:120]}"]
        yield bool(failed), label, f"found by {check.__name__}: {failed[:1]}"


CHECKS: dict[str, tuple[Callable[[Device, Any], Iterator[Verdict]], Any]] = {
    "as_on_the_cpu": (as_on_the_cpu, FEW),
    "no_waits": (no_waits, (FEW[0], FEW[4], FEW[7])),
    "resumed": (resumed, (("deberta-v2", "sora", "fp32", None), ("roberta", "adalora", "fp32", None))),
    "out_of_memory": (out_of_memory, None),
    "mixed_devices": (mixed_devices, None),
    "graphs": (
        graphs,
        (
            ("deberta-v2", "sora-sum", "fp32", None),
            ("deberta-v2", "lora-dropout", "fp32", None),
            ("roberta", "adalora", "fp32", None),
        ),
    ),
    "launches": (launches, ()),
    "planted": (planted, None),
}


def main() -> int:
    """Run the checks; returns 1 where one failed."""
    parser = argparse.ArgumentParser(description="Checks on the pretend CUDA device.")
    parser.add_argument("--all", action="store_true", help="every case, not a chosen few")
    parser.add_argument("names", nargs="*", choices=[*CHECKS, []], help="default: all")
    options = parser.parse_args()
    device = load()
    import torch

    torch.set_num_threads(1)
    failures = 0
    for name in options.names or CHECKS:
        check, few = CHECKS[name]
        cases = few if not options.all else None if name == "launches" else every_case() if few else few
        try:
            for good, case, found in check(device, cases):
                failures += not good
                print(f"{'ok  ' if good else 'FAIL'} {name}: {case}: {found}", flush=True)
        except Exception as error:
            if not options.all:
                raise
            failures += 1
            print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
    print(f"{failures} failures")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
