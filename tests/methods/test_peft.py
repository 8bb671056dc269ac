"""Tuners of PEFT in our loop: against our own LoRA, reloaded by plain PEFT, and refused in one sentence."""

import json
import resource

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from sora.errors import UserError
from sora.method_config import PeftConfig
from sora.training.evaluation import predict
from tests import tiny
from tests.publish.test_export import logits_of, plain_model

TUNERS = {
    "LORA": {"r": 2},
    "DORA": {"r": 2},
    "PISSA": {"r": 2},
    "OFT": {"oft_block_size": 8},
    "IA3": {"feedforward_modules": []},
    "VERA": {"r": 4},
    "FOURIERFT": {"n_frequency": 20},
}
SHORT = {"max_steps": 6, "eval_every": 3}


def configs(family="bert", seed=0, trainer=SHORT, **groups):
    groups["method"] = {"name": "peft"} | groups.get("method", {})
    return tiny.runs(family, seed, trainer=trainer, **groups)


@pytest.mark.parametrize("kind", TUNERS)
def test_it_trains_and_reloads_in_plain_peft(kind, tmp_path):
    loop = tiny.train(configs(method={"peft_type": kind, "options": TUNERS[kind]}), tmp_path / "runs")
    trained = [p for p in loop.pack.model.backbone.encoder.parameters() if p.requires_grad]
    start = tiny.pack(configs(method={"peft_type": kind, "options": TUNERS[kind]}))
    assert not torch.equal(loop.pack.optimizer.rows, start.optimizer.rows)
    assert loop.pack.method.summary(0).live == sum(p.numel() for p in trained)
    expected = predict(loop.pack, loop.pack.splits["report"])[0]
    assert np.abs(expected - predict(start, start.splits["report"])[0]).max() > 1e-3
    loop.pack.method.export(0, tmp_path / "adapter", loop.pack.model.head)
    model = PeftModel.from_pretrained(plain_model(loop.pack.runs[0]), tmp_path / "adapter").eval()
    np.testing.assert_allclose(logits_of(model, loop.pack.splits["report"]), expected, atol=2e-5)


def test_targets_and_head_of_another_architecture(tmp_path):
    method = {"peft_type": "DORA", "options": {"r": 2}, "targets": ["value_proj", "intermediate.dense"]}
    loop = tiny.train(configs("deberta-v2", method=method, head="classifier"), tmp_path / "runs")
    names = [name for name, p in loop.pack.model.named_parameters() if p.requires_grad]
    assert {name.rpartition(".lora_")[0].rpartition("layer.")[2][2:] for name in names if "lora_" in name} == {
        "attention.self." + method["targets"][0],
        "intermediate.dense",
    }
    assert [name for name in names if name.startswith("head.")] == ["head.out", "head.out_bias"]
    loop.pack.method.export(0, tmp_path / "adapter", loop.pack.model.head)
    model = PeftModel.from_pretrained(plain_model(loop.pack.runs[0]), tmp_path / "adapter").eval()
    expected = predict(loop.pack, loop.pack.splits["report"])[0]
    np.testing.assert_allclose(logits_of(model, loop.pack.splits["report"]), expected, atol=2e-5)


