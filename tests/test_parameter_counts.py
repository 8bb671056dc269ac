"""Parameter counts on the architecture of DeBERTaV3-base against the published ones, digit for digit.

``pytest -s tests/test_parameter_counts.py`` shows the table. No weight is needed, so none is initialised.
"""

from pathlib import Path

import pytest
import torch
from transformers.initialization import no_init_weights

from experiments import published
from sora.backbones import load_backbone
from sora.methods import Plan, build
from sora.schedules import Timeline
from tests.composing import runs

KINDS = {  # of results/published/ranks.csv -> name of the module in its layer
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
    "attention.output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}
FIGURE_3 = {  # ranks, parameters, the same by the formula of the authors' code: counted from the printed digits by hand
    "qqp": (548, 1_277_184, 1_284_096),
    "mnli": (480, 1_126_656, 1_179_648),
    "mrpc": (237, 566_784, 806_400),
    "qnli": (77, 180_480, 560_640),
}


@pytest.fixture
def attached(tmp_path: Path):
    """``attached("method=lora", ...)``: that method on the architecture, none of whose weights is initialised."""

    def attach(*overrides: str):
        (run,) = runs(tmp_path, "task=rte", "recipe=none", *overrides, backbone="deberta-v3-base")
        run.backbone.weights = "random"
        with no_init_weights():
            backbone = load_backbone(run.backbone)
        method = build(run.method)
        method.attach(backbone, Plan([run], Timeline(1000, 0.06)), [torch.Generator()])
        return method

    return attach


def keep(method, ranks: dict[str, int]) -> None:
    """Leave that many non-zero gates in each layer's matrices; every gate of the method must be there."""
    assert set(ranks) == set(method.layers)
    for name, layer in method.layers.items():
        with torch.no_grad():
            layer.gate.copy_((torch.arange(layer.r) < ranks[name]).float())
        if hasattr(layer, "sensitivity_gate"):
            layer.sensitivity_gate.fill_(1.0)  # as after training


def millions(count: int, digits: int = 2) -> str:
    return f"{count / 1e6:.{digits}f}M"


def test_the_table_of_parameter_counts(attached):
    rows = []
    printed = {1: "0.17M", 2: "0.33M", 4: "0.66M", 8: "1.33M", 16: "2.65M"}  # Tables 1 and 2
    for r, expected in printed.items():
        rows.append((f"LoRA r={r}", expected, attached("method=lora", f"method.r={r}").summary(0).live, 2))
    rows.append(("SoRA r=8, nothing dead", "1.33M", attached("method=sora").summary(0).live, 2))
    rows.append(("BitFit", "0.1M", attached("method=bitfit").summary(0).live, 1))
    rows.append(("Adapter", "1.41M", attached("method=adapter").summary(0).live, 2))
    rows.append(("Fine-Tune", "184M", attached("method=full").summary(0).live, 0))
    adalora = attached("method=adalora")
    names = {kind: [name for name in adalora.layers if (".attention." in name) == (kind == "attention")] for kind in
             ("attention", "feed-forward")}  # fmt: skip
    rows.append(("AdaLoRA at the start, 12 a matrix", "", adalora.summary(0).live, 2))
    # The count after allocation depends on where 576 ranks went: one of a feed-forward matrix is 2.5 times as large.
    keep(adalora, dict.fromkeys(adalora.layers, 8))
    rows.append(("AdaLoRA, 8 everywhere", "", adalora.summary(0).live, 2))
    shares = {name: 9 if index < 25 else 8 for index, name in enumerate(names["attention"])}
    shares |= {name: 7 if index < 23 else 6 for index, name in enumerate(names["feed-forward"])}
    assert sum(shares.values()) == 576 == adalora.end
    keep(adalora, shares)
    rows.append(("AdaLoRA, 409 of 576 ranks in attention", "1.27M", adalora.summary(0).live, 2))
    print()
    for name, expected, count, _ in rows:
        print(f"{name:40} {expected:>6}  {count:>11,}")
    for name, expected, count, digits in rows:
        assert not expected or millions(count, digits) == expected, name
    counts = {name: count for name, _, count, _ in rows}
    assert counts["LoRA r=8"] == 1_327_104  # as measured on the authors' own injection
    assert counts["BitFit"] == 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 768  # linear layers and LayerNorms, embeddings'
    assert counts["Adapter"] == 12 * (5 * (2 * 8 * 768 + 8 + 768) + (2 * 8 * 3072 + 8 + 3072))
    assert counts["AdaLoRA, 8 everywhere"] == counts["LoRA r=8"] != counts["AdaLoRA, 409 of 576 ranks in attention"]
    assert counts["AdaLoRA at the start, 12 a matrix"] == 1.5 * counts["LoRA r=8"]


def test_the_encoder_has_its_published_size(attached):
    method = attached("method=lora")
    frozen = sum(p.numel() for name, p in method.backbone.encoder.named_parameters() if "lora_" not in name)
    assert frozen == 183_831_552
    assert len(method.layers) == 72


def test_the_two_counts_of_figure_3(attached):
    method = attached("method=sora")
    print()
    for task, expected in FIGURE_3.items():
        rows = published.ranks().set_index("task").loc[task].set_index("module")
        grid = {str(kind): row.tolist() for kind, row in rows.filter(like="layer_").iterrows()}
        assert set(grid) == set(KINDS)
        keep(
            method,
            {f"encoder.layer.{i}.{end}": rank for kind, end in KINDS.items() for i, rank in enumerate(grid[kind])},
        )
        summary = method.summary(0)
        print(f"Figure 3, {task:5} {sum(summary.ranks.values()):>4} ranks  {summary.live:>10,} exact  "
              f"{summary.authors_formula:>10,} by the authors' formula")  # fmt: skip
        assert (sum(summary.ranks.values()), summary.live, summary.authors_formula) == expected
    for gate in (layer.gate for layer in method.layers.values()):
        gate.data.zero_()
    assert method.summary(0).live == 0
    assert method.summary(0).authors_formula == 442_368  # the formula's floor: it never deducts a whole wide matrix
