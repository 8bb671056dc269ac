"""SoRA outside the harness: docs/library.md's script, the optimiser against the pack's, models of any kind."""

import copy
import re
from pathlib import Path

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    WavLMConfig,
    WavLMModel,
)

from sora import schedules
from sora.errors import UserError
from sora.library import inject
from sora.methods.proximal import GateStep
from sora.optim import PackOptimizer, ParameterGroup

PAGE = Path(__file__).resolve().parents[2] / "docs" / "library.md"
CHECK = """
import torch
from peft import PeftModel

plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
loaded = PeftModel.from_pretrained(plain, "my-adapter").eval()
batch = tokenizer(list(texts), padding=True, return_tensors="pt")
with torch.no_grad():
    logits, expected = loaded(**batch).logits, model.eval()(**batch).logits
"""


def test_the_script_of_the_page_runs_as_written(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "script"}
    exec(block + CHECK, scope)
    assert (scope["logits"] - scope["expected"]).abs().max() < 1e-5
    assert (scope["logits"].argmax(1) == torch.tensor(list(scope["texts"].values()))).all()
    logged = [entry["live_ranks"] for entry in scope["trainer"].state.log_history]
    assert len(logged) == 6, "five lines while training, one at the end"
    assert logged == sorted(logged, reverse=True)
    layers = scope["sora"].live_ranks()
    ranks = sum(p.shape[0] for n, p in scope["loaded"].named_parameters() if ".lora_A." in n)
    assert logged[-1] == sum(layers.values()) == ranks < 8 * len(layers)