def test_its_lora_is_our_lora(tmp_path):
    """Two implementations from the same initial weights, dropout included, update for update."""
    dropping = {"backbone": {"dropout": None}, "trainer": {"max_steps": 10, "eval_every": 10}}
    ours = tiny.pack(tiny.runs(method={"name": "lora", "r": 2, "alpha": 6.0}, **dropping), torch.float64)
    options = {"r": 2, "lora_alpha": 6}
    theirs = tiny.pack(configs(method={"options": options}, **dropping), torch.float64)
    modules = dict(theirs.model.backbone.encoder.named_modules())
    with torch.no_grad():
        for name, layer in ours.method.layers.items():
            modules[name].lora_A["default"].weight.copy_(layer.lora_A[0])
    for built, name in ((ours, "ours"), (theirs, "theirs")):
        tiny.finish(built, tmp_path / name)
    for name, layer in ours.method.layers.items():
        assert layer.lora_B.abs().max() > 1e-3
        a, b = modules[name].lora_A["default"].weight, modules[name].lora_B["default"].weight
        torch.testing.assert_close(layer.lora_A[0], a, rtol=0, atol=1e-10)
        torch.testing.assert_close(layer.lora_B[0].T, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "plain", "dropping"),
    [
        ("LORA", {"r": 2}, {"lora_dropout": 0.3}),
        ("LOHA", {"r": 2}, {"rank_dropout": 0.5}),
        ("LOKR", {"r": 2}, {"module_dropout": 0.5}),
        ("BOFT", {"boft_block_size": 4}, {"boft_dropout": 0.5}),
        ("PVERA", {"r": 4}, {}),
    ],
)
def test_its_dropout_is_counted(kind, plain, dropping, tmp_path):
    """So that a run that was stopped drops what the whole one drops, and another probability trains otherwise.

    Some tuners draw from torch's generator, whose state is neither theirs to choose nor theirs to move.
    """
    short = {"max_steps": 8, "eval_every": 8}
    made = configs(method={"peft_type": kind, "options": plain | dropping}, trainer=short)
    before = torch.get_rng_state()
    whole = tiny.train(made, tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    tiny.stop(made, tmp_path / "parts", 5)
    again = tiny.train(made, tmp_path / "parts")
    assert again.progress[0].resumed_at == [5]
    assert torch.equal(whole.pack.optimizer.rows, again.pack.optimizer.rows)
    other = configs(method={"peft_type": kind, "options": plain}, seed=0 if dropping else 1, trainer=short)
    without = tiny.train(other, tmp_path / "without")
    assert not torch.equal(whole.pack.optimizer.rows, without.pack.optimizer.rows)


def test_the_seed_decides_its_initial_weights_and_no_global_state():
    torch.manual_seed(5)
    first = tiny.pack(configs(seed=1)).optimizer.rows.clone()
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn), "building the model used the global generator"
    assert torch.equal(tiny.pack(configs(seed=1)).optimizer.rows, first)
    assert not torch.equal(tiny.pack(configs(seed=2)).optimizer.rows, first)


def test_mean_pooling_leaves_the_head_beside_it(tmp_path):
    """The folder in plain PEFT around transformers' encoder."""
    (run,) = configs(method={"peft_type": "LORA", "options": {"r": 2}}, backbone={"pooling": "mean"})
    pack = tiny.pack([run])
    with torch.no_grad():
        for name, matrix in pack.model.backbone.encoder.named_parameters():
            if "lora_B" in name:
                matrix.normal_(std=0.2)
    pack.model.eval()
    pack.method.export(0, tmp_path / "adapter", pack.model.head)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["task_type"], settings["modules_to_save"]) == ("FEATURE_EXTRACTION", None)
    model = PeftModel.from_pretrained(plain_model(run).bert, tmp_path / "adapter").eval()
    batch = pack.splits["report"].tokens.collate(np.arange(3))
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
        logits = pack.model.head(hidden, batch["attention_mask"])
        torch.testing.assert_close(logits, pack.model(batch), atol=1e-5, rtol=0)
    head = load_file(tmp_path / "adapter" / "head.safetensors")
    for name, tensor in pack.model.head.export_state(0).items():
        torch.testing.assert_close(head[name], tensor)


