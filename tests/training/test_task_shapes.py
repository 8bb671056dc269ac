"""Every shape of task through a pack: right metrics and arrays, replicas as if alone, predictions for leaderboards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sora.errors import UserError
from sora.publish import leaderboard
from sora.runs import records
from sora.tasks import compute_metrics, load, load_task
from sora.training import predictions
from sora.training.evaluation import predict
from sora.training.loop import Loop
from sora.training.pack import build_pack
from sora.training.runner import run_pack
from tests import tiny
from tests.superglue import FOLDERS, download, tiny_runs

CPU = torch.device("cpu")
METRICS = {
    "boolq": {"accuracy"},
    "cb": {"accuracy", "f1_macro"},
    "copa": {"accuracy"},
    "multirc": {"f1a", "em"},
    "record": {"f1", "em"},
    "rte_superglue": {"accuracy"},
    "wic": {"accuracy"},
    "wsc": {"accuracy"},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_pack_of_two(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(tmp_path, name)
    asked = ("method=sora", f"task={name}", "seed=[0,1]", "trainer.max_steps=3", "predict=true")
    configs = tiny_runs(tmp_path, *asked)
    found = run_pack(configs, "test")
    task = load_task(name)
    assert [record["config"]["seed"] for record in found] == [0, 1]
    for record in found:
        assert record["flags"]["partial"]
        assert 0 <= record["throughput"]["padding"] < 0.9, "what is padded is not less than what is read"
        assert record["data"]["truncated"] == dict.fromkeys(record["data"]["truncated"], 0)
        arrays = records.read_arrays(records.find(tmp_path / "results", record["run_id"]))
        for split in ("select", "report"):
            scored = record["metrics"]["selected"][split]
            assert set(scored) == METRICS[name]
            gold = {
                key: arrays[f"{split}_{key}"] for key in ("labels", "groups", "credit") if f"{split}_{key}" in arrays
            }
            assert compute_metrics(task, arrays[f"{split}_logits"], **gold) == scored
            assert ("groups" in gold) == (name in ("multirc", "record"))
        path = tmp_path / "runs" / record["run_id"] / "predictions" / task.submission["test"]
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["idx"] for line in lines] == [0, 1, 2, 3, 4]
        assert set(lines[0]) == ({"idx", "passage"} if name == "multirc" else {"idx", "label"})
        assert leaderboard.count(path, task) in (5, 15)
    assert "predictions in" in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/predictions/*")}
    run_pack(configs, "test")
    assert {path: path.stat().st_mtime_ns for path in written} == written, "what is there is not made again"


@pytest.mark.parametrize("name", ["copa", "wic"])
def test_replicas_are_their_solo_runs(name: str, tmp_path: Path) -> None:
    """Choices and spans carry the replica axis too, dropout included: float64 to 1e-9."""
    download(tmp_path, name)
    configs = tiny_runs(tmp_path, "method=sora", f"task={name}", "seed=[3,4]", "trainer.max_steps=6")
    data = load(configs[0].task, configs[0].protocol, configs[0].data)

    def train(chosen: list, folder: Path) -> Loop:
        return tiny.finish(build_pack(chosen, data, CPU, dtype=torch.float64), folder)

    together, alone = train(configs, tmp_path / "pack"), train(configs[1:], tmp_path / "solo")
    rows = together.pack.optimizer.rows
    torch.testing.assert_close(rows[1], alone.pack.optimizer.rows[0], rtol=0, atol=1e-9)
    assert not torch.allclose(rows[0], rows[1])
    packed, solo = (predict(loop.pack, loop.pack.splits["report"]) for loop in (together, alone))
    np.testing.assert_allclose(packed[1], solo[0], atol=1e-9)


def test_choices_are_scored_by_one_head(tmp_path: Path) -> None:
    """Exchanging the choices exchanges the logits: the head knows no position."""
    download(tmp_path, "copa")
    (run,) = tiny_runs(tmp_path, "method=lora", "task=copa", "seed=0")
    data = load(run.task, run.protocol, run.data)
    pack = build_pack([run], data, CPU, dtype=torch.float64)
    logits = predict(pack, pack.splits["report"])[0]
    premise, first, second = data.splits["report"].texts
    object.__setattr__(data.splits["report"], "texts", (premise, second, first))
    swapped = build_pack([run], data, CPU, dtype=torch.float64)
    np.testing.assert_allclose(predict(swapped, swapped.splits["report"])[0], logits[:, ::-1], atol=1e-12)
    assert pack.model.head.out.shape == (1, 1, 32)
    assert not np.allclose(logits[:, 0], logits[:, 1])


def test_spans_reach_the_head(tmp_path: Path) -> None:
    download(tmp_path, "wsc")
    (run,) = tiny_runs(tmp_path, "method=lora", "task=wsc", "seed=0")
    data = load(run.task, run.protocol, run.data)
    pack = build_pack([run], data, CPU)
    assert pack.model.head.out.shape == (1, 2, 3 * 32)
    logits = predict(pack, pack.splits["report"])
    assert data.splits["report"].spans is not None
    data.splits["report"].spans[:, 0] = data.splits["report"].spans[:, 1]
    moved = build_pack([run], data, CPU)
    assert not np.allclose(predict(moved, moved.splits["report"]), logits)


def test_long_passages_are_cut_and_counted(tmp_path: Path) -> None:
    download(tmp_path, "multirc")
    asked = ("method=lora", "task=multirc", "trainer.max_steps=1", "trainer.max_length=10")
    (record,) = run_pack(tiny_runs(tmp_path, *asked), "test")
    sizes, truncated = record["data"]["sizes"], record["data"]["truncated"]
    # [CLS] ann met bo . [SEP] who met ? ann [SEP] is 11 tokens; the two others of each row are 10 and 9
    assert truncated == {name: size // 3 for name, size in sizes.items()}
    with pytest.raises(UserError, match=r"max_length=7: .* in MultiRC/train.jsonl, row 0"):
        run_pack(tiny_runs(tmp_path, *asked[:-1], "trainer.max_length=7"), "test")


@pytest.mark.parametrize(
    ("method", "seeds"),
    [
        (("method=sora", "method.threshold=1e-2"), "[0,1]"),
        (("method=peft", "method.peft_type=DORA"), "1"),
    ],
    ids=["sora", "peft"],
)
def test_predictions_come_from_the_selected_weights(
    method: tuple[str, ...], seeds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked later, of another company: the report split predicted anew has the logits of the record."""
    download(tmp_path, "cb")
    asked = (*method, "task=cb", "trainer.max_steps=8", "trainer.eval_every=2")
    found = run_pack(tiny_runs(tmp_path, *asked, f"seed={seeds}"), "test")
    assert not (tmp_path / "runs" / found[-1]["run_id"] / "predictions").exists()
    (run,) = tiny_runs(tmp_path, *asked, "seed=1", "predict=true")
    seen: list[np.ndarray] = []

    def report(job: object) -> list:
        return [(run.task, "test", load(run.task, run.protocol, run.data).splits["report"])]

    content = leaderboard.content
    monkeypatch.setattr(predictions, "_test_sets", report)
    monkeypatch.setattr(
        leaderboard, "content", lambda task, ex, logits: seen.append(logits) or content(task, ex, logits)
    )
    run_pack([run], "test")
    arrays = records.read_arrays(records.find(tmp_path / "results", found[-1]["run_id"]))
    np.testing.assert_allclose(seen[0], arrays["report_logits"], atol=2e-3)  # stored as float16
    run_pack([run], "test")
    assert len(seen) == 1, "predictions that are there are not made again"


