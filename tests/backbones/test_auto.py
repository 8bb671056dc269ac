"""``backbone=auto``: an architecture from its own config.json, through the command; what is refused in one sentence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from sora.backbones import load_backbone
from sora.backbones.auto import described
from sora.backbones.source import backbone_identity
from sora.backbones.tokenizer import load_tokenizer
from sora.cli import main as cli
from sora.config import BackboneConfig
from sora.errors import UserError
from sora.publish.find_run import find_run, publish
from sora.runs import records
from sora.tasks import load
from tests import tiny
from tests.backbones.folders import edit, save_model, save_tokenizer
from tests.backbones.test_encoders import batch
from tests.hub_cache import fill

TASK = ("task=synthetic_pair", "task.sizes={train: 60, validation: 40}", "recipe=none", "budget=none")
SHORT = ("trainer.max_steps=4", "trainer.batch_size=4", "trainer.eval_every=2", "trainer.max_length=32")
DRY = ("method=sora", "dry_run=true")


def auto(folder: Path, **changes: Any) -> BackboneConfig:
    return described(BackboneConfig("auto", "auto", weights=str(folder), pooling="auto", **changes))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The command in this process: its exit status, what it printed, what it said."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)

    def run(*words: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *flags, *TASK, *SHORT, *words])
        capfd.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
        out, err = capfd.readouterr()
        return status, out, err

    return run


# -- read ----------------------------------------------------------------------------------------------------------


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
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert auto(tmp_path / "b").name == config.name, "the name is of the weights, not of their place"
    layers = tiny.ARCHITECTURES[family].get("num_hidden_layers", tiny.LAYERS)
    assert config.name == f"{family}-{layers}x32-{backbone_identity(config)['sha256'][:8]}"


MATRICES = dict.fromkeys(tiny.EVERY, 6 * tiny.LAYERS)
MATRICES["albert"] = 6 * 2  # two groups of shared layers
MATRICES["modernbert"] = 4 * 3  # queries, keys and values are one matrix


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
        for cache in (None, tmp_path / "cache", tmp_path / "cache"):
            found = load_backbone(config, cache=cache).state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in found.items())
        names.add(config.name)
    assert len(names) == 4, "other files are other weights, as far as a hash can tell"


def test_one_yaml_pins_what_auto_reads(tmp_path: Path, command: Any) -> None:
    """Eight lines in a folder of one's own; without a hash it would take whatever lies there."""
    save_model(tmp_path / "model")
    sha256 = backbone_identity(auto(tmp_path / "model"))["sha256"]
    pinned = tmp_path / "conf" / "backbone" / "mine.yaml"
    pinned.parent.mkdir(parents=True)
    pinned.write_text(
        f"name: mine\nfamily: auto\ndir: {tmp_path / 'models'}\npooling: auto\n"
        f"sha256: {{model.safetensors: {sha256}}}\n"
    )
    (tmp_path / "models").mkdir()
    shutil.copytree(tmp_path / "model", tmp_path / "models" / "mine")
    status, out, err = command("backbone=mine", *DRY, flags=("--config-dir", str(tmp_path / "conf")))
    assert status == 0, err
    assert json.loads(out)["backbone"] == "mine"
    pinned.write_text(pinned.read_text().replace(sha256, "ab" * 32))
    status, out, err = command("backbone=mine", *DRY, flags=("--config-dir", str(tmp_path / "conf")))
    assert status == 2
    assert "but backbone=mine pins abababababab..." in err


