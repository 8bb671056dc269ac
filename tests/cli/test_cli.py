"""The command line: one sentence for a mistake, exit statuses, sweeps that go on, no torch before need."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sora.cli import main as cli
from sora.cli.explain import known_keys
from sora.config import RunConfig
from sora.errors import UserError
from sora.files import CONF
from sora.options import CHOICES
from tests.composing import config_dir
from tests.typed import TOY, Command

ROOT = Path(__file__).resolve().parents[2]


def test_one_run_reaches_the_runner(typed: Command, tmp_path: Path) -> None:
    done = typed("task=cola", "method=lora", "seed=4", "recipe=none")
    ((run,),) = done.packs
    assert (done.status, done.err) == (0, "")
    assert (run.task.name, run.method.name, run.seed) == ("cola", "lora", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["conf", "runs"]  # no outputs/, no log beside it
    assert list((tmp_path / "runs" / ".hydra").iterdir()) == []


def test_a_list_of_seeds_is_one_pack(typed: Command) -> None:
    done = typed("seed=[2,0]")
    assert [[run.seed for run in pack] for pack in done.packs] == [[2, 0]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["methd=sora"], "methd: no such key; did you mean method?"),
        (["method=sorra"], "method=sorra: no such choice, must be one of ... lora, ... sora ... did you mean sora?"),
        (["method.treshold=1"], "method.treshold: no such key; did you mean method.threshold?"),
        (["method=lora", "method.threshold=1"], "method.threshold: no key of this method, only of method=sora"),
        (["hydra.sweeper.max_pakc=3"], "hydra.sweeper.max_pakc: no such key; did you mean hydra.sweeper.max_pack?"),
        (["~x"], "x: no such key; python run.py --help lists the keys"),
        (["seed=[0"], "seed=[0: cannot be read (no viable alternative at input '[0'); write key=value"),
        (["seed=0,1"], "seed: got several values; -m seed=0,1 is a sweep, seed=[0,1] a list"),
        (["seed=abc"], "seed: got 'abc', must be an integer >= 0"),
        (["data.dir=${nowhere}"], "data.dir: cannot be resolved"),
        (["recipe=deberta-v3-base/sora/rtee"], "did you mean deberta-v3-base/sora/rte?"),
        (
            ["budget=minilm-l6/synthetic_graded", "trainer.epochs=1"],
            "trainer.epochs=1: has no effect, given the trainer.max_steps=250 of budget=minilm-l6/synthetic_graded; "
            "add trainer.max_steps=null or budget=none",
        ),
        (
            ["recipe=minilm-l6/lora/cola", "method=lora", "method.learning_rate=1e-4"],
            "method.learning_rate: has no effect, given the trainer.learning_rate=0.001 of recipe=minilm-l6/lora/cola; "
            "set trainer.learning_rate instead",
        ),
        (
            ["method=sora", "method.rho=0.1", "method.threshold=1e-4"],
            "method.threshold: has no effect, given method.rho=0.1, which sets it; give one of the two",
        ),
        (["learning_rate=1e-4"], "learning_rate: no such key; did you mean trainer.learning_rate?"),
        (["paths.runs=/dev/null/runs"], "paths.runs: "),
        (["paths.runs="], "paths.runs: empty, must be a folder"),
        (["paths.results="], "paths.results: empty, must be a folder"),
        (["schedule=null"], "a group (schedule=, recipe=, task=, ...) was given null"),
        (["--confg-dir=D"], "unrecognized arguments: --confg-dir=D; did you mean --config-dir?"),
        (["--config-dir", "nowhere"], "Additional config directory ... nowhere' not found"),
        (["-m", "seed=0,1", "--cfg", "job"], "Only one of --run, --multirun"),
        (["--dry-run"], "--dry-run lists the jobs of a sweep; add -m"),
        (["task=mine", "--config-dir", "broken"], "mine.yaml, line "),
        (["cluster=joblib"], "cluster=joblib: one run trains here; add -m"),
        (["study.tasks=[rte]"], "study.tasks: has no effect without experiment=; name a study with experiment="),
        (["schedule.count=5"], "schedule.count: has no effect without schedule=; add schedule=sparsify"),
        (
            ["schedule=one_shot", "schedule.start=0.2"],
            "schedule.start: has no effect, as schedule.levels are given; add schedule.levels=[] to lay them anew",
        ),
        (["schedule=one_shot", "schedule.steps=4"], "schedule.steps: has no effect, as one_shot trains nothing"),
        (
            ["schedule=sparsify", "schedule.steps=4", "schedule.epochs=1"],
            "schedule.epochs: has no effect, as schedule.s",
        ),
        (["-m", "trainer.cuda_graphs=false,true", *TOY], "one sweep has one trainer.cuda_graphs; give one value"),
        (["-m", "backbone.dir=a,b", *TOY], "one sweep has one backbone.dir; give one value"),
        (["+trainer.epochs=2"], "+trainer.epochs: there is such a key; write trainer.epochs=<value>, without the +"),
        (["method=probe", "trainer.epochs=2"], "trainer.epochs: method=probe takes no optimiser steps"),
        (["trainer.epochs=1" + 400 * "0"], "trainer.epochs: the number has too many digits"),
        (["data.label=y"], "data.label: is read by task=own, not by task=rte; add task=own"),
        (["-m", "experiment=main_table,threshold"], "experiment=main_table,threshold: one sweep has one experiment"),
        (["experiment=main_table", "study.seeds=0,1"], "one sweep has one study.seeds; write study.seeds=[...]"),
        (["experiment=seeds", "study.seeds=[]"], "seeds.init: the study sweeps over no value; give study.tasks"),
        (
            ["task=[rte,mrpc]"],
            "task=[rte,mrpc]: a group takes the name of one choice, no list; -m task=... with commas",
        ),
        (["protocol=[dev,paper]", *TOY], "protocol=[dev,paper]: a group takes the name of one choice"),
        (
            ["schedule=sparsify", "schedule.levels=[{a: 1}]"],
            "schedule.levels: got [{'a': 1}], must be a list of numbers",
        ),
        (["-m", "method.threshold=1e-3,nan", *TOY], "method.threshold=1e-3,nan: nan and inf are no values of a run"),
        (["-m", "device=cpu,cuda", *TOY], "device=cpu,cuda: one sweep has one device; give one value, and a command"),
        (["-m", "cluster=gpus", "cluster.gpus=0,1", *TOY], "one sweep has one cluster.gpus; write cluster.gpus=[...]"),
        (["-m", "cluster=gpus", "cluster.gpus=0", *TOY], "cluster.gpus: got 0, must be a list such as [0] or [0,1,3]"),
        (["-m", "cluster=gpus", "cluster.gpus=[0,0]", *TOY], "cluster.gpus: got 0, 0, must be each GPU once"),
    ],
)
def test_a_mistake_is_one_sentence(typed: Command, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "broken" / "task").mkdir(parents=True)
    (tmp_path / "broken" / "task" / "mine.yaml").write_text("name: [mine\n", encoding="utf-8")
    done = typed(*arguments)
    lines = [line for line in done.err.splitlines() if not line.startswith("study ")]
    assert (done.status, len(lines), done.out, done.packs) == (2, 1, "", [])
    assert lines[0].startswith("error: ")
    for part in said.split(" ... "):
        assert part in lines[0]


def test_a_bound_that_was_taken_away_does_not_stand_against_epochs(typed: Command) -> None:
    words = ("task=synthetic_graded", "budget=minilm-l6/synthetic_graded")
    done = typed(*words, "trainer.max_steps=null", "trainer.epochs=1")
    assert (done.status, done.packs[0][0].trainer.max_steps) == (0, None)


def test_a_sweep_goes_on_after_a_mistake(typed: Command, tmp_path: Path) -> None:
    def refuse(runs: list[RunConfig]) -> None:
        if runs[0].method.name == "lora":
            raise UserError("no room")

    done = typed("-m", "method=lora,sora", "seed=0,nine,1", *TOY, then=refuse)
    assert done.status == 2
    assert [(pack[0].method.name, [run.seed for run in pack]) for pack in done.packs] == [
        ("lora", [0, 1]),
        ("sora", [0, 1]),
    ]
    rest = " ".join([*TOY, "backbone=tiny"])
    quoted = rest + " 'pack=[{seed: 0}, {seed: 1}]'"
    (manifest,) = (tmp_path / "results" / "studies").iterdir()
    assert done.err.splitlines() == [
        f"error: method=lora seed=nine {rest}: seed: got 'nine', must be an integer >= 0",
        f"error: method=sora seed=nine {rest}: seed: got 'nine', must be an integer >= 0",
        f"study sweep: 4 runs, none finished; 2 jobs to do; manifest results/studies/{manifest.name}",
        f"job 0: method=lora {quoted}",
        f"error: job 0 (method=lora {quoted}): no room",
        f"job 1: method=sora {quoted}",
        "error: 1 of 2 jobs did not finish and 2 could not be planned, for the reasons above; "
        "the same command trains what is missing",
    ]


def test_a_bug_in_one_job_of_a_sweep_is_shown_at_once_and_the_others_run(typed: Command) -> None:
    def fail(runs: list[RunConfig]) -> None:
        if runs[0].method.name == "lora":
            raise ZeroDivisionError("a bug")

    done = typed("-m", "method=lora,sora", *TOY, then=fail)
    assert (done.status, len(done.packs)) == (2, 2)
    assert done.err.index("ZeroDivisionError: a bug") < done.err.index("job 1: method=sora")
    assert done.err.splitlines()[-1].startswith("error: 1 of 2 jobs did not finish")


@pytest.mark.parametrize("arguments", [(), ("-m", "task=synthetic_pair,synthetic_single", "++backbone.weights=random")])
def test_an_interrupt_ends_at_once(typed: Command, arguments: tuple[str, ...]) -> None:
    def interrupt(runs: list[RunConfig]) -> None:
        raise KeyboardInterrupt

    done = typed(*arguments, then=interrupt)
    assert done.status == 130
    assert len(done.packs) == 1
    last = "error: interrupted; the same command continues from the newest checkpoint"
    assert done.err.splitlines()[-1] == last
    anew = typed(*arguments, "resume=never", then=interrupt).err.splitlines()[-1]
    assert anew.startswith("error: interrupted; the same command starts anew, as resume=never has it")


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), OSError(5, "a bug")])
def test_a_bug_is_not_hidden(typed: Command, error: Exception) -> None:
    def fail(runs: list[RunConfig]) -> None:
        raise error

    with pytest.raises(type(error), match="a bug"):
        typed(then=fail)


def test_the_command_is_as_typed_without_absolute_paths(typed: Command) -> None:
    done = typed("pack=[{seed: 0}]", "data.dir=/home/me/glue", "paths.runs=my runs", "++seeds.init=3")
    assert done.commands == [
        "python run.py --config-dir conf 'pack=[{seed: 0}]' data.dir=PATH 'paths.runs=my runs' "
        "++seeds.init=3 backbone=tiny"
    ]
    assert cli.command(["-m", "~seed", "data.dir=~/x"]) == "python run.py -m '~seed' data.dir=PATH"


def test_help_names_the_groups_then_explains_each_key_in_a_line(typed: Command) -> None:
    helped = typed("--help", "method=adalora")
    assert (helped.status, helped.err) == (0, "")
    groups, _, keys = helped.out.partition("\nKeys ")
    for group in CHOICES:
        assert f"\n  {group}=" in groups
        assert all(name in groups for name in options_of(group))
    shown = {line.split("=")[0].strip() for line in keys.splitlines() if line.startswith("  ") and "=" in line}
    assert {key for key in known_keys() if key.startswith(("trainer.", "schedule.", "data.", "paths."))} <= shown
    assert {"method.init_r", "seed", "pack", "dry_run"} <= shown
    assert "method.threshold" not in shown, "those of the method that was chosen"
    assert re.search(r"^  trainer.batch_size=8 +examples per replica$", keys, re.MULTILINE)


def options_of(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")} - {"none"}


def test_the_real_command_from_any_folder_without_torch(tmp_path: Path) -> None:
    """A sweep's listing, in a process of its own where importing torch fails."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')", encoding="utf-8")
    folder = config_dir(tmp_path / "conf")
    words = [sys.executable, str(ROOT / "run.py"), "--config-dir", str(folder), "backbone=tiny"]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    listed = subprocess.run(
        [*words, "-m", "--dry-run", "seed=0,1", *TOY],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (listed.returncode, listed.stdout.count("\n")) == (0, 1), listed.stderr
    assert "'pack=[{seed: 0}, {seed: 1}]'  # 2 runs x " in listed.stdout
