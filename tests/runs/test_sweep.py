"""The packed sweeper: what becomes one job, what is skipped, what is listed; no job is trained here."""

import gc
import json
import shlex
import weakref
from pathlib import Path
from typing import Any

import pytest
import yaml

from sora.config import RunConfig
from sora.errors import UserError
from sora.runs import manifest as studies
from sora.runs import records
from sora.runs.run_id import run_id
from sora.tasks import load
from tests import composing
from tests.tasks.test_load import write
from tests.typed import TOY, Command, Outcome

WEIGHTS = {"random": 0}
GRID = ("seed=0,1,2", "method.threshold=1e-5,1e-4")


def ids_of(runs: list[RunConfig]) -> list[str]:
    """Run ids, computed without the sweeper."""
    return [run_id(run, load(run.task, run.protocol, run.data).sha256, WEIGHTS) for run in runs]


def alone(folder: Path, *overrides: str) -> str:
    """Run id of ``python run.py <overrides>``."""
    (name,) = ids_of(composing.runs(folder / "alone", *overrides, *TOY[1:]))
    return name


def manifest_of(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results" / "studies").glob("*.json")
    return studies.read(path)


def sizes(done: Outcome) -> list[int]:
    return [len(pack) for pack in done.packs]


def seeds(done: Outcome) -> list[list[int]]:
    return [[run.seed for run in pack] for pack in done.packs]


def experiment(folder: Path, **values: Any) -> None:
    """A study's file called ``example``."""
    path = folder / "conf" / "experiment" / "example.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# @package _global_\n" + yaml.safe_dump(values), encoding="utf-8")


STUDY = {
    "study": {"name": "example", "tasks": ["synthetic_pair", "synthetic_single"], "seeds": [0, 1]},
    "trainer": {"max_steps": 7},
    "hydra": {
        "mode": "MULTIRUN",
        "sweeper": {
            "params": {"method": "lora,sora", "task": "${join:${study.tasks}}", "seed": "${join:${study.seeds}}"}
        },
    },
}


def test_twelve_runs_are_two_packs_with_the_ids_of_twelve_commands(typed: Command, tmp_path: Path) -> None:
    rarely = ("trainer.log_every=4", "trainer.checkpoint_every=7")  # which decide no number
    done = typed("-m", "method=sora", "task=synthetic_pair,synthetic_single", *GRID, *rarely, *TOY[1:])
    assert (done.status, sizes(done)) == (0, [6, 6])
    written = manifest_of(tmp_path)
    assert written["axes"] == {
        "method": ["sora"],
        "task": ["synthetic_pair", "synthetic_single"],
        "seed": [0, 1, 2],
        "method.threshold": [1e-5, 1e-4],
    }
    assert written["fixed"] == {"backbone": "tiny", "backbone.weights": "random"}
    trained = [name for pack in done.packs for name in ids_of(pack)]
    assert [run["run_id"] for run in written["runs"]] == trained
    assert len(set(trained)) == 12
    for run in written["runs"][::7]:
        words = shlex.split(run["command"])
        assert words[:4] == ["python", "run.py", "--config-dir", "conf"]  # below the current folder
        assert alone(tmp_path, *(word for word in words[4:] if not word.startswith("+"))) == run["run_id"]
        assert dict(word.split("=") for word in words[4:] if word.startswith(("seed", "task", "method."))) == {
            "task": run["axes"]["task"],
            "seed": str(run["axes"]["seed"]),
            "method.threshold": repr(run["axes"]["method.threshold"]),
        }


def test_max_pack_bounds_the_jobs(typed: Command) -> None:
    done = typed("-m", "method=sora", "hydra.sweeper.max_pack=4", *GRID, *TOY)
    assert sizes(done) == [4, 2]
    assert typed("-m", "hydra.sweeper.max_pack=0", "seed=0,1", *TOY).err == (
        "error: hydra.sweeper.max_pack: got 0, must be an integer >= 1 or null\n"
    )