def test_a_full_disk_is_one_sentence(tmp_path):
    pack = tiny.pack(configs(method={"peft_type": "LORA", "options": {"r": 2}}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(UserError, match=r"adapter: cannot be written \(.*File too large.*\); make room"):
            pack.method.export(0, tmp_path / "adapter", pack.model.head)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_one_tuner_has_one_spelling():
    def resolved(kind, **options):
        return PeftConfig("peft", peft_type=kind, options=options).resolved()

    assert resolved("dora", r=4) == resolved("LORA", use_dora=True, r=4) == resolved("DORA", r=4)
    assert resolved("lora", use_dora=False).peft_type == "LORA"
    assert resolved("oft").peft_type == "OFT"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"peft_type": "DORRA"}, r"method\.peft_type: DORRA is not in the installed PEFT; did you mean DORA\?"),
        ({"peft_type": "ADALORA"}, r"method\.peft_type: ADALORA cannot train here; choose one of .*DORA.*OFT"),
        ({"options": {"lora_alhpa": 2}}, r"lora_alhpa: no option of PEFT's LoraConfig; did you mean lora_alpha\?"),
        (
            {"options": {"target_modules": ["x"]}},
            r"options\.target_modules: decided by method\.targets, .*leave it out",
        ),
        ({"options": {"modules_to_save": ["x"]}}, r"options\.modules_to_save: decided by .*head"),
        ({"options": {"layers_to_transform": [0]}}, r"options\.layers_to_transform: decided by method\.targets"),
        ({"options": {"peft_type": "DORA"}}, r"options\.peft_type: decided by .*method\.peft_type"),
        ({"peft_type": "DORA", "options": {"use_dora": False}}, r"options\.use_dora: decided by .*method\.peft_type"),
        ({"options": {"use_qalora": True}}, r"method\.options\.use_qalora: does nothing here"),
        ({"options": {"loftq_config": {"loftq_bits": 4}}}, r"method\.options\.loftq_config: does nothing here"),
        (
            {"options": {"monteclora_config": {}}},
            r"options\.monteclora_config: draws by a state of its own, .*leave it",
        ),
        ({"peft_type": "PVERA", "options": {"generator_seed": 1}}, r"options\.generator_seed: draws by a state of its"),
        ({"options": {"r": 0}}, r"refused by PEFT .*`r` should be a positive.*; correct or leave out r$"),
        ({"peft_type": "VERA", "options": {"r": 0}}, r"refused by PEFT \(ZeroDivisionError: .*leave out r$"),
        ({"options": {"alpha_pattern": 5, "r": 2}}, r"refused by PEFT .*correct or leave out one of alpha_pattern, r$"),
        ({"options": {"init_lora_weights": "eva"}}, r"init_lora_weights: eva starts from data or chance"),
        (
            {"peft_type": "DORA", "options": {"init_lora_weights": "pissa_niter_4"}},
            r"init_lora_weights: pissa_niter_4 starts from .* such as pissa",
        ),
        ({"peft_type": "FOURIERFT", "options": {"n_frequency": 10**6}}, r"method\.options: refused by PEFT"),
        ({"targets": ["embeddings"]}, r"method\.targets: 'embeddings' matches no linear layer"),
    ],
)
def test_a_mistake_is_one_sentence(method, said):
    with pytest.raises(UserError, match=said) as refused:
        tiny.pack(configs(method=method))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_memory_that_runs_out_is_no_mistake_in_an_option(error, monkeypatch):
    def full(*_):
        raise error("CUDA out of memory")

    monkeypatch.setattr("peft.PeftModel", full)
    with pytest.raises(error):
        tiny.pack(configs())


def test_a_gradient_too_large_for_its_norm_is_a_divergence_and_no_missing_gradient(tmp_path):
    """Finite gradients of an infinite norm are clipped to zeros: the tuner has had its gradient all the same."""
    pack = tiny.pack(configs(method={"options": {"r": 2}}))
    pack.model.head.out.register_hook(lambda grad: torch.full_like(grad, 1e30))
    assert tiny.finish(pack, tmp_path).progress[0].diverged_at == 1


def test_it_is_not_packed():
    with pytest.raises(UserError, match="method=peft cannot be packed"):
        configs(seed=[0, 1])