@pytest.mark.parametrize(
    "options",
    [
        {"fidelity": "authors"},
        {"fidelity": "paper"},
        {"fidelity": "authors", "penalty_rule": "sum", "threshold_rule": "lr_scaled"},
        {"fidelity": "paper", "prox": "authors", "gate_update": "adam"},
    ],
    ids=str,
)
def test_the_optimiser_is_the_packs(options):
    """Gates, factors and a bias over 40 steps of warm-up and decay, the gradients given."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    adapters = inject(model, ["0"], train=["1"], r=4, threshold=0.02, penalty=0.3, **options)
    layer, whole = adapters.layers["0"], model[1]
    config = adapters.config
    own = adapters.optimizer(lr=0.05, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(own, lambda step: schedules.linear_decay(step, 40, 4))

    twin = {
        "a": layer.lora_A,
        "b": layer.lora_B,
        "gate": layer.gate,
        "weight": whole.weight[None],
        "bias": whole.bias[None],
    }
    twin = {name: nn.Parameter(tensor.detach().clone()) for name, tensor in twin.items()}
    factors = {k: twin[k] for k in ("a", "b", "weight")}
    variant = {"authors": "adamw_hf", "paper": "adamw"}[options["fidelity"]]
    groups = [
        ParameterGroup("adapter", factors, lr=[0.05], weight_decay=0.1, variant=variant),
        ParameterGroup("bias", {"bias": twin["bias"]}, lr=[0.05], variant=variant),
        ParameterGroup(
            "gate",
            {"gate": twin["gate"]},
            lr=[0.05],
            eps=1e-6,
            variant="adamw_hf",
            after_adam=GateStep([config.threshold], config.threshold_rule, config.prox, config.gate_update),
        ),
    ]
    pack = PackOptimizer(groups, replicas=1, clip=0.0)
    tensors = {"a": layer.lora_A, "b": layer.lora_B, "gate": layer.gate, "weight": whole.weight, "bias": whole.bias}
    generator = torch.Generator().manual_seed(3)
    dead = set()
    for step in range(40):
        gradients = {name: torch.randn(twin[name].shape, generator=generator) for name in twin}
        for name, tensor in tensors.items():
            tensor.grad = gradients[name].reshape_as(tensor).clone()
        own.step()
        scheduler.step()
        pack.zero_grad()
        size = twin["gate"].abs()
        penalty = {"off": 0.0 * size.sum(), "mean": size.mean(), "sum": size.sum()}[config.penalty_rule]
        (sum((twin[name] * gradients[name]).sum() for name in twin) + config.penalty * penalty).backward()
        multiplier = schedules.linear_decay(step, 40, 4)
        xi = config.threshold * schedules.threshold_factor(config.threshold_rule, multiplier)
        pack.step(torch.zeros(1), multiplier, [[0.0], [0.0], [xi]])
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor.detach(), twin[name].detach().reshape_as(tensor), rtol=1e-5, atol=1e-6)
        dead |= set((layer.gate == 0).nonzero()[:, 1].tolist())
    assert dead, "no gate was ever zero, so the proximal map was not put to the test"


def bert():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return BertForSequenceClassification(BertConfig(vocab_size=60, max_position_embeddings=32, **sizes))


def llama():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return LlamaForCausalLM(LlamaConfig(vocab_size=60, max_position_embeddings=32, **sizes))


def t5():
    """It asks ``wo`` for the type of its weight before it calls it, in encoder and decoder."""
    sizes = {"d_model": 32, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=60, decoder_start_token_id=0, **sizes))


MODELS = {
    "bert": (bert, ["query", "output.dense"], ["classifier"]),
    "llama": (llama, ["q_proj", "model.layers.*.mlp.*_proj"], []),
    "t5": (t5, ["wo"], []),
}


@pytest.mark.parametrize("kind", MODELS)
def test_any_model_trains_prunes_and_reloads(kind, tmp_path):
    torch.manual_seed(0)
    build, targets, whole = MODELS[kind]
    model = build().eval()
    plain = copy.deepcopy(model)
    tokens = torch.randint(0, 60, (4, 9))
    labels = torch.tensor([0, 1, 1, 0]) if kind == "bert" else tokens
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if kind == "t5" else {})
    adapters = inject(model, targets, train=whole, r=4, threshold=0.05)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits, msg="B = 0 changes nothing")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(re.search(r"lora_[AB]$|\.gate$|^classifier\.", name) for name in trained)
    assert len(trained) == 3 * len(adapters.layers) + 2 * len(whole)
    optimizer = adapters.optimizer(lr=1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    assert 0 < sum(adapters.live_ranks().values()) < 4 * len(adapters.layers)
    with torch.no_grad():
        next(iter(adapters.layers.values())).gate.zero_()
    adapters.save(tmp_path, base="somewhere")
    loaded = PeftModel.from_pretrained(plain, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5)
    kept = {n.removeprefix("base_model.model.").partition(".lora_A")[0] for n, _ in loaded.named_parameters()}
    alive = {name for name, rank in adapters.live_ranks().items() if rank}
    assert kept & set(adapters.layers) == alive < set(adapters.layers)


def wavlm():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    convolutions = {"conv_dim": (8,), "conv_kernel": (4,), "conv_stride": (4,), "num_conv_pos_embedding_groups": 2}
    return WavLMModel(WavLMConfig(num_feat_extract_layers=1, num_conv_pos_embeddings=4, **sizes, **convolutions))


BYPASSING = {
    "wavlm": (wavlm, (1, 400), ["q_proj", "k_proj", "v_proj", "out_proj"], "WavLMAttention"),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16), (3, 1, 8), ["out_proj"], "MultiheadAttention"),
    "fast": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (1, 3, 8),
        ["linear1", "linear2"],
        "TransformerEncoderLayer",
    ),
}


@pytest.mark.parametrize("kind", BYPASSING)
def test_layers_that_their_parent_does_not_call_are_refused(kind):
    """Which those are, the model itself tells: it runs although they cannot be called."""
    build, shape, names, parent = BYPASSING[kind]
    model = build().eval()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    refused = [name for name in linear if name.endswith(tuple(names))]
    assert len(refused) == len(names)
    for name in refused:  # not by a hook: torch has no fast path where one is
        linear[name].forward = None
    with torch.no_grad():
        model(torch.randn(shape))
    for full in refused:
        with pytest.raises(UserError, match=rf"inject\.targets: {parent} takes the weight of {full} without calling"):
            inject(model, full)
    assert all(p.requires_grad for p in model.parameters())


def test_a_target_inside_a_module_that_trains_whole_gets_no_adapter(tmp_path):
    """RoBERTa's head has a layer called dense, as its encoder has, and the pattern also matches what is in the head."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=50, max_position_embeddings=34, **sizes)
    model = RobertaForSequenceClassification(config)
    plain = copy.deepcopy(model)
    adapters = inject(model, ["query", "dense"], r=2, train="*classifier*")
    assert not any("classifier" in name for name in adapters.layers)
    assert adapters.trained == ["classifier"]
    adapters.optimizer(lr=1e-3)
    adapters.save(tmp_path / "adapter")
    batch = {"input_ids": torch.arange(2, 12).view(1, -1)}
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    assert torch.allclose(loaded(**batch).logits, model.eval()(**batch).logits, atol=1e-6)