def test_what_is_packed_depends_on_the_method(typed: Command) -> None:
    done = typed("-m", "method=lora,full", "seed=0,1,1", "trainer.learning_rate=1e-3,2e-3", *TOY)
    assert sizes(done) == [4, 1, 1, 1, 1], "a value given twice counts once"
    assert [(run.seed, run.trainer.learning_rate) for run in done.packs[0]] == [
        (0, 1e-3),
        (0, 2e-3),
        (1, 1e-3),
        (1, 2e-3),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("seed=[0],[1]", "method.threshold=1e-3,2e-3"),
        (
            "pack=[{seed: 0, method.threshold: 1e-3}, {seed: 0, method.threshold: 2e-3},"
            "{seed: 1, method.threshold: 1e-3}, {seed: 1, method.threshold: 2e-3}]",
        ),
    ],
)
def test_lists_in_the_configuration_are_axes_too(typed: Command, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = typed("-m", "method=sora", "hydra.sweeper.max_pack=3", *arguments, *TOY)
    assert (done.status, sizes(done)) == (0, [3, 1])
    written = manifest_of(tmp_path)
    assert {key: written["axes"][key] for key in ("seed", "method.threshold")} == {
        "seed": [0, 1],
        "method.threshold": [1e-3, 2e-3],
    }
    cells = {(run["axes"]["seed"], run["axes"]["method.threshold"]): run["run_id"] for run in written["runs"]}
    assert set(cells) == {(0, 1e-3), (0, 2e-3), (1, 1e-3), (1, 2e-3)}
    trained = [(run.seed, run.method.threshold) for pack in done.packs for run in pack]  # type: ignore[attr-defined]
    assert set(trained) == set(cells)


def test_what_an_entry_of_a_pack_leaves_out_is_the_configurations(typed: Command, tmp_path: Path) -> None:
    value = "5.0e-4"
    entries = "pack=[{seed: 0}, {seed: 1, method.threshold: 1e-3}]"
    done = typed("-m", "method=sora", f"method.threshold={value}", entries, *TOY)
    assert (done.status, sizes(done)) == (0, [2])
    written = manifest_of(tmp_path)
    assert [run["axes"]["method.threshold"] for run in written["runs"]] == [5e-4, 1e-3]
    first = alone(tmp_path, "method=sora", "seed=0", f"method.threshold={value}", *TOY)
    assert written["runs"][0]["run_id"] == first


def test_a_study_sweeps_by_itself_and_its_jobs_do_not(typed: Command, tmp_path: Path) -> None:
    experiment(tmp_path, **STUDY)
    done = typed("experiment=example", "study.tasks=[synthetic_single]", *TOY[1:])
    assert [(pack[0].method.name, pack[0].task.name, pack[0].trainer.max_steps) for pack in done.packs] == [
        ("lora", "synthetic_single", 7),
        ("sora", "synthetic_single", 7),
    ]
    written = manifest_of(tmp_path)
    assert written["study"] == "example"
    assert written["axes"] == {"method": ["lora", "sora"], "task": ["synthetic_single"], "seed": [0, 1]}
    won = typed("experiment=example", "study.tasks=[synthetic_single]", "method=sora", "seed=5", *TOY[1:])
    assert [[(run.method.name, run.seed) for run in pack] for pack in won.packs] == [[("sora", 5)]]
    listed = typed("experiment=example", "study.tasks=[synthetic_single]", "--dry-run", *TOY[1:])
    assert listed.packs == []
    for line in listed.out.splitlines():
        words = shlex.split(line, comments=True)
        assert words[-1] == "hydra.mode=RUN"
        again = typed(*words[4:])
        assert [again.packs] == [[pack] for pack in done.packs if pack[0].method.name == again.packs[0][0].method.name]


def test_seeds_of_a_studys_file_give_way_to_the_pack(typed: Command, tmp_path: Path) -> None:
    experiment(tmp_path, seed=[0, 1, 2])
    done = typed("-m", "experiment=example", "method=sora", "hydra.sweeper.max_pack=2", *TOY)
    assert (done.status, seeds(done)) == (0, [[0, 1], [2]])


def test_a_manifest_keeps_the_runs_that_cannot_be_named_now(typed: Command, tmp_path: Path) -> None:
    write(tmp_path / "data" / "RTE", {"train": 2490, "dev": 277})
    command = ("-m", "method=lora", "task=rte,synthetic_pair", TOY[1], f"data.dir={tmp_path / 'data'}")
    assert typed(*command).status == 0
    whole = manifest_of(tmp_path)
    assert [run["axes"]["task"] for run in whole["runs"]] == ["rte", "synthetic_pair"]
    (tmp_path / "data").rename(tmp_path / "away")
    done = typed(*command)
    assert (done.status, [pack[0].task.name for pack in done.packs]) == (2, ["synthetic_pair"])
    assert done.err.count("no folder") == 1
    assert manifest_of(tmp_path) == whole


def test_a_failed_job_is_forgotten_before_the_next(typed: Command) -> None:
    """Its model would stay in memory: Hydra keeps what a job returned until the last one is over."""

    class Model:
        pass

    models, alive = [], []

    def then(runs: list[RunConfig]) -> None:
        gc.collect()
        alive.append([model() is not None for model in models])
        model = Model()
        models.append(weakref.ref(model))
        raise UserError("no memory") from MemoryError()

    done = typed("-m", "method=lora,sora", *TOY, then=then)
    assert (done.status, alive) == (2, [[], [False]])


def test_what_another_process_trained_is_no_failure(typed: Command, tmp_path: Path) -> None:
    """A job is refused, as its run is held; when the sweep is over the run has its record."""
    command = ("-m", "method=lora", "seed=0,1", *TOY)

    def then(runs: list[RunConfig]) -> None:
        for run in manifest_of(tmp_path)["runs"]:
            records.write(tmp_path / "results" / run["record"], composing.record(run["run_id"]), composing.arrays())
        raise UserError("another process is training it")

    assert typed(*command, then=then).status == 0


def test_a_manifest_has_no_folder_of_this_machine_on_its_axes(typed: Command, tmp_path: Path) -> None:
    command = ("-m", "method=lora", "seed=0", *TOY)
    typed(*command, f"data.dir={tmp_path}/one,{tmp_path}/two")
    manifest = manifest_of(tmp_path)
    assert manifest["axes"]["data.dir"] == [run["axes"]["data.dir"] for run in manifest["runs"]] == ["one", "two"]
    assert str(tmp_path) not in json.dumps(manifest)
    refused = typed(*command, f"data.dir={tmp_path}/one,{tmp_path}/away/one")
    assert refused.status == 2
    assert "data.dir: two of its folders have one name" in refused.err


def test_finished_runs_are_not_started_again(typed: Command, tmp_path: Path) -> None:
    command = ("-m", "method=lora,sora", "seed=0,1", *TOY)
    typed(*command)
    before = (tmp_path / "results" / "studies").glob("*.json")
    texts = [path.read_bytes() for path in before]
    for run in manifest_of(tmp_path)["runs"][:3]:
        records.write(tmp_path / "results" / run["record"], composing.record(run["run_id"]), composing.arrays())
    done = typed(*command)
    assert [pack[0].method.name for pack in done.packs] == ["sora"]
    assert seeds(done) == [[0, 1]], "its pack stays whole, so that it resumes in the company it had"
    assert "4 runs, 3 of them finished; 1 job to do" in done.err
    assert [path.read_bytes() for path in (tmp_path / "results" / "studies").glob("*.json")] == texts
    asked = typed(*command, "predict=true")
    assert [pack[0].method.name for pack in asked.packs] == ["lora", "sora"], "test sets may be asked for afterwards"
    next((tmp_path / "results").rglob("lora-*.npz")).unlink()  # a record without its logits is no result
    assert [pack[0].method.name for pack in typed(*command).packs] == ["lora", "sora"]


def test_two_places_of_a_sweep_may_be_one_run(typed: Command, tmp_path: Path) -> None:
    done = typed("-m", "method=sora", "method.penalty_rule=off", "method.penalty=0.1,0.2", "seed=0,1", *TOY)
    assert seeds(done) == [[0, 1]]
    written = manifest_of(tmp_path)["runs"]
    assert len(written) == 4
    assert len({run["run_id"] for run in written}) == 2


def test_a_key_is_swept_over_or_in_the_entries_of_a_pack(typed: Command) -> None:
    done = typed("-m", "seed=0,1", "pack=[{seed: 3}]", *TOY)
    assert (done.status, done.packs) == (2, [])
    assert "seed: swept over, and in the entries of pack; leave one out" in done.err.splitlines()[0]


def test_quoted_strings_are_their_text_at_any_depth(typed: Command, tmp_path: Path) -> None:
    options = "method.options={r: 2, modules: ['a b']},{r: 4, modules: ['a b']}"
    done = typed("-m", "method=lora", "seed=1", "method.targets=['*.query*'],[\"*.key\",'*.value']", *TOY)
    assert [pack[0].method.targets for pack in done.packs] == [["*.query*"], ["*.key", "*.value"]]
    written = manifest_of(tmp_path)
    assert written["axes"]["method.targets"] == [["*.query*"], ["*.key", "*.value"]]
    for run in written["runs"]:
        targets = f"method.targets={json.dumps(run['axes']['method.targets'])}"
        assert run["run_id"] == alone(tmp_path, TOY[0], "method=lora", targets, f"seed={run['axes']['seed']}")
    (tmp_path / "results" / "studies").rename(tmp_path / "first")
    done = typed("-m", "method=peft", options, *TOY)
    assert (done.status, len(done.packs)) == (0, 2), done.err
    assert manifest_of(tmp_path)["axes"]["method.options"] == [{"r": r, "modules": ["a b"]} for r in (2, 4)]


def test_a_manifest_does_not_know_where_things_lie(typed: Command, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        places = (f"paths.results={tmp_path}/{folder}", f"data.dir=/data/{folder}", "trainer.log_every=7")
        assert typed("-m", *places, "trainer.max_steps=7", "seed=0,1", *TOY).status == 0
    (one,), (two,) = ((tmp_path / folder / "studies").iterdir() for folder in ("one", "two"))
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()
    assert str(tmp_path) not in one.read_text(encoding="utf-8")
    assert studies.read(one)["fixed"]["trainer.max_steps"] == "7"
    assert not {"paths.results", "data.dir", "trainer.log_every"} & set(studies.read(one)["fixed"])
