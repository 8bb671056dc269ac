"""LoRA of a pack, also of given ranks, against PEFT's in transformers' own class: logits, gradients, ten steps."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import get_linear_schedule_with_warmup

from sora.training.batching import batches
from sora.training.pack import losses_of
from sora.training.sizes import parameter_counts
from tests import tiny
from tests.publish.test_export import plain_model

# transformers' DeBERTa rounds the scale of its scores to fp32, also in a double model
CASES = [("bert", False, 1e-10), ("roberta", False, 1e-10), ("deberta-v2", True, 1e-6)]
MASKED = [("bert", None, 1e-10), ("deberta-v2", None, 1e-6)]  # method=masked_lora: PEFT's rank_pattern
STEPS, RATE = 10, 5e-3
MARK = "modules_to_save.default."


def pair(family, rslora):
    """Our pack of one run and PEFT's model with its weights, both in float64."""
    method = {"name": "masked_lora"} if rslora is None else {"name": "lora", "rslora": rslora}
    trainer = {"max_steps": STEPS, "eval_every": STEPS}
    (run,) = tiny.runs(family, method=method | {"r": 4, "alpha": 6.0}, trainer=trainer)
    ours = tiny.pack([run], torch.float64)
    head, prefix = ours.model.head, ours.model.backbone.prefix
    ranks = {f"{prefix}.{name}": rank for name, rank in ranks_of(ours).items() if rank}
    config = LoraConfig(
        r=4, lora_alpha=6, use_rslora=bool(rslora), task_type="SEQ_CLS", modules_to_save=head.module_names(),
        target_modules=list(ranks),
        rank_pattern={name: rank for name, rank in ranks.items() if rank != 4},
        alpha_pattern={name: 6.0 / 4 * rank for name, rank in ranks.items() if rank != 4},
    )  # fmt: skip
    base = plain_model(run)
    base.load_state_dict(head.export_state(0), strict=False)
    theirs = get_peft_model(base, config).double()
    with torch.no_grad():
        for name, rank in ranks_of(ours).items():
            if rank:
                inside(theirs, ours, name).lora_A["default"].weight.copy_(ours.method.layers[name].lora_A[0, :rank])
    return ours, theirs


def ranks_of(ours):
    return ours.method.summary(0).ranks


def inside(theirs, ours, name):
    return theirs.base_model.model.get_submodule(f"{ours.model.backbone.prefix}.{name}")


def saved(theirs, name):
    """A parameter of the head: PEFT trains a copy inside the module it was asked to save."""
    model = theirs.base_model.model
    (found,) = (p for key, p in model.named_parameters() if p.requires_grad and key.replace(MARK, "") == name)
    return found


def both(ours, theirs):
    """Every trained tensor, ours and theirs, in PEFT's layout."""
    for name, rank in ranks_of(ours).items():
        if rank:
            layer, module = ours.method.layers[name], inside(theirs, ours, name)
            yield layer.lora_A, module.lora_A["default"].weight, lambda x, rank=rank: x[0, :rank]
            yield layer.lora_B, module.lora_B["default"].weight, lambda x, rank=rank: x[0, :rank].T
    head = ours.model.head
    for mine, key in ((head.dense, head.form.dense), (head.out, head.form.output)):
        yield mine, saved(theirs, f"{key}.weight"), lambda x: x[0]
    for mine, key in ((head.dense_bias, head.form.dense), (head.out_bias, head.form.output)):
        yield mine, saved(theirs, f"{key}.bias"), lambda x: x[0]


@pytest.mark.parametrize(("family", "rslora", "close"), CASES)
def test_forward_and_gradients(family, rslora, close):
    ours, theirs = pair(family, rslora)
    with torch.no_grad():
        for name, layer in ours.method.layers.items():
            nn.init.normal_(layer.lora_B, std=0.3)
            inside(theirs, ours, name).lora_B["default"].weight.copy_(layer.lora_B[0].T)
    batch, labels = ours.splits["train"].batch(torch.arange(12).numpy(), torch.device("cpu"))
    ours.model.train()
    logits = ours.model(batch)
    expected = theirs.eval()(**batch).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=close)
    assert logits.std() > 1e-3
    losses_of(logits, labels, 1).sum().backward()
    nn.functional.cross_entropy(expected, labels).backward()
    for mine, other, one in both(ours, theirs):
        torch.testing.assert_close(one(mine.grad), other.grad, rtol=0, atol=close)


@pytest.mark.parametrize(("family", "rslora", "close"), CASES + MASKED)
def test_ten_steps(family, rslora, close, tmp_path):
    ours, theirs = pair(family, rslora)
    trained = [(other, mine.ndim) for mine, other, _ in both(ours, theirs)]
    assert parameter_counts(ours, 0)["trainable"] == sum(p.numel() for p, _ in trained)
    assert {id(p) for p, _ in trained} == {id(p) for p in theirs.parameters() if p.requires_grad}
    groups = [
        {"params": [p for p, ndim in trained if ndim == 3], "weight_decay": 0.1},
        {"params": [p for p, ndim in trained if ndim == 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, 1, STEPS)  # warm-up: 0.06 of 10 steps, rounded up
    split = ours.splits["train"]
    for indices in batches(split.tokens.lengths, 4, [0], first_step=0, last_step=STEPS, bucketing=True):
        batch, labels = split.batch(indices.reshape(-1), torch.device("cpu"))
        nn.functional.cross_entropy(theirs(**batch).logits, labels).backward()
        nn.utils.clip_grad_norm_([p for p, _ in trained], 0.1)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    start = ours.optimizer.rows.clone()
    tiny.finish(ours, tmp_path)
    assert (ours.optimizer.rows - start).abs().max() > RATE
    for mine, other, one in both(ours, theirs):
        torch.testing.assert_close(one(mine.detach()), other.detach(), rtol=0, atol=10 * close)
    for name, rank in ranks_of(ours).items():
        layer = ours.method.layers[name]
        assert layer.lora_B[0, :rank].any() == (rank > 0)
        assert not layer.lora_A[0, rank:].any()
        assert not layer.lora_B[0, rank:].any()
