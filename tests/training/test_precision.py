"""precision=fp32|tf32|bf16: how far each may be from fp32, what stays fp32, and no NaN where fp16 would have them.

Tolerances. TF32 rounds the inputs of products to 10 bits and bf16 to 7, so a product is off by up to 2^-11 and 2^-8 of
its size; a few layers add up, and TOLERANCE allows eight of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sora.backbones import build
from sora.backbones.load import Fp32LayerNorm
from sora.methods.bitfit import StackedBias
from sora.training.pack import Pack, check_trainable, losses_of
from tests import tiny

TOLERANCE = {"tf32": 8 * 2.0**-11, "bf16": 8 * 2.0**-8}  # relative to the largest logit, and to the gradient's norm
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
GPU = partial(pytest.param, marks=pytest.mark.gpu)


@pytest.fixture(autouse=True)
def _precision_as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def gentle(family: str, precision: str, **groups: Any) -> list[Any]:
    """Runs whose weights have their usual size: a larger one would make layers amplify the rounding."""
    arch = tiny.SHARED | tiny.ARCHITECTURES[family] | {"initializer_range": 0.05}
    return tiny.runs(family, precision=precision, backbone={"arch": arch, **groups.pop("backbone", {})}, **groups)


def first_step(pack: Pack) -> tuple[Tensor, Tensor]:
    """Logits and the gradient of everything that trains, on sixteen examples, on the CPU."""
    batch, labels = pack.splits["train"].batch(np.arange(16), pack.device)
    logits = pack.model(batch)
    losses_of(logits, labels, pack.replicas).sum().backward()
    pack.optimizer.show_gradients()
    gradients = [p.grad.flatten() for p in pack.model.parameters() if p.requires_grad and p.grad is not None]
    return logits.detach().cpu(), torch.cat(gradients).cpu()


@pytest.mark.parametrize(("precision", "device"), [("bf16", "cpu"), GPU("bf16", "cuda"), GPU("tf32", "cuda")])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_and_gradients_stay_near_fp32(family: str, precision: str, device: str) -> None:
    exact_logits, exact = first_step(tiny.pack(gentle(family, "fp32"), device=device))
    logits, gradient = first_step(tiny.pack(gentle(family, precision), device=device))
    limit = TOLERANCE[precision]
    assert (logits - exact_logits).abs().max() <= limit * exact_logits.abs().max()
    assert torch.linalg.vector_norm(gradient - exact) <= limit * torch.linalg.vector_norm(exact)
    assert not torch.equal(logits, exact_logits), f"nothing was rounded: {precision} was not in use"


def test_tf32_is_fp32_on_a_processor() -> None:
    """Which has no such products: the setting is harmless there, and the records of both are equal."""
    found, asked = {}, {}
    for precision in ("fp32", "tf32"):
        found[precision] = first_step(tiny.pack(gentle("bert", precision)))
        asked[precision] = torch.get_float32_matmul_precision()
    assert asked == {"fp32": "highest", "tf32": "high"}, "what a GPU would be told"
    fp32, tf32 = found.values()
    assert all(torch.equal(one, other) for one, other in zip(fp32, tf32, strict=True))


def test_everything_that_trains_is_fp32() -> None:
    for method in ("sora", "lora", "adalora", "adapter", "bitfit", "full"):
        pack = tiny.pack(tiny.runs("deberta-v2", precision="bf16", method={"name": method}))
        trains = {name: p for name, p in pack.model.named_parameters() if p.requires_grad}
        assert trains
        assert {p.dtype for p in trains.values()} == {torch.float32}
        state = pack.optimizer.state(0)
        assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
        frozen = {p.dtype for name, p in pack.model.backbone.named_parameters() if not p.requires_grad and p.ndim == 2}
        if method in ("sora", "lora"):
            assert frozen == {torch.bfloat16}


def test_a_trainable_tensor_in_half_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pooler of a half-precision checkpoint becomes the head's dense layer."""
    pack = tiny.pack(tiny.runs("bert"))
    pack.model.head.out.data = pack.model.head.out.data.half()
    with pytest.raises(AssertionError, match=r"1 trainable tensors are not torch.float32: head.out is torch.float16"):
        check_trainable(pack.model)
    pooler = {"weight": torch.eye(tiny.HIDDEN).half(), "bias": torch.zeros(tiny.HIDDEN).half()}
    monkeypatch.setattr(build, "pretrained", lambda config, hf_config: (build.random(config, hf_config), pooler))
    monkeypatch.setattr("sora.backbones.source.backbone_identity", lambda *_: {})
    with pytest.raises(AssertionError, match=r"trainable tensors are not torch.float32: head.dense is torch.float16"):
        tiny.pack(tiny.runs("bert", backbone={"weights": "/", "arch": tiny.SHARED | tiny.ARCHITECTURES["bert"]}))