def masked_lm():
    """Its decoder's weight is the word embeddings'."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(vocab_size=50, max_position_embeddings=34, **sizes)).eval()


def test_tied_modules_that_both_train_are_one_parameter_and_reload(tmp_path):
    model = masked_lm()
    adapters = inject(model, "query", r=2, train=["cls", "word_embeddings"])
    parameters = [p for group in adapters.optimizer(lr=1e-3).param_groups for p in group["params"]]
    assert len(parameters) == len(set(parameters))
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.add_(torch.randn(50, 16))
    adapters.save(tmp_path / "adapter")
    batch = {"input_ids": torch.arange(2, 12).view(1, -1)}
    loaded = PeftModel.from_pretrained(masked_lm(), str(tmp_path / "adapter")).eval()
    assert torch.allclose(loaded(**batch).logits, model(**batch).logits, atol=1e-6)


class Tripled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


def changed(name, change, *arguments):
    model = bert()
    getattr(model.get_submodule(name) if name else model, change)(*arguments)
    return model


def injected():
    model = bert()
    inject(model, "value")
    return model


QUERY = "bert.encoder.layer.1.attention.self.query"
REFUSED = {
    "fp16": (lambda: bert().half(), r"train: classifier\.weight is torch\.float16; load the model with dtype=torch"),
    "bf16": (lambda: changed("classifier", "bfloat16"), r"train: classifier\.weight is torch\.bfloat16; load"),
    "forward": (lambda: changed("", "set_submodule", QUERY, Tripled(32, 32)), f"{QUERY} has a forward of its own"),
    "patched": (lambda: changed(QUERY, "__setattr__", "forward", print), f"{QUERY} has a forward of its own"),
    "hook": (lambda: changed(QUERY, "register_forward_pre_hook", print), f"{QUERY} has hooks, which an adapter there"),
    "twice": (injected, r"model: \S+value is a sora\S+\.LowRankLinear; inject into the plain model first"),
    "peft": (lambda: get_peft_model(bert(), LoraConfig(target_modules=["value"])), r"it is a peft\S+\.PeftModel;"),
    "parallel": (lambda: nn.DataParallel(bert()), r"model: it is a torch\S+\.DataParallel;"),
    "compiled": (lambda: torch.compile(bert(), backend="eager"), r"model: it is a torch\S+\.OptimizedModule;"),
    "name": (lambda: "bert-base-uncased", r"inject\.model: got 'bert-base-uncased', must be a model"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_would_train_or_load_otherwise_is_refused(kind):
    build, sentence = REFUSED[kind]
    with pytest.raises(UserError, match=sentence):
        inject(build(), "query", train="classifier")


@pytest.mark.parametrize("train", ["cls", "word_embeddings"])
def test_a_tied_weight_of_which_one_place_trains_is_refused(train):
    with pytest.raises(UserError, match=r"train: \S+ is also \S+, where plain peft would not load it; name both"):
        inject(masked_lm(), "query", train=train)


def test_what_only_looks_like_another_forward_is_adapted_as_before():
    """A parametrised weight, accelerate's moves between devices, a frozen weight in bf16."""
    model = bert().eval()
    tokens = torch.randint(0, 60, (4, 9))
    nn.utils.parametrizations.weight_norm(model.get_submodule(QUERY))
    add_hook_to_module(model.get_submodule(QUERY.replace("query", "value")), AlignDevicesHook("cpu"))
    with torch.no_grad():
        expected = model(tokens).logits
    inject(model, ["query", "value"], train="classifier")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected)
    model = bert().bfloat16()
    model.classifier.float()
    assert inject(model, "query", train="classifier").trained == ["classifier"]


