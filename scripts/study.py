"""Run docs/study.md from the tuning to the tables, on the tasks whose gates hold (torch-free itself).

    python scripts/study.py [--list]

What has a record is not trained again, so the same command goes on after a stop. --list prints the commands and runs
none; what only earlier steps can tell stands in them as <...>. Variables of the environment choose a part:

    TASKS     cola,sst2_10k          STEPS  tune,choose,arms,studies,tables     ARMS  those of the main table
    SEEDS     0,21,42,81,100,123     controls are run on the first three of them
    BACKBONE  minilm-l6              RESULTS, RUNS  results, runs                          PRECISION  fp32

    tune       learning rates of each method, then SoRA's rho, on seed 1, and on seed 2 where neighbours are close
    choose     what the grids chose, as recipes (scripts/tune.py)
    arms       the rows of the main table
    studies    rank maps, thresholds, rank budget, Algorithm 1 with its controls, fidelity: on CoLA and SST-2's slice
    tables     scripts/tables.py

A command that fails does not stop the others; the exit status is then 1, and 2 for a mistake in the variables.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml

from experiments import primary, tuning
from experiments.conditions import RATE
from experiments.labels import ARMS
from sora.cli.console import Parser, run
from sora.errors import UserError
from sora.files import CONF, expanded
from sora.runs import manifest as studies
from sora.runs import records

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("tune", "choose", "arms", "studies", "tables")
GRIDS = {
    **dict.fromkeys(("lora", "sora", "adalora", "adapter", "bitfit"), (5e-4, 1e-3, 2e-3)),
    "full": (5e-5, 1e-4, 2e-4),
}
RHO, RHOS = 0.15, (0.0, 0.05, 0.15, 0.35)  # at which SoRA's rate is chosen, and those tried at that rate
TUNING_SEEDS = (1, 2)
STUDIED = ("cola", "sst2_10k")  # whose gates hold: STS-B stopped at its own (docs/study.md)
PATTERNS = {"lora_equal": "uniform", "lora_own": "own", "lora_permuted": "permuted"}
REPEATED = ("lora_r8", "sora_best", "sora_small", "lora_equal", "lora_permuted")


@dataclass
class Driver:
    """The study's commands, printed or run.

    Attributes:
        tasks, seeds, steps, arms: what is asked for.
        words: the overrides that all runs share.
        failed: the commands, or the arms, that did not end well, each with its reason.
    """

    tasks: Sequence[str]
    seeds: Sequence[int]
    steps: Sequence[str]
    arms: Sequence[str]
    backbone: str
    results: Path
    words: Sequence[str]
    listing: bool
    failed: list[str] = field(default_factory=list)

    def start(self, *words: str) -> None:
        """Print a command and, unless it is only to be listed, run it."""
        print(shlex.join(["python", *words]), flush=True)
        if not self.listing and subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode:
            self.failed.append(shlex.join(words))

    def sweep(self, *words: str) -> None:
        """A multirun with what all of them share."""
        self.start("run.py", *words, *self.words)

    def study(self, name: str, task: str, seeds: Sequence[int], *words: str) -> None:
        """A study of conf/experiment on one task."""
        self.sweep(f"experiment={name}", f"study.tasks=[{task}]", f"study.seeds=[{_listed(seeds)}]", *words)

    # -- tune ------------------------------------------------------------------------------------------------

    def tune(self) -> None:
        for task in self.tasks:
            for method, grid in GRIDS.items():
                rho = {"method.rho": RHO} if method == "sora" else {}
                place = {"backbone": self.backbone, "method": method, "task": task} | rho
                wanted = partial(tuning.wanted_rates, start=grid, seeds=TUNING_SEEDS)
                for seed, rates in self._until_chosen("learning_rate", RATE, place, wanted):
                    words = [f"method={method}", *(f"{key}={value:g}" for key, value in rho.items())]
                    self.study("learning_rate", task, [seed], *words, f"{RATE}={_listed(rates)}")
            self._tune_rho(task)

    def _tune_rho(self, task: str) -> None:
        place = {"backbone": self.backbone, "task": task}
        found = self._scores("learning_rate", RATE, place | {"method.rho": RHO, "method": "sora"})
        rate = tuning.best(found) if found else None
        wanted = partial(tuning.wanted_rhos, grid=RHOS, seeds=TUNING_SEEDS)
        for seed, rhos in self._until_chosen("rho", "method.rho", place | {RATE: rate}, wanted):
            text = f"{rate:g}" if rate else "<SoRA's rate>"
            named = ["-m", "study.name=rho", "method=sora", f"task={task}", f"seed={seed}"]
            self.sweep(*named, f"{RATE}={text}", f"method.rho={_listed(rhos)}")

    def _scores(self, name: str, axis: str, place: Mapping[str, object]) -> tuning.Scores:
        """Those of the finished runs there; none while commands are only listed."""
        return {} if self.listing else tuning.scores_of(tuning.grids(self.results), name, axis, place)

    def _until_chosen(
        self,
        name: str,
        axis: str,
        place: Mapping[str, object],
        wanted: Callable[[tuning.Scores], list[tuple[float, int]]],
    ) -> Iterator[tuple[int, list[float]]]:
        """(seed, values) to run next, until nothing is wanted, a command fails, or what was run left no score."""
        before: list[tuple[float, int]] = []
        while True:
            failures = len(self.failed)
            places = wanted(self._scores(name, axis, place))
            if not places:
                return
            if places == before:
                self.failed.append(f"tune: no score of {places} in {self.results}, though its command ended well")
                return
            before = places
            for seed in sorted({seed for _, seed in places}):
                yield seed, [value for value, own in places if own == seed]
            if self.listing:
                print("# then neighbours of a best rate at an edge, and seed 2 where neighbours are within 0.5 points")
                return
            if len(self.failed) > failures:
                return

    def choose(self) -> None:
        self.start("scripts/tune.py", "--results", str(self.results), "--tasks", *self.tasks)

    # -- arms ------------------------------------------------------------------------------------------------

    def main_table(self) -> None:
        for task in self.tasks:
            for arm in self.arms:
                if arm == "zero_shot" and task != "stsb":
                    continue
                seeds = self.seeds if arm in REPEATED else self.seeds[: primary.CONTROLS]
                self._try(arm, task, seeds)

    def _try(self, arm: str, task: str, seeds: Sequence[int]) -> None:
        try:
            self.arm(arm, task, seeds)
        except UserError as error:
            self.failed.append(str(error))
            print(f"error: {error}", file=sys.stderr, flush=True)

    def arm(self, arm: str, task: str, seeds: Sequence[int]) -> None:
        """One row on one task. Raises UserError where a run that it is made from has no record."""
        named = ["-m", "study.name=main_table", f"study.arm={arm}", f"task={task}"]
        seeded = f"seed={_listed(seeds)}"
        if arm in PATTERNS:
            sources = self._sources(arm, "sora_small", task, seeds)
            pack = ", ".join(f"{{seed: {seed}, method.source: '{sources[seed]}'}}" for seed in seeds)
            rate = f"{RATE}={self._rate('lora', task)}"
            self.sweep(*named, "method=masked_lora", f"method.pattern={PATTERNS[arm]}", rate, f"pack=[{pack}]")
        elif arm == "lora_svd":
            whole, small = (self._sources(arm, each, task, seeds) for each in ("lora_r8", "sora_small"))
            for seed in seeds:
                cut = [f"method.source='{whole[seed]}'", f"method.size='{small[seed]}'"]
                self.sweep(*named, "method=svd_cut", *cut, f"seed={seed}")
        elif arm in ("probe", "zero_shot"):
            self.sweep(*named, f"method={arm}", "seed=0")
        elif arm == "adalora_small":
            self._rate("adalora", task)
            self.sweep(*named, "method=adalora", f"method.r={self._average_rank(arm, task)}", seeded)
        else:
            self._rate(arm.partition("_")[0], task)
            self.sweep(*named, *self._settings(arm, task), seeded)

    def _settings(self, arm: str, task: str) -> list[str]:
        name, _, rank = arm.partition("_r")
        if arm == "sora_best":
            return ["method=sora", f"recipe={self.backbone}/sora/{task}_best"]
        if arm == "sora_xi0":
            return ["method=sora", "method.threshold=0"]
        if rank in ("1", "2"):
            return [f"method={name}", f"method.r={rank}"]
        return [f"method={'sora' if arm == 'sora_small' else name}"]

    # In quotes where they stand in a command: Hydra takes 12e456789012 for a number.
    def _sources(self, arm: str, of: str, task: str, seeds: Sequence[int]) -> dict[int, str]:
        """The finished run of arm ``of`` for each seed; a name in its place while commands are only listed."""
        found = self._finished(of, task)
        if self.listing:
            found = {seed: f"<{of} of seed {seed}>" for seed in seeds} | found
        if missing := [seed for seed in seeds if seed not in found]:
            raise UserError(
                f"{arm} on {task}: is made from {of}'s run of seed {missing[0]}, which has no record in "
                f"{self.results}; run STEPS=arms ARMS={of} TASKS={task}"
            )
        return {seed: found[seed] for seed in seeds}

    def _finished(self, arm: str, task: str) -> dict[int, str]:
        """Seed -> id of the finished runs of an arm. Raises UserError where two manifests contradict each other."""
        manifests = [
            each
            for each in studies.read_all(self.results, "main_table")
            if studies.ARM in each["fixed"] and each["fixed"].get("backbone") == self.backbone
        ]
        if not manifests:
            return {}
        united, problems = studies.joined(manifests)
        done = records.finished(self.results)
        runs = [run for run in united["runs"] if (run["axes"]["arm"], run["axes"]["task"]) == (arm, task)]
        if any(run["contradicted"] for run in runs):
            raise UserError("; ".join(problem for problem in problems if f" on {arm} of {task} " in problem))
        return {int(run["axes"]["seed"]): run["run_id"] for run in runs if run["run_id"] in done}

    def _average_rank(self, arm: str, task: str) -> str:
        """SoRA-small's, over matrices and the controls' seeds, rounded, at least 1."""
        sources = self._sources(arm, "sora_small", task, self.seeds[: primary.CONTROLS])
        if any(each.startswith("<") for each in sources.values()):
            return "<sora_small's average rank>"
        done = records.finished(self.results)
        ranks = [rank for each in sources.values() for rank in records.read(done[each])["ranks"].values()]
        return str(max(1, round(sum(ranks) / len(ranks))))

    def _rate(self, method: str, task: str) -> str:
        """The learning rate that a grid chose. Raises UserError where none did, as a run would take another."""
        path = CONF / "recipe" / self.backbone / method / f"{task}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        rate = (content.get("trainer") or {}).get("learning_rate")
        if content.get("tuned") and rate is not None:
            return f"{float(rate):g}"
        if self.listing:
            return f"<{method}'s rate>"
        raise UserError(f"{method} on {task}: no grid has chosen its learning rate; run STEPS=tune,choose TASKS={task}")

    # -- studies ---------------------------------------------------------------------------------------------

    def studies(self) -> None:
        few = self.seeds[: primary.CONTROLS]
        for task in (task for task in self.tasks if task in STUDIED):
            try:
                rate = self._rate("sora", task)
            except UserError as error:
                self.failed.append(str(error))
                continue
            known = 0.0 if rate.startswith("<") else float(rate)

            def xi(*rhos: float, rate: float = known) -> str:
                return _listed([float(f"{rho * rate:.6g}") for rho in rhos]) if rate else f"<{_listed(rhos)} x rate>"

            self.study("rank_map", task, self.seeds)
            self.study("threshold", task, few, f"method.threshold={xi(*RHOS)}")
            for arm, axis in (("lora", "method.r=1,2,4,8"), ("sora", f"method.threshold={xi(*RHOS)}")):
                own = ["-m", "study.name=rank_budget", f"study.arm={arm}", f"method={arm}", f"task={task}"]
                self.sweep(*own, axis, f"seed={_listed(few)}")
            # Algorithm 1 from the weakest threshold to the strongest at which the loss can still hold a gate up.
            levels = ["schedule.epochs=1", "schedule.count=8", f"schedule.start={xi(0.05)}", f"schedule.stop={xi(0.5)}"]
            for name in ("scheduler", "pruning_baselines"):
                self.study(name, task, few, *levels, f"method.threshold={xi(0.05)}")
            self.study("fidelity", task, few)

    def tables(self) -> None:
        self.start("scripts/tables.py", "--results", str(self.results))

    def all(self) -> int:
        """Every step that is asked for; returns the exit status."""
        for step in self.steps:
            print(f"# {step}", flush=True)
            {"arms": self.main_table}.get(step, getattr(self, step))()
        for each in self.failed:
            print(f"error: did not finish: {each}", file=sys.stderr)
        return 1 if self.failed else 0


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def driver(variables: Mapping[str, str], listing: bool) -> Driver:
    """What the variables ask for. Raises UserError for a name that is none."""

    def listed(key: str, default: Sequence[str], known: Sequence[str] = ()) -> list[str]:
        found = [word for word in variables.get(key, "").replace(",", " ").split() if word] or list(default)
        for word in found:
            if known and word not in known:
                raise UserError(f"{key}: got {word}, must be some of {', '.join(known)}")
        return found

    backbone = variables.get("BACKBONE") or primary.HOME
    tasks = sorted(path.stem for path in (CONF / "budget" / backbone).glob("*.yaml"))
    if not tasks:
        raise UserError(f"BACKBONE: got {backbone}, which has no budgets in conf/budget")
    seeds = listed("SEEDS", tuple(map(str, primary.SEEDS)))
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"SEEDS: got {','.join(seeds)}, must be whole numbers, each once")
    if shared := {*map(int, seeds)} & {*TUNING_SEEDS}:
        raise UserError(f"SEEDS: {min(shared)} is a seed of the tuning; report others")
    results, runs = (expanded(key.upper(), variables.get(key.upper()) or key) for key in ("results", "runs"))
    words = [f"backbone={backbone}", "backbone.pooling=mean", "protocol=holdout"]
    words += [f"precision={variables.get('PRECISION') or 'fp32'}"]
    words += [f"paths.{key}={place}" for key, place in (("results", results), ("runs", runs)) if place != key]
    return Driver(
        listed("TASKS", [task for task in STUDIED if task in tasks], tasks),
        [int(seed) for seed in seeds],
        listed("STEPS", STEPS, STEPS),
        listed("ARMS", tuple(ARMS), tuple(ARMS)),
        backbone,
        Path(results),
        words,
        listing,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    parser = Parser(prog="scripts/study.py", description="docs/study.md, on the tasks whose gates hold.")
    parser.add_argument("--list", action="store_true", help="print the commands and run none")
    options = parser.parse_args(arguments)
    return driver(os.environ, options.list).all()


if __name__ == "__main__":
    run(main)
