"""A task of conf/task without Hydra."""

from __future__ import annotations

from pathlib import Path

from sora import files
from sora.coercion import coerce
from sora.config import TaskConfig
from sora.errors import UserError

CONF = files.CONF / "task"
TYPED = ["/task_options@_here_", "_self_"]  # the defaults list of a file whose keys sora/options.py gives their types


def known_tasks() -> list[TaskConfig]:
    """Read every task of conf/task that has data of its own: all but ``own``, which stands for a user's files."""
    return [load_task(path.stem) for path in sorted(CONF.glob("*.yaml")) if path.stem != "own"]


def load_task(name: str, folder: Path = CONF) -> TaskConfig:
    """Read conf/task/<name>.yaml without Hydra (for the evaluate module, studies and tests).

    Raises UserError when there is no such file, or a value is not what TaskConfig asks for.
    """
    import yaml  # here, because importing a task should not cost a YAML parser

    path = folder / f"{name}.yaml"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"task {name!r} has no file in conf/task; choose one of {', '.join(known)}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if values.get("defaults") == TYPED:
        del values["defaults"]
    return coerce(TaskConfig, {key: value for key, value in values.items() if value is not None}, "task")
