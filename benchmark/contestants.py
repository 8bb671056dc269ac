"""The training loops that are compared. Each trains until its gate says that it is enough.

All read the same real texts; weights are random where that changes no cost. "Our batches" are the very batches of a
solo run; the others shuffle for themselves and pad every text to the task's length, as their documentation or their
authors do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import Tensor, nn

from benchmark.cases import Case
from benchmark.measure import Gate
from sora.backbones.families import FAMILIES
from sora.backbones.tokenizer import encode, load_tokenizer
from sora.config import RunConfig
from sora.runs import estimate
from sora.runs.compose import runs_of
from sora.tasks import TaskData, load
from sora.training import memory
from sora.training.batching import batches
from sora.training.pack import EncodedSplit, build_pack

FOREVER = 1_000_000  # steps; a measurement never gets there
CLIP, DECAY, ALPHA = 0.1, 0.1, 16  # of the SoRA authors' runs, for everybody


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def runs(case: Case) -> list[RunConfig]:
    """The case as the harness would run it."""
    words = [
        *(f"method={case.method}", f"task={case.task}", f"backbone={case.backbone}", "recipe=none"),
        *(f"seed={list(range(case.replicas))}".replace(" ", ""), f"precision={case.precision}"),
        *(f"trainer.batch_size={case.batch}", f"trainer.max_steps={FOREVER}"),
        *(f"trainer.eval_every={FOREVER}", f"trainer.checkpoint_every={FOREVER}"),
    ]
    if case.method in ("lora", "sora"):
        words.append(f"method.r={case.r}")
    if case.method == "adalora":  # ranks move from the first step on
        words += ["method.warmup=0", "method.final=0"]
    if case.backbone != "minilm-l6":
        words.append("backbone.weights=random")
    if case.max_length is not None:
        words.append(f"trainer.max_length={case.max_length}")
    if case.dropout is not None:
        words.append(f"backbone.dropout={case.dropout}")
    if case.graphs:
        words.append("trainer.cuda_graphs=true")
    return runs_of(words)


def training_split(run: RunConfig) -> tuple[TaskData, EncodedSplit]:
    """The task's data and its training split in tokens of MiniLM, whose tokenizer is always there.

    For another architecture these ids are as good: a step costs the same whatever the words are.
    """
    data = load(run.task, run.protocol, run.data)
    tokenizer = load_tokenizer(runs_of(["backbone=minilm-l6", f"task={run.task.name}"])[0].backbone)
    segments = int(run.backbone.arch.get("type_vocab_size", 0)) > 1
    train = data.splits["train"]
    return data, EncodedSplit(train, encode(tokenizer, train.texts, int(run.trainer.max_length or 0), segments))


def our_batches(run: RunConfig, split: EncodedSplit) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Those of a solo run, in its order."""
    order = batches(
        split.tokens.lengths,
        run.trainer.batch_size,
        [int(run.seeds.data or 0)],
        first_step=0,
        last_step=FOREVER,
        bucketing=True,
    )
    for indices in order:
        yield split.batch(indices.reshape(-1), device())


class Silent:
    """The loop's tracker, of which only the beat of the steps is wanted."""

    def __init__(self, turn: Gate) -> None:
        self.turn = turn

    def progress(self, step: int, text: str | None = None) -> None:
        if text is None:
            self.turn.step()

    def log(self, *values: Any, **named: Any) -> None:
        """Nothing."""

    def print(self, text: str) -> None:
        """Print nothing; a warning becomes a row without a figure, because the loop went another way."""
        if text.startswith("warning"):
            raise RuntimeError(text)


def ours(case: Case, turn: Gate) -> None:
    """The harness' own loop."""
    from sora.training.loop import Loop

    packed = runs(case)
    data, train = training_split(packed[0])
    if device().type == "cuda":
        needed, room = estimate.peak_bytes(packed, estimate.facts_of(data), cpu=False), memory.capacity(device())
        if needed > room:
            raise MemoryError(f"about {estimate.gibibytes(needed)} of {estimate.gibibytes(room)}")
    pack = build_pack(packed, data, device(), encode=False)
    pack.splits = {"train": train}
    names = [str(run.seed) for run in packed]
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(pack, Silent(turn), names, [Path(folder) / name for name in names])  # type: ignore[arg-type]
        if packed[0].trainer.cuda_graphs:
            loop.use_graphs()
        loop.run()


def floor(case: Case, turn: Gate) -> None:
    """transformers' frozen encoder on our batches: forward, and backward to the output of the embeddings."""
    (run,) = runs(case)
    _, split = training_split(run)
    encoder = getattr(classifier(run), _prefix(run)).requires_grad_(False).train()
    encoder.embeddings.register_forward_hook(lambda module, given, out: out.requires_grad_())
    for batch, _ in our_batches(run, split):
        hidden = encoder(**batch).last_hidden_state
        hidden.backward(torch.ones_like(hidden))
        turn.step()


