"""A finished run's adapter, or the plain model it makes with its backbone, in a folder of the user's choice."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from sora.backbones.cache import cache_folder
from sora.coercion import nearest
from sora.config import RunConfig
from sora.errors import UserError
from sora.files import write_text
from sora.method_config import LoraConfig
from sora.runs import records
from sora.runs.resolve import build_runs


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
    """The finished run that ``name`` means: a run folder, or a run id below ``runs``.

    Raises:
        UserError: there is no such run, it is not finished, or its adapter or its record is missing.
    """
    folder = Path(name) if (Path(name) / "status.json").is_file() else runs / name
    if not (folder / "status.json").is_file():
        if Path(name).is_dir():
            raise UserError(f"{name}: holds no status.json, so it is no run folder; give one, or a run id")
        known = [path.parent.name for path in runs.glob("*/status.json")]
        where = f"no run of that id in {runs}" if runs.is_dir() else f"no folder of that name, and no runs in {runs}"
        raise UserError(f"{name}: {where}{nearest(name, known)}; --runs names another folder of runs")
    status = _read_json(folder / "status.json")
    if status.get("status") not in records.STATUSES:
        again = status.get("resume") or status.get("command")
        command = f": {again}" if again else ""
        raise UserError(
            f"{folder}: the run is {status.get('status')}, not finished, so there is nothing to export; "
            f"finish it by repeating its command{command}"
        )
    _check_adapter(folder / "adapter")
    run = _configuration(folder / "config.yaml")
    return FinishedRun(folder, run, records.read(_record(folder, run, status, results)))


def _configuration(path: Path) -> RunConfig:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); restore it, or train the run again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no configuration; restore it, or train the run again")
    if isinstance(method := values.get("method"), dict):
        method.pop("packable", None)  # was a key, which decided nothing here
    runs = build_runs(values)
    if len(runs) != 1:
        raise UserError(f"{path}: describes {len(runs)} runs, must be one; restore it, or train the run again")
    return runs[0]


def _check_adapter(adapter: Path) -> None:
    """Raise UserError unless the folder has weights that can be read."""
    again = "move its record away and repeat the run to get it again"
    weights = sorted(adapter.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{adapter}: is missing, or has no weights; {again}")
    for path in weights:
        try:
            with safe_open(path, "numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({error}); {again}") from error


def _record(folder: Path, run: RunConfig, status: dict[str, Any], results: Path) -> Path:
    """The record of a run: where its status says, seen from here or from where it was started, or below ``results``."""
    above = folder.resolve().parents
    start = above[min(len(Path(run.paths.runs).parts), len(above) - 1)]  # paths.runs may be absolute, the folder moved
    recorded = str(status.get("record", ""))
    found = [path for path in (Path(recorded), start / recorded) if path.is_file()]
    path = found[0] if found else records.find(results, str(status.get("run_id")))
    if path is None:
        raise UserError(f"{folder}: its record is not in {results}; --results names the folder that holds it")
    return path


def publish(finished: FinishedRun, out: Path, *, merge: bool) -> None:
    """Write the adapter, or with ``merge`` a plain transformers model, with tokenizer and model card, into ``out``.

    Raises:
        UserError: ``out`` is not empty or cannot be written, the method leaves nothing that could be merged, or the
            backbone's weights or tokenizer cannot be had.
    """
    _make_empty(out)
    try:
        if merge and (finished.adapter / "adapter_config.json").is_file():
            _merge(finished, out)
        elif merge and not (finished.adapter / "model.safetensors").is_file():
            name = finished.run.method.name
            raise UserError(f"--merge: method={name} adds layers, which no plain model has; export without --merge")
        else:
            for path in sorted(finished.adapter.iterdir()):
                if path.name != "README.md":
                    shutil.copyfile(path, out / path.name)
        from sora.publish import card, export

        export.name_labels(out, finished.run.task)
        _write_tokenizer(finished.run, out)
        card.write(out, finished.run, finished.record)
    except OSError as error:
        shutil.rmtree(out, ignore_errors=True)  # it was empty before
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from error
    except UserError:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _merge(finished: FinishedRun, out: Path) -> None:
    if not isinstance(finished.run.method, LoraConfig):
        raise UserError(
            f"--merge: method={finished.run.method.name} is not merged here; export without --merge and use "
            "merge_and_unload of peft"
        )
    from sora.backbones import load_backbone
    from sora.publish import export

    backbone = load_backbone(finished.run.backbone, cache=cache_folder("weights", finished.run.paths.cache))
    export.write_merged(out, finished.adapter, backbone)


def _write_tokenizer(run: RunConfig, out: Path) -> None:
    """The tokenizer as the run used it, for ``AutoTokenizer.from_pretrained(out)``."""
    from sora.backbones.tokenizer import load_tokenizer

    load_tokenizer(run.backbone).save_pretrained(out)
    if run.backbone.family == "deberta-v2" and run.backbone.tokenizer == "spm":
        # Its own class builds a normaliser anew instead of reading the one that was saved: see load_tokenizer.
        path = out / "tokenizer_config.json"
        config = _read_json(path) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _make_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise UserError(f"{out}: {what}; give a new or an empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); choose another folder") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); repeat the run's command to write it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no object; repeat the run's command to write it again")
    return content