def test_full_weights_are_kept_only_to_predict(tmp_path: Path) -> None:
    """They would lie there twice: the adapter folder of method=full is the whole model."""
    download(tmp_path, "cb")
    asked = ("method=full", "task=cb", "trainer.max_steps=1")
    run_pack(tiny_runs(tmp_path, *asked), "test")
    with pytest.raises(UserError, match=r"selected\.safetensors: no weights of this run \(No such file"):
        run_pack(tiny_runs(tmp_path, *asked, "predict=true"), "test")
    (record,) = run_pack(tiny_runs(tmp_path, *asked, "seed=1", "predict=true"), "test")
    assert (tmp_path / "runs" / record["run_id"] / "predictions" / "CB.jsonl").is_file()


def test_a_model_of_rte_answers_the_diagnostic_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(tmp_path, "rte_superglue")
    folder = tmp_path / "superglue" / "AX-g"
    folder.mkdir()
    rows = [
        {"premise": f"It is {n}.", "hypothesis": "So it is.", "pair_id": n // 2, "label": "entailment", "idx": n}
        for n in range(4)
    ]
    (folder / "AX-g.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ("task=rte_superglue", "trainer.max_steps=1", "predict=true")
    (record,) = run_pack(tiny_runs(tmp_path, *asked), "test")
    found = tmp_path / "runs" / record["run_id"] / "predictions"
    scores = json.loads((found / "scores.json").read_text())
    answers = [json.loads(line)["label"] for line in (found / "AX-g.jsonl").read_text().splitlines()]
    agree = [answers[0] == answers[1], answers[2] == answers[3]]
    assert scores == {"axg": {"accuracy": answers.count("entailment") / 4, "parity": sum(agree) / 2}}
    said = capsys.readouterr().out
    assert "axb is left out: data.dir=" in said
    assert "no folder for task axb; looked for" in said


def mnli(folder: Path) -> None:
    """A download of MNLI in small: both validation sets, their labels in another order."""
    labels = ["entailment", "neutral", "contradiction"]
    (folder / "MNLI").mkdir()
    for name, rows, first in (("train", 24, 0), ("dev_matched", 12, 0), ("dev_mismatched", 14, 1)):
        lines = ["index\tsentence1\tsentence2\tlabel1\tgold_label"]
        lines += [f"{n}\tIt is {n}.\tThen it is {n % 3}.\tneutral\t{labels[(n + first) % 3]}" for n in range(rows)]
        (folder / "MNLI" / f"{name}.tsv").write_text("\n".join(lines) + "\n")


def test_mnli_is_reported_on_both_its_sets(tmp_path: Path) -> None:
    mnli(tmp_path)
    (run, other) = tiny_runs(
        tmp_path, "task=mnli", "protocol=holdout", "seed=[0,1]", "trainer.max_steps=3", "trainer.batch_size=11"
    )
    splits = load(run.task, run.protocol, run.data).splits
    for record in run_pack([run, other], "test"):
        arrays = records.read_arrays(records.find(tmp_path / "results", record["run_id"]))
        for split, size in (("report", 12), ("report_mm", 14)):
            assert arrays[f"{split}_labels"].tolist() == splits[split].labels.tolist()
            assert arrays[f"{split}_logits"].shape == (size, 3)
            right = arrays[f"{split}_logits"].astype(float).argmax(1) == arrays[f"{split}_labels"]
            assert record["metrics"]["selected"][split] == {"accuracy": pytest.approx(right.mean())}
            assert split in record["metrics"]["last"]
        seen = record["throughput"]["examples_per_s"] * record["time"]["train_s"]
        assert seen == pytest.approx(2 * 3 * run.trainer.batch_size), "both replicas, three steps"
