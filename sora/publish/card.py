"""The README.md of what a run leaves: a model card in the hub's format, from its record and the files next to it.

A pure function of the two: no time, path or host but what the record holds. Its text is card.md.jinja.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from sora.backbones.head import form_of
from sora.backbones.source import base_name
from sora.config import RunConfig
from sora.files import write_text
from sora.method_config import PeftConfig
from sora.publish.export import HEAD_WEIGHTS, OWN_WEIGHTS, PEFT_CONFIG

TEMPLATE = Path(__file__).with_name("card.md.jinja")
IN_LAYER = re.compile(r"(?:.*\.)?layers?\.(\d+)\.(.+)")
FUNCTIONS = {"tanh": "torch.tanh", "relu": "torch.relu", "gelu": "torch.nn.functional.gelu"}  # else transformers' own


def write(folder: Path, run: RunConfig, record: Mapping[str, Any]) -> None:
    """Write ``folder/README.md`` next to the weights that lie there. Raises UserError where it cannot be written."""
    write_text(folder / "README.md", render(folder, run, record))


def render(folder: Path, run: RunConfig, record: Mapping[str, Any]) -> str:
    """The card: front matter, scores, how to load it, what it is made of, how it was trained.

    Its code runs as it is where ``folder`` is a folder of the current one.
    """
    adapter, own_head = (folder / PEFT_CONFIG).is_file(), (folder / HEAD_WEIGHTS).is_file()
    selected, ranks = record["metrics"]["selected"], record["ranks"]
    card = ModelCard.from_template(
        _front_matter(run, record, "peft" if adapter else "transformers", classifies=not own_head),
        template_path=str(TEMPLATE),
        title=_title(run),
        run=run,
        record=record,
        flags=record["flags"],
        selected=selected,
        splits=[name for name in ("select", "report", "report_mm") if name in selected],
        base=base_name(run.backbone),
        here=folder.resolve().name,
        adapter=adapter,
        head=_own_head(run) if own_head else None,
        loader="AutoModel" if own_head else "AutoModelForSequenceClassification",
        equation=_equation(folder),
        own_tokenizer=(folder / "tokenizer_config.json").is_file(),
        spans=run.task.span_vectors if own_head else 0,
        pair=run.task.is_pair,
        truncation='"only_first"' if run.task.truncate == "text_a" else "True",
        columns=_columns(run),
        ranks=_rank_table(ranks),
        alive=sum(rank > 0 for rank in ranks.values()),
        config=_config(record["config"]),
        origin=_origin(record["provenance"]["recipe"]) if "recipe" in record["provenance"] else [],
    )
    return f"{card}\n"


def _title(run: RunConfig) -> str:
    """``sora on rte (glue), seed 0``."""
    kind = f" ({run.method.peft_type})" if isinstance(run.method, PeftConfig) else ""
    return f"{run.method.name}{kind} on {run.task.name} ({run.task.benchmark}), seed {run.seed}"


def _front_matter(run: RunConfig, record: Mapping[str, Any], library: str, classifies: bool) -> ModelCardData:
    """The metadata that the hub reads, the score as a ``model-index`` among it."""
    data = record["data"]
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=run.task.name,
            dataset_type=run.task.benchmark,
            dataset_name=f"{run.task.name}, report split of protocol {run.protocol.name}",
            dataset_config=run.task.name,
            dataset_split=f"{data['sources'].get('report', '')} ({data['sizes']['report']} examples)",
            metric_type=name,
            metric_name=name,
            metric_value=value,
        )
        for name, value in record["metrics"]["selected"]["report"].items()
        if value is not None
    ]
    return ModelCardData(
        base_model=run.backbone.hub or None if run.backbone.weights == "pretrained" else None,
        library_name=library,
        pipeline_tag="text-classification" if classifies else "feature-extraction",
        tags=["sora-bench", run.method.name, run.task.benchmark],
        model_name=f"{run.method.name}-{run.task.name}-s{run.seed}-{record['run_id']}",
        eval_results=results or None,
    )


def _equation(folder: Path) -> str | None:
    """What weights that neither PEFT nor transformers has a class for say of themselves."""
    if not (folder / OWN_WEIGHTS).is_file():
        return None
    with safe_open(folder / OWN_WEIGHTS, "np") as file:
        return str(file.metadata()["equation"])


def _own_head(run: RunConfig) -> dict[str, Any]:
    """The head that no class of transformers has, as backbones/head.py computes it."""
    from transformers import AutoConfig

    arch = dict(run.backbone.arch)
    form = form_of(run.backbone.family, AutoConfig.for_model(arch.pop("model_type", run.backbone.family), **arch))
    return {
        "file": HEAD_WEIGHTS,
        "form": form,
        "activation": FUNCTIONS.get(form.activation, f"ACT2FN[{form.activation!r}]"),
    }


def _columns(run: RunConfig) -> str:
    if run.task.choices > 1:
        return "the score of one choice; the choice with the highest is the answer"
    return ", ".join(run.task.labels) if run.task.labels else "the predicted score"


def _rank_table(ranks: dict[str, int]) -> list[list[Any]]:
    """Header and rows: the live rank of every adapted matrix, layers as rows where all names have layers."""
    cells = {name: (int(found[1]), found[2]) for name in ranks if (found := IN_LAYER.fullmatch(name))}
    if len(cells) < len(ranks):
        return [["matrix", "rank"], *map(list, ranks.items())]
    kinds = list(dict.fromkeys(kind for _, kind in cells.values()))
    grid = {cells[name]: rank for name, rank in ranks.items()}
    layers = sorted({layer for layer, _ in cells.values()})
    return [["layer", *kinds], *([layer, *(grid.get((layer, kind), "") for kind in kinds)] for layer in layers)]


def _config(config: Mapping[str, Any]) -> str:
    """What was set of method, trainer and schedule, and what stands outside the groups, as YAML."""
    shown = {key: config[key] for key in ("method", "trainer", "schedule") if key in config}
    shown |= {key: value for key, value in config.items() if not isinstance(value, dict | list)}
    return yaml.safe_dump(json.loads(json.dumps(shown)), sort_keys=False).rstrip()


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