def test_a_name_on_the_hub_is_read_from_its_cache(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its newest revision or a given one; adapters and cards name it as their base."""
    save_model(tmp_path / "own", "electra")
    files = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fill(tmp_path / "hub", "org/own-electra", "f" * 40, files)
    words = ("backbone=auto", "backbone.weights=org/own-electra")
    named = BackboneConfig("auto", "auto", weights="org/own-electra", pooling="auto")
    for revision in ("", "f" * 40):
        assert described(replace(named, revision=revision)).name == auto(tmp_path / "own").name
    with pytest.raises(UserError, match=r"its cache has revision ffffffffffff, not eeeeeeeeeeee \(backbone.revision\)"):
        described(replace(named, revision="e" * 40))
    status, _, err = command(*words, "method=lora")
    assert status == 0, err
    (config,) = (tmp_path / "runs").glob("*/adapter/adapter_config.json")
    assert json.loads(config.read_text())["base_model_name_or_path"] == "org/own-electra"


# -- trained, exported, loaded in plain peft -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["modernbert", "albert"])
def test_a_pack_trains_and_its_adapter_reloads_in_plain_peft(family: str, tmp_path: Path, command: Any) -> None:
    model = save_model(tmp_path / "own", family)
    status, _, err = command("method=sora", "seed=[0,1]", "backbone=auto", "backbone.weights=own", "method.r=2")
    assert status == 0, err
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


# -- refused -------------------------------------------------------------------------------------------------------


def _lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def _sharded(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    next(iter(sorted(folder.glob("model-*")))).unlink()


def _layers(count: int) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", num_hidden_layers=count)


def _other(kind: str, **values: Any) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        config = AutoConfig.for_model(kind, **values)
        config.save_pretrained(folder)

    return put


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text("{}")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4}
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config.json": (lambda folder: (folder / "config.json").unlink(), "no config.json there"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "a torn config.json": (lambda folder: (folder / "config.json").write_text("{"), "not the config.json of a model"),
    "no model_type": (lambda folder: edit(folder / "config.json", model_type=None), "names no model_type"),
    "a PEFT adapter": (_adapter, "holds a PEFT adapter, no model; merge it into its base first"),
    "a pointer of Git LFS": (_lfs, "a pointer of Git LFS, not the file itself; run git lfs pull"),
    "a missing shard": (_sharded, "this shard is missing, though model.safetensors.index.json lists it"),
    "extra layers": (_layers(1), "has no place in it; 16 tensors do not fit"),
    "missing layers": (_layers(3), "encoder.layer.2.attention.output.LayerNorm.bias is missing"),
    "another hidden size": (
        lambda folder: edit(folder / "config.json", hidden_size=64),
        "is [32], [64] expected",
    ),
    "a truncated file": (_cut, "cannot be read as weights"),
    "an unknown architecture": (
        lambda folder: edit(folder / "config.json", model_type="ownbert", auto_map={"AutoModel": "own.Own"}),
        "transformers cannot build this ownbert (ValueError: Unrecognized model",
    ),
    "a decoder": (_other("gpt2", **GPT2), "gpt2 is a decoder, which reads from left to right"),
    "a decoder of BERT's family": (lambda folder: edit(folder / "config.json", is_decoder=True), "bert is a decoder"),
    "an encoder-decoder": (_other("t5", d_model=32), "t5 is an encoder-decoder"),
    "a model of images": (_other("vit"), "vit is a model of images"),
    "quantised weights": (
        lambda folder: edit(folder / "config.json", quantization_config={"bits": 4}),
        "the weights are quantised, which is not supported",
    ),
    "an activation that does not exist": (
        lambda folder: edit(folder / "config.json", hidden_act="gelou"),
        "transformers cannot build this bert",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_backbone_is_made_of(case: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    spoil, said = BAD[case]
    spoil(tmp_path)
    with pytest.raises(UserError) as refused:
        load_backbone(auto(tmp_path))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_tokenizer, "no tokenizer in"),
        (lambda folder: save_tokenizer(folder, 70), "70 tokens, but the embeddings have 60 rows"),
        (lambda folder: save_tokenizer(folder, pad=3), "padding is token 3, but the backbone's is 0"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer cannot be read"),
    ],
)
def test_a_tokenizer_that_does_not_fit(spoil: Any, said: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=said):
        load_tokenizer(auto(tmp_path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("backbone=auto",), "name one with backbone.weights=FOLDER, or its name on the hub"),
        (("backbone=auto", "backbone.weights=random"), "reads its architecture from a model"),
        (("backbone=auto", "backbone.weights=org/model"), "no weights for org/model: HF_HUB_OFFLINE is set"),
        (("backbone=auto", "backbone.weights=./nowhere"), "no such folder"),
        (("backbone=auto", "backbone.hub=./own"), "backbone.hub: got './own', a folder"),
        (
            ("backbone=minilm-l6", "backbone.hub=google-bert/bert-base-uncased"),
            "backbone=minilm-l6 is sentence-transformers/all-MiniLM-L6-v2; for another model take backbone=auto "
            "backbone.weights=google-bert/bert-base-uncased",
        ),
        (("backbone=minilm-l6", "backbone.weights=own"), "but backbone=minilm-l6 has 30522"),
        (("backbone=auto", "backbone.weights=own", "trainer.max_length=65"), "reads at most 64 tokens"),
        (("backbone=auto", "backbone.weights=own", "method.r=33"), "must be at most 32, the hidden size"),
        (("backbone=auto", "backbone.weights=own", "method.targets=[qurey]"), "'qurey' matches no module"),
    ],
)
def test_what_the_command_refuses(words: tuple[str, ...], said: str, tmp_path: Path, command: Any) -> None:
    save_model(tmp_path / "own")
    status, _, err = command(*words, *DRY)
    assert (status, said in err) == (2, True), err
    assert "Traceback" not in err


def test_a_home_folder_is_found(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model(tmp_path / "own")
    status, out, err = command("backbone=auto", "backbone.weights='~/own'", *DRY)
    assert status == 0, err
    assert json.loads(out)["backbone"] == auto(tmp_path / "own").name


def test_more_layers_than_the_pinned_backbone_has(tmp_path: Path) -> None:
    """A folder without config.json: its tensors say it."""
    save_model(tmp_path, num_hidden_layers=4)
    config = replace(auto(tmp_path), name="mine")
    (tmp_path / "config.json").unlink()
    config.arch["num_hidden_layers"] = 2
    with pytest.raises(UserError, match=r"encoder\.layer\.2\S+ has no place in it; 32 tensors do not fit"):
        load_backbone(config)


@pytest.mark.parametrize(("family", "by_interface"), [("rembert", 0), ("ernie", tiny.LAYERS)])
def test_a_family_that_is_not_listed_drops_by_counted_masks(family: str, by_interface: int, tmp_path: Path) -> None:
    from sora.backbones import DropoutKey

    save_model(tmp_path, family)
    backbone = load_backbone(auto(tmp_path))
    every = backbone.encoder.named_modules(remove_duplicate=False)
    assert sum(name.endswith(".attention_site") for name, _ in every) == by_interface
    quiet = backbone(batch(family))
    backbone.dropout.begin(DropoutKey((1,), 0))
    assert not torch.equal(backbone(batch(family)), quiet)
    backbone.dropout.end()
    assert torch.equal(backbone(batch(family)), quiet)
    only = auto(tmp_path)
    only.arch.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    backbone = load_backbone(only)
    backbone.dropout.begin(DropoutKey((1,), 0))
    assert not torch.equal(backbone(batch(family)), quiet), "that of the attention probabilities alone"


class Convolved(torch.nn.Module):
    """An encoder whose tokens see their neighbours, padding or not."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, **inputs: torch.Tensor) -> Any:
        out = self.encoder(**inputs)
        out.last_hidden_state = out.last_hidden_state + out.last_hidden_state.roll(-1, 1)
        return out


class Noisy(Convolved):
    """An encoder that drops by torch's own generator."""

    def forward(self, **inputs: torch.Tensor) -> Any:
        out = self.encoder(**inputs)
        out.last_hidden_state = torch.nn.functional.dropout(out.last_hidden_state, 0.1, self.training)
        return out


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Convolved, "the padding or another example of the batch reaches a token"), (Noisy, "set backbone.dropout=0")],
)
def test_a_family_that_is_not_listed_is_run_before_it_is_taken(kind: Any, said: str, tmp_path: Path) -> None:
    from sora.backbones import encoder_checks

    save_model(tmp_path, "ernie")
    backbone = load_backbone(auto(tmp_path, dropout=0.0))
    backbone.encoder = kind(backbone.encoder).eval()
    with pytest.raises(UserError, match=said):
        encoder_checks.check(backbone)


def test_fourier_transforms_over_the_batch_are_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 60}
    AutoModel.from_config(AutoConfig.for_model("fnet", **sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="in fnet the padding or another example of the batch reaches a token"):
        load_backbone(auto(tmp_path))
