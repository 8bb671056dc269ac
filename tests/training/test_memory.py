"""Packs that do not fit are split: by estimate before they start, and when memory runs out all the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sora.config import RunConfig
from sora.errors import OutOfMemory, UserError
from sora.runs import estimate, records
from sora.tasks import load
from sora.training import memory, predictions
from sora.training.loop import Loop
from sora.training.pack import EncodedSplit, Pack
from sora.training.runner import run_pack
from tests import composing, superglue, tiny, typed

SMALL = (
    *typed.SMALL,
    "method.r=2",
    "trainer.max_steps=8",
    "trainer.batch_size=2",
    "trainer.eval_every=4",
    "trainer.checkpoint_every=4",
)


def runs(folder: Path, seeds: list[int], *more: str) -> list[RunConfig]:
    paths = [f"paths.{name}={folder}/{name}" for name in ("results", "runs")]
    return composing.runs(folder / "conf", f"seed={seeds}", *SMALL, *paths, *more, backbone="minilm-l6")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The records of five runs that trained as one pack."""
    return run_pack(runs(tmp_path_factory.mktemp("whole"), [0, 1, 2, 3, 4]), "python run.py")


def numbers(record: dict) -> tuple:
    """What the pack mates of a run must not change."""
    return record["run_id"], record["metrics"]["last"]["step"], record["ranks"], record["metrics"]["selected"]["report"]


def out_of_memory(monkeypatch: pytest.MonkeyPatch, step: int, most: int) -> None:
    """Packs of more than ``most`` runs fail at ``step``, as a GPU does."""
    update = Loop._update

    def fail(loop: Loop, indices: object) -> None:
        if loop.step == step and loop.pack.replicas > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        update(loop, indices)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_update", fail)


def test_a_pack_that_would_not_fit_is_split_before_it_starts(whole, tmp_path, monkeypatch, capfd):
    some = runs(tmp_path, [0, 1, 2, 3, 4])
    facts = estimate.facts_of(load(some[0].task, some[0].protocol, some[0].data))
    room = estimate.peak_bytes(some[:2], facts)
    monkeypatch.setattr(memory, "capacity", lambda device: room)
    split = run_pack(some, "python run.py")
    assert [record["pack"]["size"] for record in split] == [1, 2, 2, 2, 2]
    assert list(map(numbers, split)) == list(map(numbers, whole))
    needed = estimate.gibibytes(estimate.peak_bytes(some, facts))
    said = capfd.readouterr().err
    assert f"5 runs together would need about {needed}, and {estimate.gibibytes(room)} can be used" in said
    assert "split into packs of 1 + 2 + 2 runs" in said


def test_a_pack_that_runs_out_of_memory_is_split_and_goes_on(whole, tmp_path, monkeypatch, capfd):
    out_of_memory(monkeypatch, step=5, most=1)
    split = run_pack(runs(tmp_path, [0, 1, 2]), "python run.py")
    assert list(map(numbers, split)) == list(map(numbers, whole[:3]))
    assert [record["pack"]["size"] for record in split] == [1, 1, 1]
    assert [record["provenance"]["resumed_at"] for record in split] == [[4], [4], [4]]
    assert all(record["flags"]["members_changed"] for record in split)
    assert not any(record["flags"]["members_changed"] for record in whole)
    said = capfd.readouterr().err
    assert "out of memory with 3 x 2 examples a step: split into packs of 1 + 2 runs" in said
    assert "out of memory with 2 x 2 examples a step: split into packs of 1 + 1 runs" in said


LOWER = "out of memory with 2 x 8 examples a step; lower"


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried", OutOfMemory, LOWER),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", OutOfMemory, LOWER),
        ("CUDA error: out of memory\nCompile with", OutOfMemory, LOWER),
        ("could not create a primitive", OutOfMemory, r"a step \(oneDNN: could not create a primitive\); lower"),
        ("CUDA error: launch failure\nmore", UserError, r"the GPU failed \(CUDA error: launch failure\); .* again"),
        ("another", RuntimeError, "^another$"),
    ],
)
def test_what_a_device_says(words: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said), memory.errors(2, 8, "lower it"):
        raise RuntimeError(words)


def test_what_a_failed_gpu_cannot_give_back_does_not_hide_its_sentence(monkeypatch):
    def fail() -> None:
        raise RuntimeError("CUDA error: launch failure")

    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    memory.release(torch.device("cuda"))


def test_one_run_that_does_not_fit_is_a_sentence(tmp_path, monkeypatch):
    out_of_memory(monkeypatch, step=5, most=0)
    (run,) = runs(tmp_path, [0])
    with pytest.raises(OutOfMemory, match=r"out of memory with 1 x 2 examples a step; lower trainer.batch_size"):
        run_pack([run], "python run.py")
    (status,) = tmp_path.glob("runs/*/status.json")
    assert json.loads(status.read_text())["status"] == "failed"


