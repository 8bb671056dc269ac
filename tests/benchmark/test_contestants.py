"""The contestants train what they say, and take turns in processes of their own."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import contestants, measure
from benchmark.cases import Case
from scripts import bench as script
from sora.errors import UserError
from sora.methods.lora import LowRankLinear
from sora.tasks import load
from sora.training.pack import build_pack


@pytest.fixture
def real(shared, monkeypatch):
    """Real GLUE, as the contestants find it."""
    monkeypatch.setenv("SORA_DATA", str(shared / "data"))


@pytest.mark.parametrize("method", ["full", "lora", "adalora"])
def test_theirs_trains_as_many_weights_as_ours(method, real):
    case = Case("x", "ours", method, "cola")
    (run,) = contestants.runs(case)
    data = load(run.task, run.protocol, run.data)
    pack = build_pack([run], data, torch.device("cpu"), encode=False)
    theirs = sum(p.numel() for p in contestants.adapted(case, run).parameters() if p.requires_grad)
    assert pack.optimizer.rows.shape[1] == theirs


def test_the_naive_layer_is_soras():
    torch.manual_seed(0)
    base = nn.Linear(12, 7)
    naive = contestants.NaiveSora(base, 4)
    fast = LowRankLinear(base, replicas=1, r=4, scaling=contestants.ALPHA / 4, gated=True)
    with torch.no_grad():
        naive.b.normal_()
        fast.lora_A[0], fast.lora_B[0], fast.gate[0] = naive.a, naive.b.T, naive.gate
    x = torch.randn(3, 5, 12)
    torch.testing.assert_close(naive(x), fast(x))


def test_padded_rows_are_the_texts_at_full_length(real):
    (run,) = contestants.runs(Case("x", "trainer", "lora", "cola"))
    _, split = contestants.training_split(run)
    assert split.tokens.lengths.max() <= run.task.max_length
    row = contestants.padded(run, split)[5]
    assert {tuple(value.shape) for key, value in row.items() if key != "labels"} == {(run.task.max_length,)}
    length = int(split.tokens.lengths[5])
    assert int(row["attention_mask"].sum()) == length
    ids = split.tokens.collate(np.array([5]))["input_ids"][0]
    assert torch.equal(row["input_ids"][:length], ids)


SHORT = {"method": "sora", "task": "cola", "batch": 2, "max_length": 8}


class OneStep:
    """Asks a contestant for one step."""

    def step(self):
        raise measure.Finished


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the libraries' own, of the contestants that are theirs
@pytest.mark.parametrize("kind", contestants.TRAIN)
def test_each_makes_a_step(kind, real):
    method = {"loop": "lora", "trainer": "lora"}.get(kind, "sora")
    with pytest.raises(measure.Finished):
        contestants.TRAIN[kind](Case(kind, kind, **(SHORT | {"method": method})), OneStep())


@pytest.mark.slow
def test_they_take_turns(real):
    cases = [Case("two", "ours", **SHORT, replicas=2), Case("broken", "ours", **(SHORT | {"batch": 0}))]
    results = {result.case.label: result for result in measure.take_turns(cases, cuda=False, seconds=0.0, quick=True)}
    assert "trainer.batch_size" in results.pop("broken").error
    for label, result in results.items():
        assert result.error == "", label
        assert result.steps == len(result.seconds) == 1
        assert result.seconds[0] > 0
        assert result.peak_bytes > 100 * 2**20


def test_a_mistake_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^.*data\.dir.*$") as error:
        script.main([])
    assert len(str(error.value).splitlines()) == 1


def test_an_unknown_section_is_one_sentence(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^--section t5: no section has that in its title"):
        script.main(["--section", "t5"])
