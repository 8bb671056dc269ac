"""``backbone=auto``: an architecture from its own config.json, through the command. Refusals: test_auto_refused.py."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sora.backbones import DropoutKey, load_backbone
from sora.backbones.auto import described
from sora.backbones.dropout import CounterDropout
from sora.backbones.source import backbone_identity
from sora.backbones.tokenizer import load_tokenizer
from sora.config import BackboneConfig
from sora.errors import UserError
from sora.publish.find_run import find_run, publish
from sora.runs import records
from sora.runs.compose import runs_of
from sora.tasks import load
from tests import tiny
from tests.backbones.folders import SHORT, auto, edit, save_model
from tests.backbones.test_encoders import batch
from tests.hub_cache import fill
from tests.typed import called


@pytest.mark.parametrize("family", tiny.EVERY)
def test_a_saved_folder_describes_itself(family: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "a", family)
    config = auto(tmp_path / "a")
    assert (config.family, config.pooling) == (family, "cls")
    backbone = load_backbone(config)
    inputs = batch(family)
    mask = inputs["attention_mask"].unsqueeze(-1)
    expected = model.base_model(**inputs)[0]
    torch.testing.assert_close(backbone(inputs) * mask, expected * mask, rtol=0, atol=1e-5)
    assert len(backbone.linear_targets()) == MATRICES[family]
    if family in ("bert", "rembert", "ernie"):  # the last two are not listed
        assert torch.equal(backbone.pooler["weight"], model.base_model.pooler.dense.weight)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert auto(tmp_path / "b").name == config.name, "the name is of the files, not of their place"
    layers = tiny.ARCHITECTURES[family].get("num_hidden_layers", tiny.LAYERS)
    assert re.fullmatch(rf"{family}-{layers}x32-[0-9a-f]{{8}}", config.name)


MATRICES = dict.fromkeys(tiny.EVERY, 6 * tiny.LAYERS)
MATRICES["albert"] = 6 * 2  # two groups of shared layers
MATRICES["modernbert"] = 4 * 3  # queries, keys and values are one matrix


def test_a_key_of_the_architecture_that_is_given_holds(tmp_path: Path) -> None:
    """Over what config.json says; one that the weights do not have is refused."""
    save_model(tmp_path)
    backbone = load_backbone(auto(tmp_path, arch={"hidden_dropout_prob": 0.3}))
    assert {site.p for site in backbone.modules() if isinstance(site, CounterDropout)} == {0.1, 0.3}


def test_an_encoder_alone_and_a_renamed_layer_norm(tmp_path: Path) -> None:
    """Without the prefix of a class, and with the names of the first BERT checkpoints."""
    model = save_model(tmp_path, "bert", classifier=False)
    path = tmp_path / "model.safetensors"
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(path).items()
    }
    assert "embeddings.LayerNorm.gamma" in state
    state["embeddings.position_ids"] = torch.arange(64)[None]  # older versions saved it
    save_file(state, path)
    backbone = load_backbone(auto(tmp_path))
    inputs = batch("bert")
    mask = inputs["attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(backbone(inputs) * mask, model(**inputs)[0] * mask, rtol=0, atol=1e-5)
    assert torch.equal(backbone.pooler["weight"], model.pooler.dense.weight)


def test_every_form_that_weights_come_in_gives_the_same_encoder(tmp_path: Path) -> None:
    """One file, shards, a pickle, a pickle in shards; in half precision it is read as fp32."""
    model = save_model(tmp_path / "one", "distilbert").half()
    model.save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "shards")
    (tmp_path / "shards" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    shards = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(shards) > 2
    shutil.copytree(tmp_path / "one", tmp_path / "bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    shutil.copytree(tmp_path / "bin", tmp_path / "bins")
    (tmp_path / "bins" / "pytorch_model.bin").unlink()
    index = {}
    for number, name in enumerate(model.state_dict()):
        index[name] = f"pytorch_model-{number % 2}.bin"
    for shard in set(index.values()):
        part = {name: model.state_dict()[name] for name in index if index[name] == shard}
        torch.save(part, tmp_path / "bins" / shard)
    (tmp_path / "bins" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    expected = load_backbone(auto(tmp_path / "one")).state_dict()
    assert {value.dtype for value in expected.values()} == {torch.float32}
    names = {auto(tmp_path / "one").name}
    for form in ("shards", "bin", "bins"):
        config = auto(tmp_path / form)
        found = load_backbone(config).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
        names.add(config.name)
    assert len(names) == 4, "other files are other weights, as far as a hash can tell"


def test_another_tokenizer_is_another_backbone(tmp_path: Path) -> None:
    """Else who mends a wrong tokenizer would get the old run back; config.json may be written anew."""
    save_model(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    edit(tmp_path / "two" / "config.json", transformers_version="1.2.3")
    assert auto(tmp_path / "two").name == auto(tmp_path / "one").name
    vocabulary = json.loads((tmp_path / "two" / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    (tmp_path / "two" / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert auto(tmp_path / "two").name != auto(tmp_path / "one").name


def test_one_yaml_pins_what_auto_reads(tmp_path: Path) -> None:
    """Five lines in a folder of one's own; without a hash it would take whatever lies there."""
    save_model(tmp_path / "models" / "mine")
    sha256 = backbone_identity(auto(tmp_path / "models" / "mine"))["sha256"]
    pinned = tmp_path / "conf" / "backbone" / "mine.yaml"
    pinned.parent.mkdir(parents=True)
    text = (
        f"name: mine\nfamily: auto\ndir: {tmp_path / 'models'}\npooling: auto\nsha256: {{model.safetensors: {sha256}}}"
    )
    words = ("backbone=mine", "task=synthetic_pair", "method=sora", "recipe=none", "budget=none")
    pinned.write_text(text)
    (run,) = runs_of(words, [str(tmp_path / "conf")])
    assert (run.backbone.name, run.backbone.arch["hidden_size"]) == ("mine", 32)
    load_backbone(run.backbone)
    pinned.write_text(text.replace(sha256, "ab" * 32))
    (run,) = runs_of(words, [str(tmp_path / "conf")])
    with pytest.raises(UserError, match=r"but backbone=mine pins abababababab\.\.\."):
        load_backbone(run.backbone)


