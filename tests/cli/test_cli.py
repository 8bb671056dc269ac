"""The command line: one sentence for a mistake, exit statuses, sweeps that go on, no torch before need."""

import subprocess
import sys
from pathlib import Path

import pytest

from sora.cli import main as cli
from sora.config import RunConfig
from sora.errors import UserError
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
        (
            ["method=sorra"],
            "method=sorra: no such choice, must be one of ... lora, ... sora ... did you mean sora?",
        ),
        (["trainer.batchsize=4"], "trainer.batchsize: no such key; did you mean trainer.batch_size?"),
        (["method.treshold=1"], "method.treshold: no such key; did you mean method.threshold?"),
        (["+x=1"], "x: no such key"),
        (["~trainer.epochs"], "~trainer.epochs: a key with a type cannot be taken away; write trainer.epochs=<value>"),
        (["+trainer.epochs=3"], "+trainer.epochs=: there is such a key; write trainer.epochs=<value>, without the +"),
        (["~x"], "x: no such key; python run.py --help lists the keys"),
        (["seed=[0"], "seed=[0: cannot be read (no viable alternative at input '[0'); write key=value"),
        (["seed"], "seed: cannot be read (missing EQUAL"),
        (["seed=0,1"], "seed: got several values; -m seed=0,1 is a sweep, seed=[0,1] a list"),
        (["seed=abc"], "seed: got 'abc', must be an integer >= 0"),
        (["trainer.epochs=0"], "trainer.epochs: got 0.0, must be a number > 0"),
        (["data.dir=${nowhere}"], "data.dir: cannot be resolved"),
        (["hydra/launcher=clusterr"], "hydra/launcher=clusterr: no such choice, must be ... basic"),
        (["recipe=deberta-v3-base/sora/rtee"], "did you mean deberta-v3-base/sora/rte?"),
        (["recipe=tiny/sora/rte"], "recipe=tiny/sora/rte: no such file in conf/recipe"),
        (["budget=minilm-l6/rtee"], "no such file in conf/budget ... did you mean minilm-l6/rte?"),
        (
            ["budget=minilm-l6/synthetic_graded", "recipe=deberta-v3-base/sora/rte"],
            "its epochs would be cut short by budget=minilm-l6/synthetic_graded; add budget=none",
        ),
        (
            ["budget=minilm-l6/synthetic_graded", "trainer.epochs=1"],
            "trainer.epochs=1: has no effect, given the trainer.max_steps=120 of budget=minilm-l6/synthetic_graded; "
            "add trainer.max_steps=null",
        ),
        (["method=lora", "method.r=0"], "method.r: got 0, must be an integer >= 1"),
        (["method=adalora", "method.r=-4"], "method.r: got -4, must be an integer >= 1"),
        (["method=adalora", "method.r=13"], "method.r: got 13, must be at most method.init_r=12"),
        (["method=adapter", "method.bottleneck=0"], "method.bottleneck: got 0, must be an integer >= 1"),
        (["method=full", "seed=[0,1]"], "seed: method=full cannot be packed ... use -m seed=0,1"),
        (["method=peft", "seed=[0,1]"], "seed: method=peft cannot be packed"),
        (["experiment=nothing"], "experiment=nothing: no such choice"),
        (["-m", "method=lora,sorra"], "method=sorra: no such choice"),
        (["experiment=main_table", "study.tasks=[]"], "study.tasks: empty, must be a list of at least one"),
        (
            ["-m", "seed=0,1", "hydra.sweeper.max_pack=abc"],
            "hydra.sweeper.max_pack: got 'abc', must be an integer",
        ),
        (["backbone.arch={hidden_size: abc}"], "backbone.arch.hidden_size: got 'abc', must be an integer >= 1"),
        (
            ["task.benchmark=glu"],
            "task.benchmark: got 'glu', must be one of glue, superglue, synthetic",
        ),
        (
            ["task=stsb", "task.score_range=[1]"],
            "task.score_range: got [1.0], must be the lowest",
        ),
        (["task.sizes={train: -3, validation: 5}"], "task.sizes.train: got -3, must be an integer >= 1"),
        (["+backbone.arch.num_hidden_layers=0"], "backbone.arch.num_hidden_layers: got 0, must be an integer >= 1"),
        (["paths.runs=/dev/null/runs"], "paths.runs: "),
        (["paths.runs="], "paths.runs= is empty; give a folder"),
        (["paths.results=''"], "paths.results: empty, must be a folder"),
        (["schedule=null"], "a group (schedule=, recipe=, task=, ...) was given null"),
        (["-m", "task=1", "seed=0,1"], "a group (schedule=, recipe=, task=, ...) was given null, a number"),
        (["cluster=joblib"], "cluster=joblib: one run trains here; add -m"),
        (["study.tasks=[rte]"], "study.tasks: only a study sweeps over it; name one with experiment="),
        (["-m", "study.seeds=[0,1]"], "study.seeds: only a study sweeps over it"),
        (["schedule.count=5"], "schedule.count: has no effect without a schedule; add schedule=sparsify"),
        (["-m", "experiment=main_table,threshold"], "experiment=main_table,threshold: one sweep has one experiment"),
        (["-m", "cluster=local,joblib"], "cluster=local,joblib: one sweep has one cluster"),
        (["-m", "study.name=a,b"], "study.name=a,b: one sweep has one study.name"),
        (
            ["experiment=main_table", "study.seeds=0,1"],
            "study.seeds=0,1: one sweep has one study.seeds; write study.seeds=[0,1]",
        ),
        (
            ["experiment=seeds", "study.seeds=[]"],
            "study.seeds: empty, must be a list of at least one, as in study.seeds=[...]",
        ),
        (["experiment=main_table", "study.seeds=range(0,5)"], "write its values as one list, study.seeds=[...]"),
        (["tracker.mode=online"], "tracker.mode: has no effect without a tracker; add tracker=wandb"),
        (["cluster.wait=true"], "cluster.wait: no key of this cluster; only cluster=slurm has it"),
        (["tracker=wandb", "tracker.mod=online"], "tracker.mod: no such key; did you mean tracker.mode?"),
        (["hydra.launcher.partition=gpu"], "such as cluster=slurm ... by +hydra.launcher.partition=<value>"),
        (["+experiment=main_table"], "+experiment=: the configuration has a choice of it already; write experiment=<"),
        (["+trainer=default"], "+trainer=: the configuration has a choice of it already; write trainer=<choice>"),
        (["task=RTE"], "task=RTE: no such choice ... did you mean rte?"),
        (["study.name=a(1"], "a value with other signs is quoted within as well: 'key=\"value\"'"),
    ],
)
def test_a_mistake_is_one_sentence(typed: Command, arguments: list[str], said: str) -> None:
    done = typed(*arguments)
    assert done.status == 2
    for part in said.split(" ... "):
        assert part in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert (done.out, done.packs) == ("", [])


