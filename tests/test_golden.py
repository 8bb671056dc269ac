"""The numbers themselves, against the file that ``tests/write_golden.py`` wrote: see there.

A failure says that runs of an unchanged name now give other numbers. Nothing is to be written again before that is
understood.
"""

import json

import numpy as np
import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from sora.backbones.deberta import bucket_rows
from sora.backbones.dropout import CounterDropout, DropoutContext, DropoutKey
from tests import write_golden as golden


@pytest.fixture(scope="module")
def known():
    return json.loads(golden.FILE.read_text(encoding="utf-8"))


# -- dropout -----------------------------------------------------------------------------------------------------


def test_dropout_keys(known):
    assert golden.dropout_keys() == known["dropout_keys"]


def test_counters(known):
    assert golden.counters() == known["counters"]


def test_masks(known):
    """Hidden states, features, attention probabilities in both orders, and rows that all examples share."""
    found = golden.masks()
    assert {name: mask["rows"] for name, mask in found.items()} == {
        name: mask["rows"] for name, mask in known["masks"].items()
    }
    for name, mask in found.items():
        assert mask["kept"] == pytest.approx(known["masks"][name]["kept"], rel=0, abs=1e-9), name


@pytest.mark.parametrize("head_major", [False, True])
def test_no_two_rows_share_a_counter(head_major):
    """Slots, heads and positions, up to those of the largest encoders; and a row has one counter in any batch."""
    context, device = DropoutContext(), torch.device("cpu")
    offsets = context.counters(32, 24, 1024, device, head_major)
    assert offsets.unique().numel() == offsets.numel() == 32 * 24 * 1024
    few = context.counters(3, 4, 5, device, head_major)
    if head_major:
        assert torch.equal(few.view(4, 3, 5), offsets.view(24, 32, 1024)[:4, :3, :5])
    else:
        assert torch.equal(few.view(3, 4, 5), offsets.view(32, 24, 1024)[:3, :4, :5])


def test_no_two_rows_of_attention_are_dropped_alike():
    """Of every replica, slot, head and query: 256 keys each, which chance alone would not repeat."""
    context = DropoutContext()
    site = CounterDropout(0.5, context, "attention")
    context.begin(DropoutKey((3, 4), 0))
    dropped = site.probabilities(torch.ones(2 * 2 * 3, 256, 256), 3) == 0
    assert dropped.view(-1, 256).unique(dim=0).shape[0] == 2 * 2 * 3 * 256


# -- the order of the examples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bucketing", "plain"])
def test_order_of_two_epochs(known, kind):
    assert golden.order(kind == "bucketing") == known["order"][kind]


# -- relative positions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", golden.TABLES)
def test_relative_rows(known, buckets):
    """As they were, and as transformers looks them up; the length reaches the last row at either end."""
    assert golden.relative_rows(buckets) == known["relative_rows"][str(buckets)]
    farthest, length = golden.TABLES[buckets]
    text = torch.empty(1, length, 1)
    square = build_relative_position(text, text, buckets, farthest)[0]
    theirs = torch.clamp(square + buckets, 0, 2 * buckets - 1)
    ours = bucket_rows(length, buckets, farthest)
    place = torch.arange(length)
    assert torch.equal(ours[place[:, None] - place[None, :] + length - 1], theirs)
    assert (ours[0].item(), ours[-1].item()) == (0, 2 * buckets - 1)


# -- ten steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "method"), golden.CASES, ids=["-".join(case) for case in golden.CASES])
def test_ten_steps_with_dropout(known, family, method, tmp_path):
    found, expected = golden.ten_steps(family, method, tmp_path), known["ten_steps"][f"{family}/{method}"]
    assert found.keys() == expected.keys()
    assert found["live_ranks"] == expected["live_ranks"]
    for name in ("initial", "final"):
        assert found[name].keys() == expected[name].keys()
    for tensor, values in expected["initial"].items():  # drawn in float32, its last bits by the processor
        np.testing.assert_allclose(found["initial"][tensor], values, rtol=0, atol=1e-4, err_msg=tensor)
    for name in ("loss", "penalty", "grad_norm", "logits"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-9, err_msg=name)
    for tensor, values in expected["final"].items():
        np.testing.assert_allclose(found["final"][tensor], values, rtol=0, atol=1e-9, err_msg=tensor)


# -- run ids of SuperGLUE ----------------------------------------------------------------------------------------


def test_run_ids(known, tmp_path):
    """Every task, and every change of what is cut or marked, has a name of its own, and keeps it."""
    found = golden.run_ids(tmp_path)
    assert found == known["run_ids"]
    assert len(set(found.values())) == len(found)


def test_hashes_of_examples(known, tmp_path):
    assert golden.data_hashes(tmp_path) == known["data_hashes"]
