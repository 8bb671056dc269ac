"""Read every record of a results folder; what cannot be used is named, and the rest is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sora.errors import UserError
from sora.runs import records

Record = Mapping[str, Any]
CONTRADICTION = "two records that contradict each other"


@dataclass(frozen=True)
class Results:
    """The records of a folder.

    Attributes:
        records: run id -> its record.
        paths: run id -> the record's file.
        spoilt: run id -> why its file is of no use.
        problems: one sentence for each file that could not be used.
    """

    records: dict[str, Record] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    spoilt: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read(folder: Path | str) -> Results:
    """Return every record below ``folder``/records. Raises UserError where there is no such folder."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder of results; give the one that paths.results named when training")
    found = Results()
    for path in records.files(Path(folder) / "records", ".json"):
        run_id = path.stem.rpartition("-")[2]
        try:
            record = records.read(path)
            if record["run_id"] != run_id:
                raise UserError(f"{path}: holds run {record['run_id']}, not the one it is named after; remove it")
        except UserError as error:
            found.problems.append(str(error))
            found.spoilt.setdefault(run_id, "damaged record")
            continue
        if run_id in found.records and records.unlike(found.records[run_id], record):
            other = found.paths[run_id]
            found.problems.append(f"{path}: says of run {run_id} other things than {other}; remove the wrong one")
            found.spoilt[run_id] = CONTRADICTION
        elif run_id not in found.records or not found.paths[run_id].with_suffix(".npz").is_file():
            found.records[run_id], found.paths[run_id] = record, path  # of equal copies one that still has its arrays
    for run_id in found.spoilt.keys() & found.records.keys():
        if found.spoilt[run_id] == CONTRADICTION:  # but a damaged copy of a whole record does no harm
            del found.records[run_id], found.paths[run_id]
    return found
