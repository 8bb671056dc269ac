"""The encoders against transformers' own eager models: outputs and gradients, with padding, in float64."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from sora.backbones import DropoutKey, load_backbone
from sora.backbones.dropout import CounterDropout
from sora.config import BackboneConfig
from sora.errors import UserError
from tests import tiny

# in float32 whatever the type: the square root of DeBERTa's scale, the rotation and the softmax of ModernBERT
EXACT = dict.fromkeys(tiny.EVERY, 1e-11) | {"deberta-v2": 1e-6, "modernbert": 1e-5}


def config(family, **changes):
    values = {
        "name": "tiny",
        "family": family,
        "weights": "random",
        "arch": tiny.SHARED | tiny.ARCHITECTURES[family],
        "dropout": 0.0,
    }
    return BackboneConfig(**(values | changes))


def reference(cfg, dtype):
    """transformers' eager model with the same weights."""
    arch = dict(cfg.arch)
    hf = AutoConfig.for_model(arch.pop("model_type"), **arch)
    pooled = cfg.family not in ("deberta-v2", "distilbert", "electra", "modernbert")
    extra = {"add_pooling_layer": False} if pooled else {}
    model = AutoModel.from_config(hf, attn_implementation="eager", dtype=torch.float32, **extra)
    model.load_state_dict(load_backbone(cfg).encoder.state_dict())
    return model.to(dtype).eval()


