"""A finished run's adapter, or the plain model it makes with its backbone, in a folder of the user's choice."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from sora.backbones import load_backbone
from sora.backbones.source import backbone_identity
from sora.backbones.tokenizer import load_tokenizer
from sora.coercion import nearest
from sora.config import RunConfig
from sora.errors import UserError
from sora.files import as_user_error, write_text
from sora.method_config import PeftConfig
from sora.publish import card, export
from sora.runs import records
from sora.runs.resolve import restored
from sora.runs.schema import STATUSES


@dataclass(frozen=True)
class FinishedRun:
    """A run folder that holds an adapter, with the run's configuration and record."""

    folder: Path
    run: RunConfig
    record: dict[str, Any]

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"


def find_run(name: str, runs: Path, results: Path) -> FinishedRun:
    """Find the finished run that ``name`` means: a run folder, or a run id below ``runs``.

    Raises:
        UserError: there is no such run, it is not finished, or its adapter or its record is missing.
    """
    folder = Path(name) if (Path(name) / "status.json").is_file() else runs / name
    if not (folder / "status.json").is_file():
        known = [path.parent.name for path in runs.glob("*/status.json")]
        raise UserError(
            f"{name}: no run of that id in {runs}, and no folder that holds a status.json{nearest(name, known)}; "
            "--runs names another folder of runs"
        )
    status = _read(folder / "status.json", json.loads)
    if status.get("status") not in STATUSES:
        raise UserError(
            f"{folder}: the run is {status.get('status')}, not finished, so there is nothing to export; finish it by "
            f"repeating its command: {status.get('resume') or status.get('command')}"
        )
    damaged = (OSError, SafetensorError)
    with as_user_error(folder, "is not whole", "move its record away and repeat its command", damaged):
        weights = sorted((folder / "adapter").glob("*.safetensors"))
        if not weights:
            raise FileNotFoundError("its adapter has no weights")
        for path in weights:
            with safe_open(path, "numpy"):  # whole, by its header
                pass
    values = _read(folder / "config.yaml", yaml.safe_load)
    for group, key in (("method", "packable"), ("task", "ignored_keys")):  # which earlier code wrote
        if isinstance(values.get(group), dict):
            values[group].pop(key, None)
    with as_user_error(folder / "config.yaml", "is damaged", "restore the file", (UserError,)):
        run = restored(values)
    return FinishedRun(folder, run, records.read(_record(folder, status, results)))


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Parse a file of the run folder, a mapping. Raises UserError where it is damaged."""
    with as_user_error(path, "cannot be read", "restore the file", (OSError, ValueError, yaml.YAMLError)):
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("holds no mapping")
        return content


def _record(folder: Path, status: dict[str, Any], results: Path) -> Path:
    """Find the record: where the status says, seen from here or from above the folder, or below ``results``."""
    places = (start / str(status.get("record", "")) for start in (Path(), *folder.resolve().parents))
    path = next((place for place in places if place.is_file()), None)
    path = path or records.find(results, str(status.get("run_id")))
    if path is None:
        raise UserError(f"{folder}: its record is not in {results}; --results names the folder that holds it")
    return path


def publish(finished: FinishedRun, out: Path, *, merge: bool) -> None:
    """Write the adapter, or with ``merge`` a plain transformers model, with tokenizer and model card, into ``out``.

    Raises:
        UserError: ``out`` is not empty or cannot be written, the method leaves nothing that could be merged, or the
            backbone's weights or tokenizer cannot be had, or are not those of the training.
    """
    method, merged = finished.run.method, merge and not (finished.adapter / export.MODEL_WEIGHTS).is_file()
    if merged and not ((finished.adapter / export.PEFT_CONFIG).is_file() and not isinstance(method, PeftConfig)):
        raise UserError(
            f"--merge: method={method.name} is not merged here; export without --merge (peft's own adapters: "
            "then merge_and_unload)"
        )
    if merged and backbone_identity(finished.run.backbone) != finished.record["config"]["weights"]:
        raise UserError(
            f"--merge: backbone.weights={finished.run.backbone.weights} holds other weights than those that run "
            f"{finished.record['run_id']} was trained on; put those back, or export without --merge"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not an empty folder; give a new or an empty one")
    with contextlib.ExitStack() as undo, as_user_error(out, "cannot be written", "choose another folder"):
        undo.callback(shutil.rmtree, out, ignore_errors=True)  # it was empty before
        out.mkdir(parents=True, exist_ok=True)
        if merged:
            export.write_merged(out, finished.adapter, load_backbone(finished.run.backbone))
        else:
            for path in sorted(finished.adapter.iterdir()):
                if path.name != "README.md":
                    shutil.copyfile(path, out / path.name)
        export.name_labels(out, finished.run.task)
        _write_tokenizer(finished.run, out)
        card.write(out, finished.run, finished.record)
        undo.pop_all()


def _write_tokenizer(run: RunConfig, out: Path) -> None:
    """Save the tokenizer as the run used it, for ``AutoTokenizer.from_pretrained(out)``."""
    tokenizer = load_tokenizer(run.backbone)
    try:
        tokenizer.save_pretrained(out)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error  # the tokenizers library says so that a disk is full
    if run.backbone.family == "deberta-v2" and run.backbone.tokenizer == "spm":
        # Its own class builds a normaliser anew instead of reading the one that was saved: see load_tokenizer.
        path = out / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
