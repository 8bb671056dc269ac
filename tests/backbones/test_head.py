"""The stacked head against transformers' sequence-classification classes with the same weights."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sora.backbones import DropoutKey, Head, load_backbone
from sora.backbones.families import FAMILIES
from sora.backbones.head import pooled as pool
from tests import tiny
from tests.backbones.test_encoders import batch, config


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


LISTED = [family for family in tiny.EVERY if family in FAMILIES]


MEAN = {"classifier_pooling": "mean", "norm_bias": True, "classifier_bias": True}  # as ModernBERT's class can be


@pytest.mark.parametrize(
    ("family", "pooling", "arch"), [*((family, "cls", {}) for family in LISTED), ("modernbert", "mean", MEAN)]
)
def test_logits_equal_transformers(family, pooling, arch):
    cfg = config(family, pooling=pooling)
    cfg.arch |= arch
    backbone = load_backbone(cfg)
    head = Head(backbone, outputs=3, policy="classifier+pooler", generators=generators(1, 2))
    assert head.fits_class
    with torch.no_grad():
        for tensor in (head.dense_bias if head.form.bias else None, head.norm, head.norm_bias, head.out_bias):
            if tensor is not None:
                tensor.normal_()
    inputs = {name: tensor.repeat(2, 1) for name, tensor in batch(family).items()}
    got = head(backbone(inputs), inputs["attention_mask"]).view(2, 4, 3)
    hf = type(backbone.hf_config).from_dict(backbone.hf_config.to_dict())
    hf.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(hf, attn_implementation="eager").eval()
    assert type(model).__name__ == head.form.cls
    for replica in (0, 1):
        state = {f"{backbone.prefix}.{key}": value for key, value in backbone.encoder.state_dict().items()}
        model.load_state_dict(state | head.export_state(replica))
        expected = model(**batch(family)).logits
        torch.testing.assert_close(got[replica], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "trains"),
    [
        ("classifier+pooler", {"dense", "dense_bias", "out", "out_bias"}),
        ("classifier", {"out", "out_bias"}),
        ("frozen", set()),
    ],
)
def test_policies(policy, trains):
    head = Head(load_backbone(config("bert")), outputs=2, policy=policy, generators=generators(0))
    assert {name for name, parameter in head.named_parameters() if parameter.requires_grad} == trains


def test_a_replica_draws_what_it_draws_alone():
    backbone = load_backbone(config("roberta"))
    both = Head(backbone, outputs=2, policy="classifier", generators=generators(4, 5))
    alone = Head(load_backbone(config("roberta")), outputs=2, policy="classifier", generators=generators(5))
    assert torch.equal(both.out[1], alone.out[0])
    assert torch.equal(both.dense[1], alone.dense[0])
    assert both.out.std().item() == pytest.approx(0.2, rel=0.3)  # the tiny architecture's initializer_range


def test_a_pretrained_pooler_is_kept_and_moves_no_other_draw():
    backbone = load_backbone(config("bert"))
    fresh = Head(backbone, outputs=2, policy="classifier", generators=generators(4))
    pooled = load_backbone(config("bert"))
    pooled.pooler = {"weight": torch.eye(tiny.HIDDEN), "bias": torch.ones(tiny.HIDDEN)}
    kept = Head(pooled, outputs=2, policy="classifier", generators=generators(4))
    assert torch.equal(kept.dense[0], torch.eye(tiny.HIDDEN))
    assert torch.equal(kept.dense_bias[0], torch.ones(tiny.HIDDEN))
    assert torch.equal(kept.out, fresh.out)


def test_mean_pooling_leaves_padding_out():
    backbone = load_backbone(config("bert", pooling="mean"))
    head = Head(backbone, outputs=2, policy="classifier", generators=generators(0))
    hidden = torch.randn(2, 6, tiny.HIDDEN)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    changed = hidden.clone()
    changed[0, 3:] = 99.0
    assert torch.equal(head(hidden, mask), head(changed, mask))
    pooled = torch.stack([hidden[0, :3].mean(0), hidden[1].mean(0)])
    torch.testing.assert_close(pool(hidden, mask, "mean"), pooled)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_dropout_only_in_a_training_step(family):
    backbone = load_backbone(config(family, dropout=0.3))
    head = Head(backbone, outputs=2, policy="classifier", generators=generators(0))
    hidden, mask = torch.randn(4, 6, tiny.HIDDEN), torch.ones(4, 6)
    quiet = head(hidden, mask)
    backbone.dropout.begin(DropoutKey((1,), 0))
    assert not torch.allclose(head(hidden, mask), quiet)
    backbone.dropout.end()
    assert torch.equal(head(hidden, mask), quiet)


def test_debertas_own_dropout_before_the_classifier():
    """AdaLoRA's recipes set ``cls_dropout``; ``backbone.dropout`` rules over it too."""

    def sites(**changes):
        cfg = config("deberta-v2", **changes)
        cfg.arch |= {"cls_dropout": 0.25}
        head = Head(load_backbone(cfg), outputs=2, policy="classifier", generators=generators(0))
        return head.before.p, head.after.p

    assert sites(dropout=None) == (0.0, 0.25)
    assert sites(dropout=0.0) == (0.0, 0.0)


def test_both_dropouts_of_a_head_are_those_of_transformers():
    """RoBERTa drops before and after its dense layer, BERT after it alone, DeBERTa before by its pooler's own."""
    found = {}
    for family in LISTED:
        cfg = config(family, dropout=None)
        cfg.arch |= {"hidden_dropout_prob": 0.2, "pooler_dropout": 0.3}
        head = Head(load_backbone(cfg), outputs=2, policy="classifier", generators=generators(0))
        found[family] = (head.before.p, head.after.p)
    both = dict.fromkeys(("roberta", "xlm-roberta", "electra", "mpnet"), (0.2, 0.2))
    own = {"distilbert": (0.0, 0.2), "albert": (0.0, 0.1), "modernbert": (0.0, 0.1)}  # probabilities of their own
    assert found == {"bert": (0.0, 0.2), "deberta-v2": (0.3, 0.2)} | both | own


def test_a_family_without_a_head_of_its_own_gets_ours():
    backbone = load_backbone(config("rembert"))
    head = Head(backbone, outputs=2, policy="classifier+pooler", generators=generators(0))
    assert not head.fits_class
    assert set(head.export_state(0)) == {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}