def batch(family, lengths=(9, 4, 7, 12)):
    pad = tiny.ARCHITECTURES[family].get("pad_token_id", 0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((len(lengths), max(lengths)), pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, tiny.VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
    found = {"input_ids": ids, "attention_mask": mask}
    if tiny.ARCHITECTURES[family].get("type_vocab_size", 0) > 1:
        found["token_type_ids"] = (torch.arange(max(lengths)) > 3).long().expand_as(ids) * mask
    return found


@pytest.mark.parametrize("family", tiny.EVERY)
def test_outputs_and_gradients(family):
    dtype = torch.float64
    ours = load_backbone(config(family)).to(dtype)
    theirs = reference(config(family), dtype)
    ours.unfreeze()
    ours.to(dtype)
    inputs = batch(family)
    mask = inputs["attention_mask"].unsqueeze(-1)
    tolerance = EXACT[family]
    got, expected = ours(inputs), theirs(**inputs).last_hidden_state
    # rows of padding differ by design and nothing reads them
    torch.testing.assert_close(got * mask, expected * mask, rtol=0, atol=tolerance)
    weight = torch.randn(expected.shape, dtype=dtype, generator=torch.Generator().manual_seed(1)) * mask
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    reached = 0
    for (name, mine), other in zip(ours.encoder.named_parameters(), theirs.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=20 * tolerance, msg=name)
            reached += 1
    assert reached >= 20


@pytest.mark.parametrize(
    "changes",
    [{"share_att_key": False}, {"pos_att_type": ["c2p"]}, {"pos_att_type": ["p2c"]}, {"position_buckets": -1}],
    ids=str,
)
def test_other_disentangled_attentions(changes):
    """DeBERTa-v2's variants: separate position projections, one term alone, no buckets."""
    cfg = config("deberta-v2")
    cfg.arch |= changes | ({"max_relative_positions": 16} if "position_buckets" in changes else {})
    inputs = batch("deberta-v2")
    mask = inputs["attention_mask"].unsqueeze(-1)
    got = load_backbone(cfg).double()(inputs)
    expected = reference(cfg, torch.float64)(**inputs).last_hidden_state
    torch.testing.assert_close(got * mask, expected * mask, rtol=0, atol=EXACT["deberta-v2"])


@pytest.mark.parametrize("family", tiny.EVERY)
def test_padding_changes_nothing(family):
    backbone = load_backbone(config(family)).double()
    short, long = batch(family, (6,)), batch(family, (6, 20))
    torch.testing.assert_close(backbone(short)[0], backbone(long)[0, :6], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", tiny.EVERY)
def test_padding_changes_no_mask(family):
    """With dropout in the encoder and on the adapters' input, which in a DeBERTa is the table of distances too."""
    method = {"name": "lora", "dropout": 0.3}
    model = tiny.pack(tiny.runs(family, method=method, backbone={"dropout": 0.1}), torch.float64).model.train()
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    found = []
    for lengths in ((6,), (6, 20)):
        model.backbone.dropout.begin(DropoutKey((3,), 5))
        found.append(model.backbone(batch(family, lengths))[0, :6])
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", tiny.EVERY)
def test_bf16_stays_near_fp32_and_finite(family):
    full, half = load_backbone(config(family)), load_backbone(config(family), precision="bf16")
    inputs = batch(family)
    mask = inputs["attention_mask"].unsqueeze(-1)
    got = half(inputs)
    assert got.dtype == torch.float32
    assert torch.isfinite(got).all()
    error = ((got - full(inputs)) * mask).abs().max()
    assert 0 < error < 0.15, "bf16 has 8 bits: neither equal nor far off"
    for module in half.encoder.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.weight.dtype == torch.float32
        if isinstance(module, nn.Linear):
            assert module.weight.dtype == torch.bfloat16
    for name, buffer in full.encoder.named_buffers():  # in bf16 the angles of rotary positions would be off by 1 in 256
        assert torch.equal(half.encoder.get_buffer(name), buffer)


def test_random_weights_come_from_init_seed_and_leave_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = load_backbone(config("bert")), load_backbone(config("bert"))
    other = load_backbone(config("bert", init_seed=1))
    assert torch.equal(before, torch.get_rng_state())
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first.encoder.get_parameter(name), again.encoder.get_parameter(name))
    assert not torch.equal(first.encoder.get_parameter(name), other.encoder.get_parameter(name))


def test_everything_is_frozen_and_no_gradient_goes_below_the_first_adapter():
    backbone = load_backbone(config("bert"))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(batch("bert")).requires_grad


@pytest.mark.parametrize("family", tiny.EVERY)
def test_dropout_is_the_architectures_unless_given(family):
    cfg = config(family, dropout=None)
    backbone = load_backbone(cfg)
    quiet = backbone(batch(family))
    backbone.dropout.begin(DropoutKey((1,), 0))
    assert not torch.allclose(backbone(batch(family)), quiet)
    backbone.dropout.end()
    assert torch.equal(backbone(batch(family)), quiet)
    given = load_backbone(config(family, dropout=0.3))
    assert {site.p for site in given.modules() if isinstance(site, CounterDropout)} == {0.3}
    none = load_backbone(config(family, dropout=0.0))
    none.dropout.begin(DropoutKey((1,), 0))
    assert torch.equal(none(batch(family)), quiet)


def test_a_convolution_is_refused():
    cfg = config("deberta-v2")
    cfg.arch |= {"conv_kernel_size": 3, "conv_act": "gelu"}
    with pytest.raises(UserError, match="convolution layer"):
        load_backbone(cfg)


@pytest.mark.parametrize("family", tiny.EVERY)
def test_a_pack_equals_merged_models_of_transformers(family):
    """Three replicas in one pass against three eager models with the weights W + s B (g * A) put in.

    Gradients by the chain rule from the merged weight's: dA = s (B g)^T dW, dB = s dW A^T g, dg = s diag(B^T dW A^T).
    DeBERTa's position vectors pass through the adapted query and key, so they are checked with them.
    """
    configs = tiny.runs(family, [0, 1, 2], method={"name": "sora", "r": 2})
    pack = tiny.pack(configs, torch.float64)
    for replica, layer in enumerate(pack.method.layers.values()):
        torch.nn.init.normal_(layer.lora_B, std=0.3, generator=torch.Generator().manual_seed(replica))
    lengths = (9, 4, 7, 12, 5, 11)
    inputs = batch(family, lengths)
    got = pack.model.backbone(inputs)
    weight = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    weight = weight * inputs["attention_mask"].unsqueeze(-1)
    (got * weight).sum().backward()
    for replica in range(3):
        theirs = reference(configs[0].backbone, torch.float64)
        for name, layer in pack.method.layers.items():
            a, b, g = layer.lora_A[replica], layer.lora_B[replica].T, layer.gate[replica]
            theirs.get_parameter(f"{name}.weight").data += layer.scaling * (b * g) @ a
        part = slice(2 * replica, 2 * replica + 2)
        rows = {key: value[part] for key, value in inputs.items()}
        mask = rows["attention_mask"].unsqueeze(-1)
        expected = theirs(**rows).last_hidden_state
        torch.testing.assert_close(got[part] * mask, expected * mask, rtol=0, atol=EXACT[family])
        (expected * weight[part]).sum().backward()
        for name, layer in pack.method.layers.items():
            a, b, g = layer.lora_A[replica], layer.lora_B[replica].T, layer.gate[replica]
            merged = layer.scaling * theirs.get_parameter(f"{name}.weight").grad
            for mine, wanted in (
                (layer.lora_A, (b * g).T @ merged),
                (layer.lora_B, (merged @ a.T * g).T),
                (layer.gate, (b * (merged @ a.T)).sum(0)),
            ):
                close = {"rtol": 10 * EXACT[family], "atol": 100 * EXACT[family]}
                torch.testing.assert_close(mine.grad[replica], wanted, **close, msg=name)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("hidden_act", "foo", "KeyError"), ("num_attention_heads", 7, "not a multiple"), ("hidden_size", "x", "int")],
)
def test_an_architecture_that_transformers_refuses_is_a_sentence(key, value, said):
    made = config("bert", arch=tiny.SHARED | tiny.ARCHITECTURES["bert"] | {key: value})
    with pytest.raises(UserError, match=rf"backbone\.arch: transformers cannot build this bert \(.*{said}"):
        load_backbone(made)