@pytest.mark.parametrize("scheduler", [False, True], ids=["by hand", "OneCycleLR"])
def test_the_threshold_is_scaled_by_the_peak_however_the_rate_is_set(scheduler):
    adapters = inject(nn.Sequential(nn.Linear(6, 5)), "0", r=4, threshold=0.02, fidelity="paper")
    gate = adapters.layers["0"].gate
    optimizer = adapters.optimizer(lr=0.1)
    if scheduler:  # it starts at 1/25 of its peak, which it notes as initial_lr
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    for group in optimizer.param_groups:
        group["lr"] = 0.004
    gate.grad = torch.zeros_like(gate)
    before = gate.detach().abs()
    optimizer.step()
    torch.testing.assert_close(gate.detach().abs(), (before - 0.02 * 0.04).clamp(min=0), rtol=0, atol=1e-7)


@pytest.mark.parametrize("lr", [None, "1e-3", 0.0, -1.0, float("nan")])
def test_the_rate_must_be_a_number_above_zero(lr):
    with pytest.raises(UserError, match=r"optimizer\.lr: got .*, must be a number > 0"):
        inject(nn.Sequential(nn.Linear(6, 5)), "0", rho=0.1).optimizer(lr=lr)


def test_the_step_survives_autocast_and_a_single_example():
    torch.manual_seed(0)
    model = bert().eval()
    adapters = inject(model, ["query"], r=4)
    with torch.no_grad():
        for layer in adapters.layers.values():
            layer.lora_B.normal_()
    for tokens in (torch.randint(0, 60, (4, 9)), torch.randint(0, 60, (1, 9))):
        grads = []
        for enabled in (False, True):
            model.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                model(tokens, labels=torch.zeros(len(tokens), dtype=torch.long)).loss.backward()
            grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert torch.linalg.vector_norm(grads[1] - grads[0]) < 0.05 * torch.linalg.vector_norm(grads[0])


def test_a_resumed_optimiser_goes_on_as_it_would_have():
    def gates(interrupted):
        model = nn.Sequential(nn.Linear(6, 5))
        adapters = inject(model, ["0"], r=4, threshold=0.02)
        optimizer = adapters.optimizer(lr=0.05)
        generator = torch.Generator().manual_seed(3)
        for step in range(8):
            if interrupted and step == 4:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = adapters.optimizer(lr=0.05)
                optimizer.load_state_dict(state)
            for tensor in model.parameters():
                if tensor.requires_grad:
                    tensor.grad = torch.randn(tensor.shape, generator=generator)
            optimizer.step()
        return adapters.layers["0"].gate.detach()

    assert torch.equal(gates(True), gates(False))


def test_rho_sets_the_threshold_by_the_rate():
    groups = inject(bert(), ["query"], rho=0.15).optimizer(lr=2e-3).param_groups
    assert [group["threshold"] for group in groups if "threshold" in group] == [3e-4]


@pytest.mark.parametrize(
    ("targets", "options", "expected"),
    [
        (["querry"], {}, "targets: 'querry' matches no module of the model; did you mean query"),
        (["LayerNorm"], {}, "LayerNorm is a LayerNorm, not a linear layer"),
        (["query"], {"train": ["score"]}, "train: 'score' matches no module"),
        (["query"], {"threshold": -1.0}, r"inject\.threshold"),
        (["query"], {"rank": 8}, "rank"),
        (["query"], {"learning_rate": 5.0}, r"inject\.learning_rate: decides nothing here"),
        (["classifier"], {"train": ["classifier"]}, "nothing but modules of train"),
        ([], {}, r"inject\.targets: empty"),
        (None, {}, r"inject\.targets: got null, must be names of modules"),
        (["query"], {"train": [1]}, r"inject\.train: got \[1\], must be names of modules"),
        (["query"], {"train": ["dropout"]}, "train: 'dropout' matches no module of the model with weights"),
        (["query"], {"rho": 0.1, "threshold": 1e-3}, r"inject\.threshold: has no effect, given inject\.rho=0\.1,"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_the_model(targets, options, expected):
    model = bert()
    with pytest.raises(UserError, match=expected):
        inject(model, targets, **options)
    assert all(p.requires_grad for p in model.parameters())
