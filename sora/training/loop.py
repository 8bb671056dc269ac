"""The training loop of a pack. It knows methods through their protocol and runs through their configuration.

Nothing here waits for the device between log lines: rates and thresholds are pure functions of the step, divergence
is a mask on the device, and the losses of a log window are summed there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sora.backbones import DropoutKey
from sora.cluster.signals import Preempted
from sora.errors import UserError
from sora.schedules import steps_between
from sora.training import checkpoint, cuda_graphs, memory, state
from sora.training.batching import batches
from sora.training.diagnostics import gate_histogram
from sora.training.evaluation import Logits, predict, score
from sora.training.levels import Levels
from sora.training.logging import Tracker, columns, summary
from sora.training.pack import Pack, differentiate
from sora.training.state import Progress, Window


class Loop:
    """Trains a pack, with evaluation, checkpoints and resumption.

    Args:
        run_ids, run_dirs: of each replica, in the order of the pack.
        after_checkpoint: called with the step once a checkpoint lies on disk (tests stop the process there).
        check: called after every step and every batch of an evaluation; raises Preempted when the machine is wanted
            back, which then passes through ``run`` once a checkpoint is written.
    """

    def __init__(
        self,
        pack: Pack,
        tracker: Tracker,
        run_ids: list[str],
        run_dirs: list[Path],
        after_checkpoint: Callable[[int], None] = lambda step: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.pack, self.tracker = pack, tracker
        self.run_ids, self.run_dirs = run_ids, run_dirs
        self.after_checkpoint, self.check = after_checkpoint, check
        self.trainer = pack.runs[0].trainer
        self.progress = [Progress() for _ in pack.runs]
        rows = pack.optimizer.rows
        self.best = rows.clone()  # weights of each replica's best evaluation so far, none later than stage 0
        self.best_select: list[np.ndarray | None] = [None] * pack.replicas  # [N, C] each: what ``best`` says of select
        self.last_select: tuple[int, np.ndarray] | None = None  # step and logits [R, N, C] of the last evaluation
        self.levels = Levels(pack, check)
        self.window = Window(pack.replicas, rows.device)  # since the last log line
        self.stretch = Window(pack.replicas, rows.device)  # since the last evaluation
        self.diverged = torch.full((pack.replicas,), -1, dtype=torch.int64, device=rows.device)
        self.shown_loss: dict[str, list[float]] = {}  # of the last log line, for the progress bar
        self.step = 0
        self.graphs: cuda_graphs.StepGraphs | None = None
        self.since = time.perf_counter()  # up to here time has been added to what it was spent on
        self.evaluation_due = False  # stopped by a signal in the middle of the evaluation of ``step``
        self.levels_due = False  # or after it, while levels of the schedule were being measured

    # -- training ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, from wherever ``resume`` left off.

        Raises:
            Preempted: with everything up to here in a checkpoint.
        """
        try:
            self._train()
        except Preempted as stop:
            due = self.evaluation_due or self.levels_due
            self._clock("eval_s" if due else "train_s")
            if self.step:
                self.save(again=due)
                self.tracker.print(f"{stop}; step {self.step} is in a checkpoint")
            raise

    def _train(self) -> None:
        pack, trainer = self.pack, self.trainer
        order = batches(
            pack.splits["train"].tokens.lengths,
            trainer.batch_size,
            [int(run.seeds.data or 0) for run in pack.runs],
            first_step=self.step,
            last_step=pack.total_steps,
            bucketing=trainer.bucketing,
        )
        pack.model.train()
        self.since = time.perf_counter()
        if self.evaluation_due or self.levels_due:
            if self.evaluation_due:
                self._evaluate()
            else:
                self._measure_levels()
            self._clock("eval_s")
            self.save(again=True)
        for indices in () if self._over() else order:
            self._update(indices)
            last = self.step == pack.total_steps
            if self.step % trainer.log_every == 0 or last:
                self._log()
            if self._evaluates():
                self._clock("train_s")
                self._evaluate()
                self._show()
                self._clock("eval_s")
            if self.step % trainer.checkpoint_every == 0 and not last:
                self._clock("train_s")
                self.save()
            self.tracker.progress(self.step)
            self.check()
            if self._over():
                break
        self.save()

    def _over(self) -> bool:
        """Return whether training is over: after the last step, or when an evaluation found every replica diverged."""
        if self.step == self.pack.total_steps:
            return True
        return self._evaluates() and not bool(self.pack.optimizer.alive.any())

    def _evaluates(self) -> bool:
        """Return whether an evaluation follows on the step that was made last."""
        every = steps_between(self.trainer.eval_every, self.pack.total_steps)
        return self.step > 0 and (self.step % every == 0 or self.pack.timeline.ends_stage(self.step))

    def _update(self, indices: np.ndarray) -> None:
        """Make one optimiser step on examples [R, b]."""
        pack, optimizer = self.pack, self.pack.optimizer
        train = pack.splits["train"]
        batch, labels = train.batch(indices.reshape(-1), pack.device)
        losses, penalty = self._differentiate(batch, labels, DropoutKey(pack.dropout_seeds, self.step))
        objective = losses if penalty is None else losses + penalty
        norms = optimizer.step(objective, pack.timeline.multiplier(self.step), pack.thresholds(self.step))
        pack.method.after_step(self.step, optimizer.alive)
        self.step += 1
        fresh = ~optimizer.alive & (self.diverged < 0)
        self.diverged = torch.where(fresh, torch.full_like(self.diverged, self.step), self.diverged)
        for window in (self.window, self.stretch):
            window.add(losses.detach(), penalty, norms)
        tokens, longest = train.tokens.counts[indices], int(train.tokens.lengths[indices].max())
        for replica, progress in enumerate(self.progress):
            progress.examples += indices.shape[1]
            progress.tokens += int(tokens[replica].sum())
            progress.padded_tokens += longest * train.tokens.choices * indices.shape[1]

    def _differentiate(self, batch: dict[str, Tensor], labels: Tensor, key: DropoutKey) -> tuple[Tensor, Tensor | None]:
        """Compute losses [R] and penalty [R] or None of a batch, by recorded steps where there are some."""
        if self.graphs is not None:
            try:
                return self.graphs(batch, labels, key)
            except RuntimeError as error:  # what is wrong with the device itself, the plain step below meets again
                if memory.lacking(error):
                    raise
                self.graphs.end()
                self.graphs = None
                self.fall_back(f"cuda graphs: a step cannot be recorded ({' '.join(str(error).split())[:200]})")
        self.pack.model.backbone.dropout.begin(key)
        return differentiate(self.pack, batch, labels)

    def use_graphs(self, record: Callable[[Callable[[], None]], cuda_graphs.Recording] | None = None) -> None:
        """Record the steps to come, where the pack and the device allow it, else say why not. ``record``: with what."""
        reason = cuda_graphs.refusal(self.pack)
        if not reason:
            try:
                longest = int(self.pack.splits["train"].tokens.lengths.max())
                self.graphs = cuda_graphs.StepGraphs(self.pack, longest, record or cuda_graphs.CudaGraphs())
                return
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
        self.fall_back(f"cuda graphs: {reason}")

    def fall_back(self, what: str) -> None:
        """Tell, once, what goes another way than was meant; the records say so too."""
        for progress in self.progress:
            if what not in progress.fallbacks:
                progress.fallbacks.append(what)
        self.tracker.print(f"warning: {what}; training goes on without")

    # -- what is logged ----------------------------------------------------------------------------------------

    def _threshold(self, replica: int) -> float | None:
        """Return xi of the last update, None for a method without a proximal step."""
        thresholds = self.pack.thresholds(self.step - 1)
        for group, values in zip(self.pack.optimizer.groups, thresholds, strict=True):
            if group.after_adam is not None:
                return values[replica]
        return None

    def _learning_rate(self, replica: int) -> float:
        """Return the learning rate of the last update."""
        return self.pack.timeline.multiplier(self.step - 1) * self.pack.optimizer.groups[0].lr[replica]

    def _log(self) -> None:
        means = self.window.take()
        self._note_divergence()
        for replica in range(self.pack.replicas):
            values = {name: series[replica] for name, series in means.items()}
            self.tracker.log(
                replica,
                self.step,
                "train",
                lr=self._learning_rate(replica),
                threshold=self._threshold(replica),
                **values,
            )
        self.shown_loss = {"loss": means["loss"]}
        self._show()

    def _show(self) -> None:
        """Update the text next to the progress bar."""
        self.tracker.progress(self.step, summary(self.shown_loss | self._latest()))

    def _latest(self) -> dict[str, list[float]]:
        """Return select metric and live ranks of the last evaluation, of each replica."""
        entries = [progress.history[-1] for progress in self.progress if progress.history]
        if len(entries) < self.pack.replicas:
            return {}
        metric = self.pack.runs[0].task.select_metric
        shown = {metric: [entry["select"][metric] for entry in entries]}
        if entries[0]["live_ranks"] is not None:
            shown["live_ranks"] = [entry["live_ranks"] for entry in entries]
        return shown

    def _note_divergence(self) -> None:
        for progress, step, run_id in zip(self.progress, self.diverged.tolist(), self.run_ids, strict=True):
            if step >= 0 and progress.diverged_at is None:
                progress.diverged_at = step
                self.tracker.print(f"{run_id}: diverged at step {step} (loss or gradient not finite); its weights stay")

    # -- evaluation --------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Score the select split; keep the weights of the best evaluation of stage 0, ties going to the earliest."""
        pack, metric = self.pack, self.pack.runs[0].task.select_metric
        split = pack.splits["select"]
        self.evaluation_due = True
        logits = predict(pack, split, self.check)
        scores = score(pack, split, logits)
        self.last_select, self.evaluation_due = (self.step, logits), False
        means = self.stretch.take()
        self._note_divergence()
        gates = pack.gates()
        histograms = gate_histogram(gates) if gates is not None else []
        per_epoch = -(-len(pack.splits["train"].examples) // self.trainer.batch_size)
        for replica, (progress, metrics) in enumerate(zip(self.progress, scores, strict=True)):
            if progress.diverged_at is not None and progress.history:
                continue  # its weights no longer change
            summary = pack.method.summary(replica)
            entry: dict[str, Any] = {
                "step": self.step,
                "select": metrics,
                "live_ranks": sum(summary.ranks.values()) if summary.ranks else None,
                "loss": means["loss"][replica],
                "epoch": round(self.step / per_epoch, 4),
                "lr": self._learning_rate(replica),
                "threshold": self._threshold(replica),
            }
            if histograms:
                entry["gate_histogram"] = histograms[replica]
            progress.history.append(entry)
            dense = self.step <= pack.timeline.dense
            if dense and (progress.best_score is None or metrics[metric] > progress.best_score):
                progress.best_step, progress.best_score = self.step, metrics[metric]
                self.best[replica] = pack.optimizer.rows[replica]
                self.best_select[replica] = logits[replica]
            values = {key: value for key, value in entry.items() if key != "step"}
            self.tracker.log(replica, self.step, "eval", **values, ranks=summary.ranks)
        shown = self._latest() | {"loss": [progress.history[-1]["loss"] for progress in self.progress]}
        for values in shown.values():
            for replica, progress in enumerate(self.progress):
                if progress.history[-1]["step"] != self.step:  # diverged before, and was not measured again
                    values[replica] = math.nan
        self.tracker.print(f"step {self.step} of {pack.total_steps}: {columns(shown)}")
        if pack.timeline.ends_stage(self.step):
            self._measure_levels()

    def _measure_levels(self) -> None:
        """Measure the levels of the schedule that the stage which has just ended brings."""
        if self.pack.runs[0].schedule.kind == "none":
            return
        metric, rows = self.pack.runs[0].task.select_metric, self.pack.optimizer.rows
        before, known, self.levels_due = rows.clone(), len(self.levels.logits), True
        try:
            found = self.levels.after_stage(self.pack.timeline.stage(self.step - 1), self.best)
        except Preempted:  # the checkpoint that follows has what there was: they are all measured again
            rows.copy_(before)
            del self.levels.logits[known:]
            raise
        self.levels_due = False
        for entries in found:
            lines = []
            for progress, entry in zip(self.progress, entries, strict=True):
                if progress.diverged_at is None:
                    progress.levels.append(entry | {"step": self.step})
                    lines.append(f"{entry['live']} live, {metric} {entry['select'][metric]:.4f}")
            level = f"level {entries[0]['level']} of {len(self.levels.schedule.levels)}"
            self.tracker.print(f"{level}: {'; '.join(lines)}")

    def known_logits(self, which: str) -> Logits:
        """Return logits that the ``last`` or the ``selected`` weights have given before, once training is over."""
        if self.levels.logits and which == "last" and self.pack.timeline.ends_stage(self.step):
            return self.levels.logits[-1]
        if self.levels.logits and which == "selected" and bool(self.pack.optimizer.alive.all()):
            return self.levels.logits[0]
        if which == "last":
            step, logits = self.last_select or (None, None)
            return {"select": logits} if logits is not None and step == self.step else {}
        kept = [logits for logits in self.best_select if logits is not None]
        return {"select": np.stack(kept)} if len(kept) == self.pack.replicas else {}

    # -- checkpoints -------------------------------------------------------------------------------------------

    def save(self, again: bool = False) -> None:
        """Write a checkpoint of every run of the pack; ``again``: also where there is one of this step."""
        if not again and all(self.step in checkpoint.steps(folder) for folder in self.run_dirs):
            return
        self.tracker.sync()
        for replica, (run_id, folder) in enumerate(zip(self.run_ids, self.run_dirs, strict=True)):
            checkpoint.save(folder, run_id, self.step, *state.of(self, replica))
        self.since = time.perf_counter()  # writing is neither training nor evaluation
        self.after_checkpoint(self.step)

    def resume(self) -> int:
        """Go on from the newest checkpoint all members share; returns its step, 0 where there is none.

        Later ones, which not all members have whole, are removed. The thread count of the first half is restored,
        because sums are rounded by it.
        """
        found = checkpoint.newest_shared(dict(zip(self.run_ids, self.run_dirs, strict=True)))
        reached = min((point.step for point in found.values()), default=0)
        for folder in self.run_dirs:
            checkpoint.forget_after(folder, reached)
        if not found:
            return 0
        for replica, run_id in enumerate(self.run_ids):
            point = found[run_id]
            try:
                state.restore(self, replica, point)
            except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
                if memory.of_device(error):
                    raise  # no fault of the checkpoint
                raise UserError(
                    f"{self.run_dirs[replica]}/checkpoint: does not fit this model ({error}); "
                    "set resume=never to start the run afresh"
                ) from error
        self.levels.load_states([state.prefixed(found[run_id].tensors, "level.") for run_id in self.run_ids])
        threads = found[self.run_ids[0]].meta["threads"]
        if threads != torch.get_num_threads():
            self.tracker.print(f"using {threads} threads, as before the interruption")
            torch.set_num_threads(threads)
        self.tracker.resume_at(self.step, evaluated=not self.evaluation_due)
        return self.step

    def _clock(self, what: str) -> None:
        """Add the time that was not yet added to anything to every run's ``what``."""
        now = time.perf_counter()
        for progress in self.progress:
            setattr(progress, what, getattr(progress, what) + now - self.since)
        self.since = now