def test_a_name_on_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its newest revision or a given one; adapters and cards name it as their base."""
    save_model(tmp_path / "own", "electra")
    files = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fill(tmp_path / "hub", "org/own-electra", "f" * 40, files)
    named = BackboneConfig("auto", "auto", weights="org/own-electra", pooling="auto")
    for revision in ("", "f" * 40):
        config = described(replace(named, revision=revision))
        assert config.name == auto(tmp_path / "own").name
        assert load_backbone(config).source == "org/own-electra"
        load_tokenizer(config)
    with pytest.raises(UserError, match=r"its cache has revision ffffffffffff, not eeeeeeeeeeee \(backbone.revision\)"):
        described(replace(named, revision="e" * 40))


# -- trained, exported, loaded in plain peft -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["modernbert", "albert"])
def test_a_pack_trains_and_its_adapter_reloads_in_plain_peft(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = save_model(tmp_path / "own", family)
    words = ("method=sora", "seed=[0,1]", "backbone=auto", "backbone.weights=own", "method.r=2")
    done = called(tmp_path, *SHORT, *words)
    assert done.status == 0, done.err
    found = records.read_many(tmp_path / "results")
    assert [record["config"]["seed"] for record in found] == [0, 1]
    assert {record["config"]["backbone"]["name"] for record in found} == {auto(tmp_path / "own").name}
    adapter = tmp_path / "adapter"
    finished = find_run(found[0]["run_id"], Path("runs"), Path("results"))
    publish(finished, adapter, merge=False)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "own"
    card = (adapter / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert "ignore_mismatched_sizes=True" in code, "the base has a classifier of five labels"
    base = AutoModelForSequenceClassification.from_pretrained("own", num_labels=2, ignore_mismatched_sizes=True)
    theirs = peft.PeftModel.from_pretrained(base, adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained("own")
    path = records.find(Path("results"), found[0]["run_id"])
    assert path is not None
    expected = torch.from_numpy(records.read_arrays(path)["report_logits"][:8].astype("float32"))
    examples = load(finished.run.task, finished.run.protocol, finished.run.data).splits["report"].texts
    inputs = tokenizer(*(column[:8] for column in examples), padding=True, return_tensors="pt", max_length=32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).logits, expected, rtol=0, atol=2e-3)  # kept as float16
        scope: dict[str, Any] = {}
        exec(code, scope)  # as the card has it, in the folder above the adapter
        torch.testing.assert_close(scope["model"](**inputs).logits, theirs(**inputs).logits)
        publish(finished, tmp_path / "merged", merge=True)
        merged = AutoModelForSequenceClassification.from_pretrained("merged").eval()
        torch.testing.assert_close(merged(**inputs).logits, theirs(**inputs).logits, rtol=0, atol=1e-5)
    assert model.num_labels == 5


@pytest.mark.parametrize("family", ["rembert", "ernie"])
def test_a_family_that_is_not_listed_drops_attention_by_counted_masks(family: str, tmp_path: Path) -> None:
    """In a module of its own, or through our attention."""
    save_model(tmp_path, family)
    config = auto(tmp_path)
    config.arch.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    backbone = load_backbone(config)
    quiet = backbone(batch(family))
    backbone.dropout.begin(DropoutKey((1,), 0))
    assert not torch.equal(backbone(batch(family)), quiet)
