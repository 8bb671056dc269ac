"""The README.md of what a run leaves: a model card in the hub's format, from its record and the files beside it.

A pure function of the two: no time, path or host but what the record holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from sora.backbones.head import form_of
from sora.backbones.source import base_name
from sora.config import RunConfig
from sora.files import write_text
from sora.method_config import PeftConfig
from sora.publish.export import HEAD_WEIGHTS, OWN_WEIGHTS, PEFT_CONFIG

TITLES = {
    "sora": "SoRA",
    "lora": "LoRA",
    "masked_lora": "LoRA of given ranks",
    "adalora": "AdaLoRA",
    "bitfit": "BitFit",
    "adapter": "Adapter",
    "full": "Full fine-tuning",
    "probe": "Linear probe",
    "zero_shot": "Zero-shot cosine",
    "svd_cut": "LoRA cut by SVD",
    "peft": "PEFT",
}
BENCHMARKS = {"glue": "GLUE", "superglue": "SuperGLUE", "synthetic": "a generated task", "own": "own data"}
IN_LAYER = re.compile(r"(?:.*\.)?layers?\.(\d+)\.(.+)")


def write(folder: Path, run: RunConfig, record: Mapping[str, Any]) -> None:
    """Write ``folder/README.md`` beside the weights that lie there. Raises UserError where it cannot be written."""
    write_text(folder / "README.md", render(folder, run, record))


def render(folder: Path, run: RunConfig, record: Mapping[str, Any]) -> str:
    """The card: front matter, scores, how to load it, what it is made of, how it was trained."""
    sections = [_scores(run, record), _warnings(run, record), _use(folder, run), _ranks(record), _training(record)]
    front = yaml.safe_dump(front_matter(folder, run, record), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{front}---\n\n# {title(run)}\n\n" + "\n\n".join(text for text in sections if text) + "\n"


def title(run: RunConfig) -> str:
    """``SoRA on rte (GLUE), seed 0``."""
    method = TITLES.get(run.method.name, run.method.name)
    if isinstance(run.method, PeftConfig):
        method = f"{method} ({run.method.peft_type})"
    return f"{method} on {run.task.name} ({BENCHMARKS.get(run.task.benchmark, run.task.benchmark)}), seed {run.seed}"


def front_matter(folder: Path, run: RunConfig, record: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that the hub reads, the score as a ``model-index`` among it."""
    adapter = (folder / PEFT_CONFIG).is_file()
    classifies = not (folder / HEAD_WEIGHTS).is_file()
    kind = "text-classification" if classifies else "feature-extraction"
    known = {"base_model": run.backbone.hub} if _is_hub(run) else {}
    dataset = {
        "type": run.task.benchmark,
        "name": f"{run.task.name}, report split of protocol {run.protocol.name}",
        "config": run.task.name,
        "split": f"{record['data']['sources'].get('report', '')} ({record['data']['sizes']['report']} examples)",
    }
    metrics = [
        {"type": name, "value": value, "name": name}
        for name, value in record["metrics"]["selected"]["report"].items()
        if value is not None
    ]
    return {
        **known,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": kind,
        "tags": ["sora-bench", run.method.name, run.task.benchmark],
        "model-index": [
            {
                "name": f"{run.method.name}-{run.task.name}-s{run.seed}-{record['run_id']}",
                "results": [
                    {
                        "task": {"type": "text-classification", "name": run.task.name},
                        "dataset": dataset,
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }


def _is_hub(run: RunConfig) -> bool:
    return bool(run.backbone.hub) and run.backbone.weights == "pretrained"


# -- sections --------------------------------------------------------------------------------------------------


def _scores(run: RunConfig, record: Mapping[str, Any]) -> str:
    """The selected weights' metrics on the splits, 0 to 1."""
    selected = record["metrics"]["selected"]
    splits = [name for name in ("select", "report", "report_mm") if name in selected]
    lines = [f"| metric | {' | '.join(splits)} |", f"|---|{'---|' * len(splits)}"]
    for name in selected["report"]:
        values = [selected[split].get(name) for split in splits]
        shown = ["not finite" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    sizes = ", ".join(f"{split} {record['data']['sizes'][split]}" for split in splits)
    about = (
        f"Weights of step {selected['step']}, selected by {run.task.select_metric} on the select split; "
        f"examples: {sizes}; protocol `{run.protocol.name}`."
    )
    return "\n".join([*lines, "", about])


def _warnings(run: RunConfig, record: Mapping[str, Any]) -> str:
    """What must be known before the numbers are used."""
    flags, lines = record["flags"], []
    if record["status"] == "diverged":
        lines.append(f"The run diverged at step {flags['diverged_at']}; these are the best weights before that.")
    if flags["random_weights"]:
        lines.append(
            f"The backbone has random weights (init_seed {run.backbone.init_seed}), not those of its name: "
            "the adapter is of use with them only."
        )
    if flags["synthetic"]:
        lines.append("The task is generated: the scores say nothing about language.")
    if flags["partial"]:
        lines.append("The data were not complete: the scores are not those of the official splits.")
    if flags["one_class"]:
        lines.append("The model predicts one class for every reported example.")
    if run.protocol.name == "dev":
        lines.append("Selected and reported on the same examples: the score is optimistic.")
    if run.precision == "bf16":
        lines.append("It was trained beside frozen weights in bf16; in fp32 the logits differ in the third digit.")
    if run.backbone.note:
        lines.append(f"About the backbone. {run.backbone.note}")
    return "\n".join(f"- {line}" for line in lines)


def _use(folder: Path, run: RunConfig) -> str:
    """How to load it: a block that runs as it is where ``folder`` is a folder of the current one."""
    here = folder.name
    if (folder / OWN_WEIGHTS).is_file():
        with safe_open(folder / OWN_WEIGHTS, "np") as file:
            equation = file.metadata()["equation"]
        return (
            f"## Use\n\nBase: {base_name(run.backbone)}. Neither PEFT nor transformers has a class for it. {equation}"
        )
    adapter, own_head = (folder / PEFT_CONFIG).is_file(), (folder / HEAD_WEIGHTS).is_file()
    loader = "AutoModel" if own_head else "AutoModelForSequenceClassification"
    spans = run.task.span_vectors
    own_tokenizer = (folder / "tokenizer_config.json").is_file()
    lines = ["import torch"]
    if adapter:
        lines.append("from peft import PeftModel")
    if own_head:
        lines.append("from safetensors.torch import load_file")
    lines += [f"from transformers import {loader}, AutoTokenizer", ""]
    if adapter:
        classes = "" if own_head else f", num_labels={run.task.head_outputs}"
        if classes:  # the base's own classifier may be one of other labels
            classes += ", ignore_mismatched_sizes=True"
        lines.append(f'base = "{base_name(run.backbone)}"')
        lines.append(f"model = {loader}.from_pretrained(base{classes}, dtype=torch.float32)")
        lines.append(f'model = PeftModel.from_pretrained(model, "{here}").eval()  # "{here}": this folder')
    else:
        lines.append(f'model = {loader}.from_pretrained("{here}", dtype=torch.float32).eval()  # "{here}": this folder')
    tokenizer = f'"{here}"' if own_tokenizer or not adapter else "base"
    lines.append(f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})")
    if own_head:
        lines += _own_head(here, run)
    pair = len(run.task.text_columns) != 1
    texts = '["A cat sleeps."], ["An animal rests."]' if pair else '["A cat sleeps."]'
    length = run.trainer.max_length or run.task.max_length
    call = "model(**batch).logits"
    if own_head:
        call = "logits(batch, torch.tensor([[[1, 3]%s]]))" % (", [4, 5]" * (spans - 1)) if spans else "logits(batch)"
    lines += [
        "",
        f'batch = tokenizer({texts}, truncation=True, max_length={length}, padding=True, return_tensors="pt")',
        "with torch.no_grad():",
        f"    print({call})  # {_columns(run)}",
    ]
    note = ""
    if run.backbone.family == "deberta-v2" and run.backbone.tokenizer == "spm" and not own_tokenizer:
        note = (
            "\n\nTrained with the normaliser of the tokenizer's sentencepiece model, which transformers 5 leaves out: "
            "texts with ligatures, fractions or ellipses are read otherwise by the tokenizer above."
        )
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```" + note


def _own_head(here: str, run: RunConfig) -> list[str]:
    """Code of ``logits``: the head that no class of transformers has, as backbones/head.py computes it."""
    from transformers import AutoConfig

    arch = dict(run.backbone.arch)
    form = form_of(run.backbone.family, AutoConfig.for_model(arch.pop("model_type", run.backbone.family), **arch))
    plain = {"tanh": "torch.tanh", "relu": "torch.relu", "gelu": "torch.nn.functional.gelu"}
    activation = plain.get(form.activation, f"ACT2FN[{form.activation!r}]")
    dense_bias = f' + head["{form.dense}.bias"]' if form.bias else ""
    mean, spans = run.backbone.pooling == "mean", bool(run.task.span_vectors)
    lines = [f'head = load_file("{here}/{HEAD_WEIGHTS}")', "", ""]
    if form.activation not in plain:
        lines.insert(0, "from transformers.activations import ACT2FN")
    lines.append(f"def logits(batch{', spans' if spans else ''}):")
    if spans:
        lines.append('    """``spans`` [n, S, 2]: first token and end of each marked word, special tokens counted."""')
    lines.append("    hidden = model(**batch).last_hidden_state")
    if mean:
        lines.append('    mask = batch["attention_mask"].unsqueeze(-1)')
    lines += [
        f"    x = {'(hidden * mask).sum(1) / mask.sum(1)' if mean else 'hidden[:, 0]'}",
        f'    x = {activation}(x @ head["{form.dense}.weight"].T{dense_bias})',
    ]
    if form.norm:
        shift = f', head["{form.norm}.bias"]' if form.norm_bias else ""
        norm = f'head["{form.norm}.weight"]{shift}, eps={form.norm_eps!r}'
        lines.append(f"    x = torch.nn.functional.layer_norm(x, x.shape[-1:], {norm})")
    if spans:
        lines += [
            "    words = [torch.cat([h[a:b].mean(0) for a, b in pair]) for h, pair in zip(hidden, spans.tolist())]",
            "    x = torch.cat([x, torch.stack(words)], dim=1)",
        ]
    return [*lines, f'    return x @ head["{form.output}.weight"].T + head["{form.output}.bias"]', ""]


def _columns(run: RunConfig) -> str:
    if run.task.choices > 1:
        return "the score of one choice; the choice with the highest is the answer"
    return ", ".join(run.task.labels) if run.task.labels else "the predicted score"


def _ranks(record: Mapping[str, Any]) -> str:
    """The live rank of every adapted matrix, layers as rows where names have layers."""
    ranks: dict[str, int] = record["ranks"]
    if not ranks:
        return ""
    params = record["params"]
    alive = sum(rank > 0 for rank in ranks.values())
    head = (
        f"## Ranks\n\n{alive} of {len(ranks)} matrices keep {sum(ranks.values())} ranks, {params['live']:,} weights; "
        f"the head trains {params['head']:,} more."
    )
    cells = {name: found.groups() for name in ranks if (found := IN_LAYER.fullmatch(name))}
    if len(cells) < len(ranks):
        rows = [f"| {name} | {rank} |" for name, rank in ranks.items()]
        return "\n".join([head, "", "| matrix | rank |", "|---|---|", *rows])
    kinds = list(dict.fromkeys(kind for _, kind in cells.values()))
    layers = sorted({int(layer) for layer, _ in cells.values()})
    grid = {(int(layer), kind): ranks[name] for name, (layer, kind) in cells.items()}
    rows = [f"| {layer} | {' | '.join(str(grid.get((layer, kind), '')) for kind in kinds)} |" for layer in layers]
    return "\n".join([head, "", f"| layer | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}", *rows])


def _training(record: Mapping[str, Any]) -> str:
    """The command, the recipe, the resolved configuration and the circumstances."""
    provenance, config = record["provenance"], record["config"]
    named = _origin(provenance["recipe"]) if "recipe" in provenance else []
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    shown = {key: config[key] for key in ("method", "trainer", "schedule") if key in config}
    shown |= {key: value for key, value in config.items() if not isinstance(value, dict | list)}
    lines = [
        "## Training",
        "",
        f"Run `{record['run_id']}`{''.join(f'; {each}' for each in named)}.",
        "",
        f"    {provenance['command']}",
        "",
        "```yaml",
        yaml.safe_dump(json.loads(json.dumps(shown)), sort_keys=False).rstrip(),
        "```",
        "",
        f"Commit {provenance['git'] or 'unknown'}; {provenance['device']}, {provenance['threads']} threads; "
        f"{versions}. Finished {provenance['finished']}. Data: sha256 `{record['data']['sha256']}`.",
    ]
    return "\n".join(lines)


def _origin(origin: Mapping[str, Any]) -> list[str]:
    """Which files the values are from, what nobody published, what was set otherwise (``recipes.origin``)."""
    files = [f"{what} `{origin[key]}`" for what, key in (("recipe", "name"), ("budget", "budget")) if origin[key]]
    if not files:
        files = ["no recipe, no budget"]
    elif not origin["name"]:
        files.append("no recipe")
    if origin["unpublished"] == ["*"]:
        files.append("none of the values published")
    elif origin["unpublished"]:
        files.append(f"not published: {', '.join(origin['unpublished'])}")
    if origin.get("tuned"):
        files.append(f"chosen by trials: {origin['tuned']}")
    if origin["changed"]:
        files.append(f"set otherwise: {', '.join(origin['changed'])}")
    return files