def test_those_that_finished_before_another_pack_failed_stay_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "fitting", lambda jobs, facts, device: memory.parts(jobs, 2))
    update = Loop._update

    def fail(loop: Loop, indices: object) -> None:
        if loop.pack.runs[0].seed == 1:
            raise UserError("the disk is full")
        update(loop, indices)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_update", fail)
    with pytest.raises(UserError, match="the disk is full"):
        run_pack(runs(tmp_path, [0, 1]), "python run.py")
    states = [json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/*/status.json")]
    assert sorted(states) == ["failed", "ok"]
    assert len(records.read_many(tmp_path / "results" / "records")) == 1


def test_runs_resume_with_the_pack_mates_they_had(whole, tmp_path):
    """Where they are not asked for again, a run goes on from where it was, and does not begin anew with others."""
    begun = tmp_path / "begun"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_evaluate", lambda loop: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_pack(runs(begun, [1, 0], "trainer.checkpoint_every=2"), "python run.py")
    shutil.copytree(begun, tmp_path / "apart")
    later = run_pack(runs(begun, [0, 1, 2], "trainer.checkpoint_every=2"), "python run.py")
    assert [record["pack"]["size"] for record in later] == [2, 2, 1]
    assert [record["provenance"]["resumed_at"] for record in later] == [[2], [2], []]
    assert not any(record["flags"]["members_changed"] for record in later)
    assert [numbers(record)[1:] for record in later] == [numbers(record)[1:] for record in whole[:3]]
    apart = run_pack(runs(tmp_path / "apart", [0, 2], "trainer.checkpoint_every=2"), "python run.py")
    assert [record["provenance"]["resumed_at"] for record in apart] == [[2], []]
    assert apart[0]["flags"]["members_changed"]


@pytest.mark.parametrize(("stopped", "at"), [(7, [6, 0, 6]), (3, [0, 0, 0])], ids=["later", "first"])
def test_a_run_that_lost_its_folder_does_not_send_its_pack_back(stopped, at, whole, tmp_path):
    """The others go on without it. Where they have their first checkpoint alone, it may not have been reached."""
    update = Loop._update

    def interrupted(loop: Loop, indices: object) -> None:
        if loop.step == stopped:
            raise KeyboardInterrupt
        update(loop, indices)  # type: ignore[arg-type]

    some = runs(tmp_path, [0, 1, 2], "trainer.checkpoint_every=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_pack(some, "python run.py")
    shutil.rmtree(tmp_path / "runs" / whole[1]["run_id"])
    again = run_pack(some, "python run.py")
    assert [(record["provenance"]["resumed_at"] or [0])[-1] for record in again] == at
    assert list(map(numbers, again)) == list(map(numbers, whole[:3]))


def test_a_record_that_lost_its_arrays_is_made_whole_again(tmp_path):
    (record,) = run_pack(runs(tmp_path, [0]), "python run.py")
    (arrays,) = tmp_path.glob("results/records/**/*.npz")
    content = arrays.read_bytes()
    arrays.unlink()
    (again,) = run_pack(runs(tmp_path, [0]), "python run.py")
    assert arrays.read_bytes() == content
    assert records.science(again) == records.science(record)


CB = ("task=cb", "trainer.max_steps=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five runs that are trained and have predicted nothing."""
    folder = tmp_path_factory.mktemp("trained")
    superglue.download(folder, "cb")
    run_pack(superglue.tiny_runs(folder, *CB, "seed=[0,1,2,3,4]"), "python run.py")
    return folder


def asked(trained: Path, folder: Path, seeds: list[int]) -> list[RunConfig]:
    """Some of these runs, in a copy of the folder, that now have to predict."""
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    return superglue.tiny_runs(folder, *CB, f"seed={seeds}", "predict=true")


def predicted(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.glob("runs/*/predictions/*")}


@pytest.fixture(scope="module")
def predictions_of_all(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What they predict as one pack, by file."""
    folder = tmp_path_factory.mktemp("predicted")
    run_pack(asked(trained, folder, [0, 1, 2, 3, 4]), "python run.py")
    return predicted(folder)


def no_memory_to_predict(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Packs of more than ``most`` runs fail, as a GPU does. The sizes that were tried are in the list."""
    sizes: list[int] = []
    predict = predictions.predict

    def fail(pack: Pack, split: EncodedSplit, check: Callable[[], None]) -> np.ndarray:
        sizes.append(pack.replicas)
        if pack.replicas > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(pack, split, check)

    monkeypatch.setattr(predictions, "predict", fail)
    return sizes


def test_predictions_that_do_not_fit_are_made_in_smaller_packs(
    trained, predictions_of_all, tmp_path, monkeypatch, capfd
):
    """By the estimate first, in halves where memory runs out all the same."""
    some = asked(trained, tmp_path, [0, 1, 2, 3, 4])
    facts = estimate.facts_of(load(some[0].task, some[0].protocol, some[0].data))
    room = estimate.peak_bytes(some[:2], facts)
    monkeypatch.setattr(memory, "capacity", lambda device: room)
    sizes = no_memory_to_predict(monkeypatch, most=1)
    capfd.readouterr()
    run_pack(some, "python run.py")
    assert sizes == [1, 2, 1, 1, 2, 1, 1]
    assert len(predicted(tmp_path)) == 2 * 5
    assert predicted(tmp_path) == predictions_of_all
    said = capfd.readouterr().err
    assert "split into packs of 1 + 2 + 2 runs" in said
    assert "out of memory with 2 x 32 examples a step: split into packs of 1 + 1 runs" in said
    run_pack(some, "python run.py")
    assert len(sizes) == 7, "predictions that are there are not made again"


@pytest.mark.parametrize("place", ["predict", "load_file"])
def test_one_run_that_cannot_predict_is_a_sentence(place, trained, tmp_path, monkeypatch):
    runs = asked(trained, tmp_path, [0])

    def fail(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(predictions, place, fail)
        with pytest.raises(OutOfMemory, match=r"out of memory with 1 x 32 examples a step; .* give predict=true again"):
            run_pack(runs, "python run.py")
    states = [json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/*/status.json")]
    assert states == ["ok"] * 5
    run_pack(runs, "python run.py")
    assert len(predicted(tmp_path)) == 2


def test_entries_that_are_one_run_are_refused(tmp_path):
    pack = "pack=[{seed: 0, method.penalty: 0.1}, {seed: 0, method.penalty: 0.2}]"
    twice = composing.runs(tmp_path / "conf", pack, "method.penalty_rule=off", *SMALL, backbone="minilm-l6")
    with pytest.raises(UserError, match=r"difference has no effect .*seed 0 penalty 0.1 is ([0-9a-f]{12});"):
        run_pack(twice, "python run.py")


def test_control_groups_bound_from_where_the_process_is(tmp_path, monkeypatch):
    """As in a job of Slurm: the limit lies on a group between the root and the process, of either version."""
    for root, file in (("v2", "memory.max"), ("v1", "memory.limit_in_bytes")):
        (tmp_path / root / "slurm" / "job" / "step").mkdir(parents=True)
        (tmp_path / root / "slurm" / "job" / file).write_text("2147483648\n")
        (tmp_path / root / file).write_text("max\n" if root == "v2" else "9223372036854771712\n")
    places = {"0": (str(tmp_path / "v2"), "memory.max"), "memory": (str(tmp_path / "v1"), "memory.limit_in_bytes")}
    monkeypatch.setattr(memory, "CGROUPS", places)
    for line in ("0::/slurm/job/step", "5:cpuset:/\n4:memory:/slurm/job/step"):
        (tmp_path / "cgroup").write_text(f"{line}\n")
        assert min(memory.group_limits(tmp_path / "cgroup")) == 2 << 30
    (tmp_path / "cgroup").write_text("0::/\n")
    assert memory.group_limits(tmp_path / "cgroup") == []
    assert memory.group_limits(tmp_path / "none") == []


@pytest.mark.parametrize("where", ["publish.card.write", "training.checkpoint.discard"])
def test_a_run_that_ended_just_after_its_record_is_completed_by_its_command(where, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(f"sora.{where}", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_pack(runs(tmp_path, [0]), "python run.py")
    (folder,) = (path.parent for path in tmp_path.glob("runs/*/status.json"))
    assert list(folder.glob("checkpoint/step-*"))
    run_pack(runs(tmp_path, [0]), "python run.py")
    assert json.loads((folder / "status.json").read_text())["status"] == "ok"
    assert (folder / "adapter" / "README.md").is_file()
    assert not list(folder.glob("checkpoint/step-*"))


def test_a_run_keeps_its_checkpoints_while_a_pack_mate_lacks_its_record(tmp_path, monkeypatch):
    """Killed between the two records: the first run's own command may not take from the second what it resumes by."""
    write, calls = records.write, []

    def killed(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            run_pack(runs(tmp_path, [0, 1]), "python run.py")
    (first,) = run_pack(runs(tmp_path, [0]), "python run.py")
    assert list((tmp_path / "runs" / first["run_id"]).glob("checkpoint/step-*"))


def test_the_commit_and_the_threads_are_those_of_the_training(tmp_path, monkeypatch):
    commits = iter(["a" * 40, "b" * 40, "c" * 40])
    monkeypatch.setattr("sora.training.device.commit", lambda: next(commits))
    before = torch.get_num_threads()
    resume = Loop.resume

    def with_other_threads(loop):
        torch.set_num_threads(before + 1)
        return resume(loop)

    monkeypatch.setattr(Loop, "resume", with_other_threads)
    (record,) = run_pack(runs(tmp_path, [0], "trainer.max_steps=1"), "python run.py")
    assert record["provenance"]["git"] == "a" * 40
    assert record["provenance"]["threads"] == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("method", ["lora", "sora", "adalora", "adapter", "full", "peft"])
def test_the_estimate_counts_the_weights_there_are(method):
    """Against the modules themselves, vectors and gates aside."""
    options = {"peft_type": "LORA", "options": {"r": 2}} if method == "peft" else {}
    configs = tiny.runs("bert", method={"name": method} | options)
    pack = tiny.pack(configs)
    shape = estimate.Shape(configs[0].backbone)
    matrices = sum(p.numel() for p in pack.model.backbone.encoder.parameters() if p.ndim == 2)
    if method == "full":
        assert shape.parameters == pytest.approx(matrices, rel=0.02)  # segments' embeddings are not counted
    assert estimate.trainable(configs[0]) == pytest.approx(pack.optimizer.rows.shape[1], rel=0.1)


@pytest.mark.parametrize(
    ("batch", "dropout", "largest"),
    [
        (4, 0.0, 2048 * 160 * 4),  # an evaluation, of 32 examples a run
        (16, 0.0, 2 * 1024 * 352 * 4 + 1024 * 160 * 4),  # a step: what two layers keep, and a block at work
        (16, 0.1, 2 * (1024 * (352 * 4 + 64) + 131_072 * 9) + 1024 * 160 * 4 + 3 * 131_072 * 4),
    ],
)
def test_the_peak_of_a_small_shape_by_hand(batch: int, dropout: float, largest: int) -> None:
    """Two runs of SoRA with r = 4 on two layers of width 32 (48 inside, 4 heads), 60 + 64 embeddings, 32 tokens, fp32.

    Weights: 4 x 32 x 32 + 2 x 32 x 48 = 7168 a layer, 124 x 32 embeddings. A run trains a head of 32 x (32 + 2) = 1088,
    and on each layer 4 factors of 8 x 32 + 2 x (32 + 48) = 416; five times (value, gradient, two moments, the best). Of
    every token a step keeps 8 x 32 + 2 x 48 = 352 numbers a layer, and 2 x 48 + 2 x 32 = 160 are at work in the largest
    block. Dropout adds two masks of 32 bytes a token and, for each of 1024 x 32 x 4 attention weights, two numbers and
    a byte of mask that are kept, and three numbers at work. Allocators hold 1.3 times as much, the process 500 MiB.
    """
    configs = tiny.runs("bert", [0, 1], trainer={"batch_size": batch}, backbone={"dropout": dropout})
    facts = estimate.DataFacts("", {"train": 60}, mean=20.0, longest=10_000)
    weights = (2 * 7168 + 124 * 32) * 4
    trained = 2 * (1088 + 2 * 4 * 416) * 5 * 4
    assert estimate.peak_bytes(configs, facts, cpu=False) == pytest.approx(weights + trained + 1.3 * largest, abs=1)
    assert estimate.peak_bytes(configs, facts) == estimate.peak_bytes(configs, facts, cpu=False) + 500 * 2**20


def test_operations_are_those_that_torch_counts():
    """Forward and backward of one step over frozen weights, by torch's own counter on the same model."""
    from torch.utils.flop_counter import FlopCounterMode

    from sora.training.pack import losses_of

    configs = tiny.runs("bert", method={"name": "lora", "r": 1}, trainer={"max_steps": 1, "batch_size": 8})
    pack = tiny.pack(configs)
    batch, labels = pack.splits["train"].batch(torch.arange(8).numpy(), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        losses_of(pack.model(batch), labels, 1).sum().backward()
    length = batch["input_ids"].shape[1]
    characters = (length - 3) * estimate.CHARACTERS_PER_TOKEN
    facts = estimate.DataFacts("", {"train": 8, "select": 0}, mean=characters, longest=10_000)
    assert facts.tokens(configs[0])[0] == length
    assert estimate.operations(configs, facts) == pytest.approx(counter.get_total_flops(), rel=0.25)
