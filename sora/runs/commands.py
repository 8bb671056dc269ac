"""Commands as text, for a shell and for publication."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from sora.files import BUNDLE, ROOT

CONFIG_DIR = "--config-dir"
LOCAL = ("data.dir=", "paths.", "backbone.dir=")  # keys of one machine's folders
BARE = re.compile(r"[A-Za-z0-9_./+@%-]+(?: +[A-Za-z0-9_./+@%-]+)*")  # what needs no quotes in Hydra's grammar
_START = r"(?:file://)?(?:/|~/)"
_PATH = re.compile(  # at the start, as a value, in a list or a dictionary; quoted for Hydra or bare
    rf"""(^|[=\[,]|:\s)(?:'({_START}(?:[^'\\]|\\.)*)'|"({_START}(?:[^"\\]|\\.)*)"|({_START}[^,\]}}]*))"""
)


def without_paths(word: str) -> str:
    """Replace absolute paths in ``word`` by PATH: records and manifests are published."""
    return _PATH.sub(r"\1PATH", word)


def from_here(word: str) -> str:
    """Make the absolute paths in ``word`` that lie below the current folder relative."""
    here = os.getcwd()

    def relative(found: re.Match[str]) -> str:
        path = found[2] or found[3] or found[4]
        if not path.startswith(f"{here}/"):
            return found[0]
        below = path[len(here) + 1 :]
        return found[1] + (hydra_text(below) if "=" in word else below)

    return _PATH.sub(relative, word)


def portable(words: Sequence[str]) -> str:
    """Quote a command as ``published`` does, without the words that name folders of one machine.

    What is left runs anywhere: the data come from SORA_DATA or the hub, results go where they go by default.
    """
    return published([word for word in words if not (word.startswith(LOCAL) and without_paths(word) != word)])


def published(words: Sequence[str]) -> str:
    """Quote a command for a shell, without absolute paths: those below the current folder are relative to it."""
    return shlex.join(without_paths(from_here(word)) for word in words)


def hydra_text(text: str) -> str:
    """Write ``text`` as a value that Hydra's grammar reads as a text."""
    if BARE.fullmatch(text) and not _is_other(text):
        return text
    return QuotedString(text, Quote.single).with_quotes()


def _is_other(text: str) -> bool:
    """Return whether Hydra would read a bare word as a number, a boolean or nothing."""
    if text.lower() in ("true", "false", "null"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def program_name() -> list[str]:
    """Return what a published command begins with: ``sora`` where that was typed, else ``python run.py``."""
    return ["sora"] if _is_installed() else ["python", "run.py"]


def install(extra: str) -> str:
    """Return the command that adds what only an extra of this project has."""
    return f"pip install 'sora-bench[{extra}]'" if ROOT == BUNDLE else f"pip install -e '.[{extra}]'"


def program() -> list[str]:
    """Return what a command begins with that runs here and now: the program as it was started."""
    if _is_installed():
        return ["sora"]
    if Path(sys.argv[0]).name == "run.py":
        return [_python(), sys.argv[0]]
    path = ROOT / "run.py"
    return [_python(), "run.py" if Path.cwd() == ROOT else str(path)]


def again(command: str) -> str:
    """Make the line for a shell that continues the run here; status.json is not published and may name folders.

    In a launcher's worker, whose arguments are the launcher's, it is ``command`` without its absolute paths.
    """
    words = [word for word in sys.argv if word != "resume=never"]  # which would start anew
    if Path(words[0]).name not in ("run.py", "sora"):
        return f"cd {shlex.quote(os.getcwd())} && {command}"
    typed = shlex.join([*program(), *words[1:]])
    return f"cd {shlex.quote(os.getcwd())} && {typed}"


def here(command: str, config_dirs: Sequence[str] = (), overrides: Sequence[str] = ()) -> str:
    """Turn a published command into one that runs here and now.

    Args:
        config_dirs: the folders of the user's own configuration, for those that were not published.
        overrides: words such as ``paths.results=elsewhere`` for the keys that the command leaves out.
    """
    words = shlex.split(command)
    words = words[1:] if words[:1] == ["sora"] else words[2:]
    given = iter(config_dirs)
    for place, word in enumerate(words[1:], start=1):
        if words[place - 1] == CONFIG_DIR and word == "PATH":
            words[place] = next(given, word)
    keys = {word.partition("=")[0] for word in words}
    more = [word for word in overrides if word.partition("=")[0] not in keys]
    return in_script(shlex.join([*program(), *words, *more]))


def in_script(command: str) -> str:
    """Turn a published command into a line of a script; an unpublished own configuration comes from SORA_CONF."""
    unknown = '"${SORA_CONF:?name the folder of your own configuration}"'
    return command.replace(f" {CONFIG_DIR} PATH", f" {CONFIG_DIR} {unknown}")


def _is_installed() -> bool:
    name = Path(sys.argv[0]).name
    return name == "sora" or name.startswith("sora-") or ROOT == BUNDLE


def _python() -> str:
    """Return ``python`` where that is the interpreter that runs now, else its path."""
    found = shutil.which("python")
    return "python" if found and os.path.realpath(found) == os.path.realpath(sys.executable) else sys.executable