@pytest.mark.parametrize(("family", "method"), [("deberta-v2", "sora"), ("deberta-v2", "full")])
def test_a_training_in_bf16_ends_near_that_in_fp32(family: str, method: str, tmp_path: Any) -> None:
    """The mean loss of the last five of ten steps is within a tenth of fp32's, for each replica of a pack."""
    ends = {}
    for name in ("fp32", "bf16"):
        short = {"max_steps": 10, "eval_every": 5}
        seeds = [0] if method == "full" else [0, 1]
        loop = tiny.train(gentle(family, name, seeds=seeds, method={"name": method}, trainer=short), tmp_path / name)
        ends[name] = [progress.history[-1]["loss"] for progress in loop.progress]
        assert all(progress.diverged_at is None for progress in loop.progress)
    np.testing.assert_allclose(ends["bf16"], ends["fp32"], rtol=0.1)


@pytest.mark.parametrize("device", DEVICES)
def test_deberta_has_no_nan_in_bf16_where_fp16_overflows(device: str) -> None:
    """Attention scores beyond fp16's largest number, examples of one token beside long ones: all stays finite."""
    (run,) = gentle("deberta-v2", "bf16", trainer={"max_length": 64})
    pack = tiny.pack([run], device=device)
    encoder: Any = pack.model.backbone.encoder
    seen: list[Tensor] = []
    for layer in encoder.encoder.layer:
        for projection in (layer.attention.self.query_proj, layer.attention.self.key_proj):
            projection.base.weight.mul_(4000)
            projection.register_forward_hook(lambda module, inputs, out: seen.append(out.detach().float()))
    long = torch.arange(5, 53).repeat(3, 1)
    mask = torch.ones_like(long)
    mask[1, 1:] = 0
    mask[2, 20:] = 0
    batch = {"input_ids": (long * mask).to(pack.device), "attention_mask": mask.to(pack.device)}
    logits = pack.model(batch)
    losses_of(logits, torch.tensor([0, 1, 1], device=pack.device), 1).sum().backward()
    pack.optimizer.show_gradients()
    of_tokens = [out for out in seen if out.shape[0] == 3]  # the others are of the relative positions
    query, key = (out.view(3, -1, 4, tiny.HIDDEN // 4).transpose(1, 2) for out in of_tokens[:2])
    largest = (query @ key.mT).abs().max()
    assert not torch.isfinite(largest.half()), "too small to overflow in fp16"
    assert torch.isfinite(logits).all()
    gradients = [p.grad for p in pack.model.parameters() if p.requires_grad and p.grad is not None]
    assert len(gradients) > 10
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


class OnGpu(Tensor):
    """A tensor of the CPU that says it is a GPU's."""

    is_cuda = True  # type: ignore[assignment]


@pytest.mark.parametrize("kind", ["norm", "without bias", "bitfit"])
def test_a_norm_on_a_gpu_computes_what_it_does_on_a_processor(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a bias, as ModernBERT's are; and its kernel refuses weights of another type than the input's."""
    plain = F.layer_norm

    def kernel(input: Tensor, shape: Any, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        assert not input.is_cuda or input.dtype == weight.dtype, "expected scalar type BFloat16 but found Float"
        return plain(input.as_subclass(Tensor), shape, weight, bias, eps)

    monkeypatch.setattr(F, "layer_norm", kernel)
    norm: Any = Fp32LayerNorm(8, 1e-5, bias=kind != "without bias").requires_grad_(False)
    layer = StackedBias(norm, 1) if kind == "bitfit" else norm
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(layer(x.as_subclass(OnGpu)).as_subclass(Tensor), layer(x))


@pytest.mark.gpu
def test_deterministic_repeats_a_training_to_the_bit(tmp_path: Any) -> None:
    from sora.training.device import choose_device

    device = str(choose_device(deterministic=True))
    try:
        rows = []
        for attempt in ("first", "second"):
            loop = tiny.finish(tiny.pack(tiny.runs("deberta-v2"), device=device), tmp_path / attempt)
            rows.append(loop.pack.optimizer.rows.cpu().clone())
        assert torch.equal(*rows)
    finally:
        torch.use_deterministic_algorithms(False)
