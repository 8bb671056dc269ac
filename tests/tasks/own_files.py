"""Files of a user's own task, of every kind with equal content, and the run that they describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset

from sora.config import DataConfig, ProtocolConfig, RunConfig
from sora.tasks import TaskData, load
from tests import tiny

TEXTS = ["It was fine.", 'He said "hi".', "Tabs\tand, commas; stay.", "Un café."]
SIZES = {"train": 24, "validation": 12, "test": 10}


def frame(split: str, labels: list[Any], **columns: Any) -> pd.DataFrame:
    """Rows of a split: a text, a second one, and labels in turn."""
    count = SIZES[split]
    values = {
        "a": [f"{TEXTS[i % 4]} {split} {i}" for i in range(count)],
        "b": [f"part {i}" for i in range(count)],
        "y": pd.Series([labels[i % len(labels)] for i in range(count)], dtype=object),
    }
    return pd.DataFrame(values | columns)


def write(folder: Path, kind: str, labels: list[Any], splits: tuple[str, ...] = ("train", "validation")) -> Any:
    """Files of one kind with equal content; returns data.files."""
    folder.mkdir(exist_ok=True)
    named = {}
    for split in splits:
        rows, path = frame(split, labels), folder / f"{split}.{kind.split('-')[0]}"
        data = Dataset.from_list(rows.to_dict("records"))
        match kind:
            case "csv" | "tsv":  # quoted where a field needs it, as pandas does
                rows.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
            case "csv-semicolons":
                rows.to_csv(path, index=False, sep=";", encoding="utf-8-sig")
            case "jsonl" | "json":
                lines = [json.dumps(row) for row in data.to_list()]
                path.write_text("[" + ",\n".join(lines) + "]" if kind == "json" else "\n".join(lines), encoding="utf-8")
            case "parquet":
                data.to_parquet(path)
            case "parquet-shards":
                path = folder / f"{split}-*.parquet"
                for number in range(2):
                    part = folder / f"{split}-{number:05d}-of-00002.parquet"
                    data.shard(2, number, contiguous=True).to_parquet(part)
            case "saved":
                path = folder / split
                data.save_to_disk(path)
        named[split] = str(path)
    return named


def described(files: Any, **task: Any) -> RunConfig:
    """The run of a task of one's own, with what its files say."""
    given = {"name": "own", "files": files, "text": ["a", "b"], "label": "y", "labels": None} | task
    (run,) = tiny.runs(task={"reader": "own", "benchmark": "own"} | given)
    return run


def loaded(run: RunConfig, protocol: str = "paper", **data: Any) -> TaskData:
    return load(run.task, ProtocolConfig(protocol), DataConfig(**data))
