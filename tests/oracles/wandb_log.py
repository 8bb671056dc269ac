"""Reads the file of an offline W&B run, without W&B's own reader.

A header of seven bytes, then LevelDB's log format: blocks of 32 KiB with fragments, each headed by a checksum
(4 bytes), a length (2) and a kind (1: full, 2: first, 3: middle, 4: last). A whole record is a protobuf message.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4


def read(path: Path) -> dict[str, Any]:
    """``run``: project, group, id, name, tags; ``config``; ``history``: a dict per step; ``summary``; ``exit_code``."""
    from wandb.proto import wandb_internal_pb2

    result: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "exit_code": None}
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            result["run"] = {"id": run.run_id, "name": run.display_name, "group": run.run_group, "project": run.project}
            result["run"]["tags"] = sorted(run.tags)
            result["config"] |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "config":
            result["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            result["history"].append(items)
        elif kind == "summary":
            for item in record.summary.update:
                result["summary"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "exit":
            result["exit_code"] = record.exit.exit_code
    return result


def _records(data: bytes) -> list[bytes]:
    assert data[:4] == b":W&B"
    found, parts, place = [], b"", HEADER
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # too little room for a header: zeros up to the next block
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part = data[place + HEADER : place + HEADER + length]
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            found.append(parts)
        place += HEADER + length
    return found