def test_a_bound_that_was_taken_away_does_not_stand_against_epochs(typed: Command) -> None:
    words = ("task=synthetic_graded", "budget=minilm-l6/synthetic_graded")
    done = typed(*words, "trainer.max_steps=null", "trainer.epochs=1")
    assert (done.status, done.packs[0][0].trainer.max_steps) == (0, None)


def test_a_mistake_that_the_runner_finds_is_told_alike(typed: Command) -> None:
    def refuse(runs: list[RunConfig]) -> None:
        raise UserError("data.dir: not given")

    done = typed(then=refuse)
    assert (done.status, done.err) == (2, "error: data.dir: not given\n")


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


def test_a_sweep_without_mistakes_leaves_with_zero(typed: Command) -> None:
    done = typed("-m", "task=synthetic_pair,synthetic_single", "++backbone.weights=random")
    assert (done.status, len(done.packs)) == (0, 2)
    assert [line.partition(" ++")[0] for line in done.err.splitlines()[1:]] == [
        "job 0: task=synthetic_pair",
        "job 1: task=synthetic_single",
    ]


def test_a_recipe_follows_each_job_of_a_sweep(typed: Command) -> None:
    done = typed("-m", "recipe=none,deberta-v3-base/sora/rte", *TOY)
    assert [run.recipe for (run,) in done.packs] == ["", "deberta-v3-base/sora/rte"]


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


def test_the_real_command_from_any_folder_without_torch(tmp_path: Path) -> None:
    """Help, a composition and a mistake, in processes of their own where importing torch fails."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')", encoding="utf-8")
    folder = config_dir(tmp_path / "conf")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = [
            sys.executable,
            str(ROOT / "run.py"),
            "--config-dir",
            str(folder),
            "backbone=tiny",
            *arguments,
        ]
        environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    helped = run("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    for word in (
        "method: ",
        "protocol: dev, holdout, paper",
        "batch_size",
        "python run.py -m",
    ):
        assert word in helped.stdout
    composed = run("trainer.epochs=7", "--cfg", "job", "--resolve")
    assert "epochs: 7" in composed.stdout
    listed = run("-m", "--dry-run", "seed=0,1", *TOY)
    assert (listed.returncode, listed.stdout.count("\n")) == (0, 1), listed.stderr
    assert "'pack=[{seed: 0}, {seed: 1}]'  # 2 runs x " in listed.stdout
    wrong = run("trainer.epochs=none")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: trainer.epochs: got 'none', must be a number > 0 and <= 1000000000\n"
