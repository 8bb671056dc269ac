"""The record of a run as one schema: checks records, describes them (docs/record.md), gives an example of each key.

Further keys are welcome everywhere, so that a later version can add some without a new schema number. A key with a
default may be absent. Torch-free.

    python -m sora.runs.schema        # writes the tables of docs/record.md anew
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sora.coercion import show
from sora.errors import UserError
from sora.files import NAME

SCHEMA_VERSION = 1
STATUSES = ("ok", "diverged")
Measured = float | None  # None: was not finite
Scores = dict[str, Measured]
Ranks = dict[str, int]
RUN_ID = "^[0-9a-f]{12}$"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "record.md"


class Part(BaseModel):
    """An object of a record: JSON types as they are, nothing converted, unknown keys kept."""

    model_config = ConfigDict(strict=True, extra="allow")


def key(meaning: str, example: Any = None, **options: Any) -> Any:
    """Declare a key: what it means, and an example of its value (None: that of its parts)."""
    return Field(description=meaning, examples=None if example is None else [example], **options)


def optional(meaning: str) -> Any:
    """Declare a key that may be absent; where it is given, it cannot be null."""
    return Field(default=None, description=meaning)


class Named(Part):
    name: str = key("its name, a part of paths", "rte", pattern=f"^{NAME}$")


class Flags(Part):
    one_class: bool = key("the selected weights predict one class for every reported example", False)
    partial: bool = key("a split has another number of examples than the official one, or `data.limit` cut it", False)
    synthetic: bool = key("the task is generated", False)
    random_weights: bool = key("the backbone was not pretrained", False)
    members_changed: bool = key("continued in another pack than it was saved in: equal, but not to the bit", False)
    device_changed: bool = optional("continued on another device than it was saved on: equal, but not to the bit")
    fallbacks: list[str] = optional(
        "what the GPU could not do as it was meant, and why: dropout in one launch, `trainer.cuda_graphs`"
    )
    diverged_at: int | None = key("optimiser step of the divergence")


class Config(Part):
    backbone: Named = key("its `name` and how it was loaded", {"name": "tiny"})
    method: Named = key("its `name` and hyper-parameters, no switch left open", {"name": "sora"})
    task: Named = key(
        "its `name`, `version`, labels, metrics, and how its texts are put together; the hash of "
        "the examples is in `data`"
    )
    protocol: Named = key("its `name`: which examples are trained on, selected on, reported on", {"name": "paper"})
    trainer: dict[str, Any] = key("the loop's settings")
    schedule: dict[str, Any] = key("the sparsity levels")
    seed: int = key("the run's seed", 0)
    weights: dict[str, Any] = key(
        "identity of the backbone's weights: `sha256` of their file, or `random`, the initial "
        "seed (the architecture is in `config.backbone`)",
        {"kind": "random"},
    )


class Evaluated(Part):
    step: int = key("optimiser steps made so far", 20)
    select: Scores = key("metrics of the select split", {"accuracy": 0.75})
    report: Scores = key("metrics of the report split", {"accuracy": 0.5})
    report_mm: Scores = optional("MNLI: metrics of the mismatched genres")
    train_subset: Scores = optional(
        "metrics of up to 1,000 training examples, the same for every seed: of every level of a schedule, else where "
        "`config.trainer.train_subset` asks for them"
    )


class Level(Evaluated):
    level: int = key("0 is the dense model", 0)
    threshold: Measured = key(
        "`sparsify`: ξ of the level at the peak learning rate. `one_shot`: the largest magnitude "
        "that was zeroed. Level 0: `method.threshold`",
        1e-4,
    )
    sparsity: float = optional(
        "`one_shot`, from level 1: the share of all gates that was asked for; dead gates count among the zeroed ones"
    )
    live: int = key("as in `params`", 6)
    authors_formula: int = key("as in `params`", 8)
    ranks: Ranks = key("live rank of each adapted matrix", {"layer.0.query": 7})


class Entry(Part):
    step: int = key("optimiser steps", 20)
    epoch: float = key("passes over the training examples", 1.0)
    lr: Measured = key("learning rate at that step", 0.0)
    threshold: Measured = key("ξ at that step; null where the method has none", 1e-4)
    loss: Measured = key(
        "mean training loss since the last entry, penalty not included; with "
        "`config.task.standardize` in squares of the targets' SD",
        0.7,
    )
    select: Scores = key("metrics of the select split", {"accuracy": 0.75})
    live_ranks: int | None = key("sum over the matrices", 7)
    gate_histogram: list[int] = optional(
        "SoRA: gates by magnitude, all matrices together, in 13 bins: exactly 0; below 1/256;"
        " ten that double their bounds, from [1/256, 1/128) to [2, 4); 4 and more"
    )


class Pack(Part):
    size: int = key("how many", 1)
    members: list[str] = key("their run ids, this one among them", ["0123456789ab"])


class Metrics(Part):
    selected: Evaluated = key(
        "of the weights with the best select metric; of equals, the earliest. With a schedule: of"
        " those before its levels"
    )
    last: Evaluated = key(
        "of the last weights; with a schedule, those of its last level; of a run that diverged, those from before it "
        "did"
    )


class Params(Part):
    trainable: int = key("all that are trained, with head and gates; `svd_cut`: what its source had trained", 10)
    live: int = key(
        "LoRA, AdaLoRA, SoRA: sum of r (in + out) over the matrices, r the live rank; no head, no"
        " gates. `full`, `bitfit`, `adapter`, `peft`: all that is trained of the encoder, or "
        "added to it; no head",
        6,
    )
    authors_formula: int = key(
        "as the authors' released code counts: every matrix as if it were square; without ranks as `live`", 8
    )
    head: int = key("the trained part of the head", 4)


class NoDataRanks(Part):
    selected: Ranks = key("at the step of the selected weights: what `ranks` is compared with")
    same_total: Ranks = optional(
        "of the initial draw alone, as many ranks in all as `ranks` has: what `ranks` is compared with apart from how "
        "many it has"
    )
    last: Ranks = optional("at the last step: what `ranks_last` is compared with; absent where that is")


class Regime(Part):
    rho: float = key(
        "ξ / learning rate, at the peaks of both; above 0.5 the initial draw decides which ranks stay", 0.1
    )
    shrink: float = key("the sum of ξ over the steps: what the threshold takes from a gate in all", 0.5)
    travel: float = key(
        "the sum of the learning rate over the steps: how far a gate can move in all; below 0.5 "
        "the initial draw decides. With `gate_update=gradient`, `rho` and `travel` have "
        "`trainer.clip` times the learning rate in its place",
        2.0,
    )


class Data(Part):
    sizes: dict[str, int] = key("examples of each split", {"train": 2490})
    partial: dict[str, str] = key("split -> what was expected and found; empty when all is complete")
    truncated: dict[str, int] = optional("split -> examples of which a part did not fit into `trainer.max_length`")
    sha256: str = key("hash of the canonical examples of all splits", "0" * 64)
    sources: dict[str, str] = key("split -> the official file whose rows the ids count", {"train": "RTE/train.tsv"})
    arrays_sha256: str = key("hash of the arrays in the .npz: names, types, shapes, values", "0" * 64)


class Time(Part):
    setup_s: float = key(
        "from the start to the first step: tokens, model, checkpoint; the files of data and weights are read before",
        1.0,
    )
    train_s: float = key("training steps", 2.0)
    eval_s: float = key("evaluations", 3.0)


class Throughput(Part):
    examples_per_s: Measured = key("examples a second", 10.0)
    tokens_per_s: Measured = key("tokens a second, padding not counted", 100.0)
    padding: Measured = key("share of the positions that are padding, 0 to 1", 0.1)


class Memory(Part):
    peak_bytes: int | None = key(
        "highest allocation on a GPU; on a CPU the highest resident set of the process so far, "
        "which runs that it trained before may have raised"
    )


class Recipe(Part):
    name: str = key("the file of `conf/recipe` in use, empty without one", "")
    budget: str = key("the file of `conf/budget` in use, empty without one", "")
    unpublished: list[str] = key(
        "keys to which the recipe gives a value that nobody published for this method and task; "
        "`*`: to all, or there is no recipe",
        ["*"],
    )
    changed: list[str] = key(
        "keys of `method`, `trainer` and `schedule`, `head`, `precision`, and the backbone's "
        "`dropout`, `pooling`, `tokenizer` and `arch`, that decide the numbers and have another "
        "value in this run than in those files and, where these are silent, by default"
    )
    tuned: str = optional("the trials by which values of the recipe were chosen (`scripts/tune.py`)")


class Provenance(Part):
    command: str = key("the command as typed, absolute paths replaced by PATH", "python run.py")
    git: str | None = key("commit of the code, with `+changes` when tracked files differed from it")
    versions: dict[str, str] = key("library -> version", {"python": "3.11"})
    device: str = key(
        "name of the GPU, or the processor's architecture and the widest instructions torch uses "
        "on it (`cpu x86_64 AVX2`), by which sums are rounded",
        "cpu",
    )
    threads: int = key("threads of torch on the CPU", 1)
    started: str = key("UTC, ISO 8601; of the process that finished the run", "2024-01-01T00:00:00+00:00")
    finished: str = key("as `started`", "2024-01-01T00:00:06+00:00")
    resumed_at: list[int] = key("steps at which it was continued")
    source: str = optional("of a control: run id of the finished run it was made from")
    recipe: Recipe = optional("where the hyper-parameters come from; all were published where both lists are empty")


class Record(Part):
    """A whole record, its keys in the order in which they are written."""

    schema_: int = key("version of this layout: 1", SCHEMA_VERSION, alias="schema", ge=SCHEMA_VERSION)
    run_id: str = key(
        "12 hexadecimal digits: the start of the sha256 of what decides the numbers (`sora/runs/run_id.py`)",
        "0123456789ab",
        pattern=RUN_ID,
    )
    status: str = key(
        "`ok`, or `diverged`: a loss or a gradient was not finite, and the weights stayed as they were before",
        "ok",
        pattern=f"^({'|'.join(STATUSES)})$",
    )
    flags: Flags = key("what a reader must know before using the numbers")
    config: Config = key(
        "what decides the numbers of the resolved configuration, every field at its value: these "
        "keys and the other deciding ones of `RunConfig`; nothing of `data`, `paths`, `tracker` "
        "and `cluster`"
    )
    history: list[Entry] = key("one entry per evaluation")
    level_results: list[Level] = key(
        "one entry per level of a sparsity schedule, see [below](#the-levels-of-a-schedule); empty without one", []
    )
    pack: Pack = key("the runs trained together")
    metrics: Metrics = key("`step` and the metrics of the splits: `select`, `report`, and where they exist the others")
    params: Params = key("numbers of parameters, of the selected weights")
    ranks: Ranks = key("live rank of each adapted matrix", {"layer.0.query": 7})
    ranks_last: Ranks = optional(
        "SoRA, AdaLoRA: the same of the last weights; absent with a schedule, whose last level has them"
    )
    no_data_ranks: NoDataRanks = optional(
        "SoRA, AdaLoRA: the ranks that the initial draw and the method's own rule give without any data, "
        "see [below](#ranks-without-data)"
    )
    regime: Regime = optional(
        "SoRA with a threshold above 0: whether the loss can hold a gate up (`sora/methods/regime.py`), over the "
        "steps before a schedule's levels"
    )
    data: Data = key("the examples")
    time: Time = key(
        "seconds, of the whole pack, a resumed run's parts added up, but the set-up of the last part alone"
    )
    throughput: Throughput = key("of the whole pack while training")
    memory: Memory = key("")
    provenance: Provenance = key("how it came about; the name of the machine is not recorded")


SECTIONS = {
    "Identity": ("schema_", "run_id", "status", "flags", "config"),
    "Course": ("history", "level_results", "pack"),
    "Outcome": ("metrics", "params", "ranks", "ranks_last", "no_data_ranks", "regime", "data"),
    "Cost and circumstances": ("time", "throughput", "memory", "provenance"),
}


# -- checking ------------------------------------------------------------------------------------------------------


def check(model: type[BaseModel], value: Any, version: int, where: str, way_out: str) -> None:
    """Raise UserError that names the file ``where``, the first key that breaks ``model``, and the ``way_out``.

    A newer ``schema`` than ``version`` asks for a newer program.
    """
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, int) and schema > version:
        raise UserError(f"{where}: schema is {schema}, but {version} is the newest known here; update the program")
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        if first["type"] == "missing":
            raise UserError(f"{where}: {place} is missing; {way_out}") from None
        must = first["msg"].replace("Input should", "must").replace("String should", "must")
        raise UserError(f"{where}: {place} got {show(first['input'])}, {must}; {way_out}") from None


def differing(model: type[BaseModel], one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """List the keys of both objects whose values differ. What only one has, at any depth, is of another version."""
    kinds = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    return [key for key in one if key in other and _unlike(kinds.get(key), one[key], other[key])]


def _unlike(kind: Any, one: Any, other: Any) -> bool:
    if get_origin(kind) is list:
        return len(one) != len(other) or any(map(partial(_unlike, get_args(kind)[0]), one, other))
    if isinstance(kind, type) and issubclass(kind, Part):
        return bool(differing(kind, one, other))
    return bool(one != other)


# -- describing ----------------------------------------------------------------------------------------------------


def rows(
    model: type[BaseModel], names: tuple[str, ...] | None = None, above: str = ""
) -> Iterator[tuple[str, str, str]]:
    """List key, type and meaning of every key of ``model``, those of its objects after them."""
    for name, field in model.model_fields.items():
        if names is not None and name not in names:
            continue
        path = f"{above}{field.alias or name}"
        absent = "" if field.is_required() else ", may be absent"
        yield path, _kind(field.annotation) + absent, field.description or ""
        inner, item = field.annotation, ""
        if get_origin(inner) is list and isinstance(get_args(inner)[0], type):
            inner, item = get_args(inner)[0], "*."
        if isinstance(inner, type) and issubclass(inner, Part) and not issubclass(inner, Named | Evaluated):
            yield from rows(inner, above=f"{path}.{item}")


def _kind(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _kind(part) for part in get_args(annotation))
    names: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "boolean", list: "list"}
    return names.get(get_origin(annotation) or annotation, "object")


def described(page: str) -> str:
    """Write the tables between the marks of ``page`` from the schema."""
    tables = {section: list(rows(Record, names)) for section, names in SECTIONS.items()}
    tables["Level"] = list(rows(Level))
    for name, found in tables.items():
        lines = ["| key | type | meaning |", "|---|---|---|", *(f"| `{k}` | {t} | {m} |" for k, t, m in found)]
        begin, end = f"<!-- keys: {name} -->\n", "\n<!-- end -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n".join(lines) + end + rest.partition(end)[2]
    return page


def example(model: type[BaseModel] = Record) -> dict[str, Any]:
    """Return an object in which every needed key has its example."""
    needed = {name: field for name, field in model.model_fields.items() if field.is_required()}
    return {
        field.alias or name: deepcopy(field.examples[0]) if field.examples else _example_of(field.annotation)
        for name, field in needed.items()
    }


def _example_of(kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Part):
        return example(kind)
    inner = get_args(kind)
    if get_origin(kind) is list:
        return [example(inner[0])] if isinstance(inner[0], type) and issubclass(inner[0], Part) else []
    return {} if get_origin(kind) is dict else None


if __name__ == "__main__":
    PAGE.write_text(described(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
