"""The words of a command as people type them, made into the words that Hydra reads (torch-free).

Hydra wants its flags in one place, and a quoted value wherever a sign is not in its grammar. A person types flags
anywhere and paths as the file system has them. So the values of the keys that hold paths or names of the user's own
are quoted here, with ``~`` expanded.
"""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException

from sora.coercion import nearest
from sora.errors import UserError
from sora.files import expanded
from sora.options import CHOICES
from sora.runs.commands import hydra_text

PATHS = ("data.dir", "data.files", "paths.results", "paths.runs", "paths.cache", "backbone.weights", "backbone.dir")
TEXTS = ("data.label", "data.text")  # names of columns: any signs, but no paths
DRY_RUN = "--dry-run"  # of a sweep: print its jobs, one command a line
OVERRIDE = re.compile(r"(\+{0,2})([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
ENTRY = r"\s*[A-Za-z_][\w-]*\s*:\s*"  # of {train: a.csv, validation: b.csv}


def parsed(words: Sequence[str]) -> tuple[ArgumentParser, Namespace]:
    """Parse a command as Hydra does, with its flags anywhere, and ``--dry-run`` of a sweep.

    Raises:
        UserError: a flag that there is not, or that lacks its value, or a group that is given a list.
    """
    parser = get_args_parser()
    parser.add_argument(DRY_RUN, action="store_true")
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> NoReturn:
        wrong = re.match(r"unrecognized arguments: ([^ =]+)", message)
        raise UserError(message + (nearest(wrong[1], flags) if wrong else ""))

    parser.error = refuse  # type: ignore[method-assign]
    found = parser.parse_intermixed_args(list(words))
    if found.experimental_rerun:
        raise UserError("--experimental-rerun: not supported; type the overrides")
    for word in found.overrides:
        key, _, value = word.partition("=")
        if key in CHOICES and key != "fidelity" and _is_list(value):  # Hydra would merge what its items say
            raise UserError(
                f"{word}: a group takes the name of one choice, no list; -m {key}=... with commas is a sweep"
            )
    if found.dry_run:
        found.overrides.append("hydra.sweeper.dry_run=true")
    return parser, found


def quoted(arguments: Sequence[str]) -> list[str]:
    """Quote the values of ``PATHS`` and ``TEXTS`` in Hydra's grammar.

    In a sweep a comma still parts two values, unless the whole is the name of something that exists, or the key is one
    of ``paths.*``, which no sweep has more than one of.

    Raises:
        UserError: a ``~name`` whose home folder is not known.
    """
    sweep = is_sweep(arguments)
    return [_quoted_word(word, sweep) for word in arguments]


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether Hydra will run the command as a multirun; a study's file asks for one by itself."""
    if "hydra.mode=RUN" in arguments:
        return False
    asked = ("-m", "--multirun", "hydra.mode=MULTIRUN")
    return any(word in asked or word.lstrip("+").startswith("experiment=") for word in arguments)


def _quoted_word(word: str, sweep: bool) -> str:
    found = OVERRIDE.fullmatch(word)
    if found is None:
        return word
    plus, key, value = found.groups()
    for names, expand in ((PATHS, True), (TEXTS, False)):
        if any(key == name or key.startswith(f"{name}.") for name in names):
            return f"{plus}{key}={_value(key, value, sweep, expand)}"
    return word


def _value(key: str, value: str, sweep: bool, expand: bool) -> str:
    def text(each: str) -> str:
        return hydra_text(expanded(key, each) if expand else each)

    if not value or value == "null" or "${" in value:
        return value
    if value[0] == "{" and value[-1] == "}":
        return _mapping(value, text)
    if _is_list(value) and not (expand and _exists(value)):
        return _list(value, text)
    if not sweep or key.startswith("paths.") or _exists(value):
        return text(_plain(value))
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
        if parsed.is_sweep_override() and parsed.value_type != ValueType.SIMPLE_CHOICE_SWEEP:
            return value  # glob(...), choice(...), range(...)
    except HydraException:
        pass  # a sign that Hydra does not know: it is quoted below
    return ",".join(text(_plain(each)) for each in _parts(value))


def _mapping(value: str, text: Callable[[str], str]) -> str:
    """Quote the values of ``{train: a.csv, validation: b.csv}``; a comma separates entries only before a name."""
    entries = []
    for part in re.split(rf",(?={ENTRY})", value[1:-1]):
        found = re.fullmatch(rf"({ENTRY})(.*?)\s*", part, re.DOTALL)
        if found is None:
            return value  # no mapping: Hydra reports what is wrong
        name, each = found[1].strip(" :"), found[2]
        entries.append(f"{name}: {_list(each, text) if _is_list(each) else text(_plain(each))}")
    return "{" + ", ".join(entries) + "}"


def _is_list(value: str) -> bool:
    return value[:1] == "[" and value[-1:] == "]"


def _list(value: str, text: Callable[[str], str]) -> str:
    """Quote the items of ``[a.csv, b.csv]``."""
    return f"[{','.join(text(_plain(each.strip())) for each in _parts(value[1:-1]))}]"


def _parts(text: str) -> list[str]:
    """Split ``text`` at its commas, except those inside closed quotes."""
    return re.findall(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,])+""", text)


def _plain(value: str) -> str:
    """Return the text of a value, without Hydra's quotes where it has them."""
    if value[:1] in ("'", '"'):
        try:
            read = OverridesParser.create().parse_override(f"key={value}").value()
        except HydraException:
            return value
        if isinstance(read, str):
            return read
    return value


def _exists(value: str) -> bool:
    try:
        return Path(os.path.expanduser(value)).exists()
    except (OSError, ValueError):  # a name too long for a file
        return False