def loop(case: Case, turn: Gate) -> None:
    """peft's adapters, or all weights, in a plain loop on our batches, with torch's fused AdamW."""
    (run,) = runs(case)
    _, split = training_split(run)
    model = adapted(case, run).train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=float(run.trainer.learning_rate or 0),
        weight_decay=DECAY,
        fused=True,
    )
    for step, (batch, labels) in enumerate(our_batches(run, split)):
        model(**batch, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if case.method == "adalora":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        turn.step()


def trainer(case: Case, turn: Gate) -> None:
    """The Hugging Face Trainer as its documentation shows it: fp32, every text padded to the task's length."""
    (run,) = runs(case)
    _, split = training_split(run)
    model = adapted(case, run)

    class Beat(transformers.TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            if case.method == "adalora":
                model.base_model.update_and_allocate(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            turn.step()

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=case.batch,
            max_steps=FOREVER,
            learning_rate=float(run.trainer.learning_rate or 0),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        rows = padded(run, split)
        transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[Beat()]).train()


def authors(case: Case, turn: Gate) -> None:
    """The recipe of the SoRA authors' released code: naive layers, fp32, padding to the full length, frozen head, two
    optimisers that go through their parameters one by one in Python, the L1 term in the loss."""
    (run,) = runs(case)
    _, split = training_split(run)
    model = classifier(run, attention="eager").requires_grad_(False).to(device()).train()
    layers = []
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and ".layer." in name and name.endswith(FAMILIES[run.backbone.family].targets):
            parent, _, child = name.rpartition(".")
            layers.append(NaiveSora(module, case.r).to(device()))
            setattr(model.get_submodule(parent), child, layers[-1])
    gates = [layer.gate for layer in layers]
    matrices = [matrix for layer in layers for matrix in (layer.a, layer.b)]
    rate = float(run.trainer.learning_rate or 0)
    dense = torch.optim.AdamW(matrices, lr=rate, weight_decay=DECAY, foreach=False, fused=False)
    sparse = torch.optim.AdamW(gates, lr=rate, weight_decay=0.0, eps=1e-6, foreach=False, fused=False)
    rows = padded(run, split)
    xi, generator = float(getattr(run.method, "threshold", 0.0)), np.random.default_rng(0)
    while True:
        order = generator.permutation(len(rows))
        for start in range(0, len(order) - case.batch + 1, case.batch):
            chosen = [rows[i] for i in order[start : start + case.batch]]
            batch = {key: torch.stack([row[key] for row in chosen]).to(device()) for key in chosen[0]}
            size = sum(gate.abs().sum() for gate in gates) / sum(gate.numel() for gate in gates)
            (model(**batch).loss + 0.1 * size).backward()
            nn.utils.clip_grad_norm_([*matrices, *gates], CLIP)
            dense.step()
            sparse.step()
            with torch.no_grad():
                for gate in gates:
                    gate[gate > xi] -= xi
                    gate[gate < -xi] += xi
                    gate[gate.abs() < xi] = 0.0
            dense.zero_grad()
            sparse.zero_grad()
            turn.step()


class NaiveSora(nn.Module):
    """W x + (alpha / r) B (g * A x), written down as it reads."""

    def __init__(self, base: nn.Linear, r: int) -> None:
        super().__init__()
        self.base, self.scaling = base, ALPHA / r
        self.a = nn.Parameter(torch.empty(r, base.in_features).uniform_(-1, 1) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, r))
        self.gate = nn.Parameter(torch.randn(r))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + (x @ self.a.T * self.gate) @ self.b.T * self.scaling


def classifier(run: RunConfig, attention: str | None = None) -> Any:
    """transformers' sequence-classification model of the run's architecture, weights random: a step costs the same."""
    arch = dict(run.backbone.arch)
    kind = arch.pop("model_type", run.backbone.family)
    if run.backbone.dropout is not None:
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "classifier_dropout")
        arch |= dict.fromkeys(names, run.backbone.dropout)
    config = transformers.AutoConfig.for_model(kind, num_labels=run.task.num_outputs, **arch)
    extra = {} if attention is None else {"attn_implementation": attention}
    build = transformers.AutoModelForSequenceClassification.from_config
    return build(config, dtype=torch.float32, **extra).to(device())


def adapted(case: Case, run: RunConfig) -> Any:
    """The same with peft's adapter on the six matrices of each layer, its head training; all weights for ``full``."""
    model = classifier(run)
    if case.method == "full":
        return model
    ends, layers = FAMILIES[run.backbone.family].targets, run.backbone.arch["num_hidden_layers"]
    targets = [f"{_prefix(run)}.encoder.layer.{layer}.{end}" for layer in range(layers) for end in ends]
    whole = {"bert": ["classifier", "bert.pooler"], "roberta": ["classifier"], "deberta-v2": ["classifier", "pooler"]}
    common = {"lora_alpha": ALPHA, "target_modules": targets, "modules_to_save": whole[run.backbone.family]}
    if case.method == "adalora":
        method: Any = run.method
        config = peft.AdaLoraConfig(
            init_r=method.init_r,
            target_r=method.r,
            tinit=0,
            tfinal=0,
            deltaT=method.interval,
            total_step=FOREVER,
            **common,
        )
    else:
        config = peft.LoraConfig(r=case.r, **common)
    return peft.get_peft_model(model, config)


def padded(run: RunConfig, split: EncodedSplit) -> list[dict[str, Tensor]]:
    """Every example as tensors of the task's full length."""
    length = int(run.trainer.max_length or 0)
    rows = []
    for index, label in enumerate(split.examples.labels):
        batch = split.tokens.collate(np.array([index]))
        row = {key: nn.functional.pad(value[0], (0, length - value.shape[1])) for key, value in batch.items()}
        rows.append(row | {"labels": torch.tensor(label)})
    return rows


def _prefix(run: RunConfig) -> str:
    return FAMILIES[run.backbone.family].prefix


TRAIN: dict[str, Callable[[Case, Gate], None]] = {
    "floor": floor,
    "ours": ours,
    "loop": loop,
    "trainer": trainer,
    "authors": authors,
}
