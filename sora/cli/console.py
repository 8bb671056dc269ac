"""Standard output and error that outlive their reader: ``... | head`` closes a pipe, and a training goes on."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sora.errors import UserError
from sora.files import expanded


class _Unbroken(io.FileIO):
    """A file descriptor whose writes go nowhere once nobody reads them any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal was closed
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def outlive_reader() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that a closed pipe or terminal does not end.

    To be called once, by a program that owns its process. A stream that was closed from the start becomes one that
    goes nowhere.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for the life of the process)
            continue
        stream.flush()
        raw = _Unbroken(stream.fileno(), "w", closefd=False)
        text = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering or name == "stderr",
        )
        setattr(sys, name, text)


def check_folders() -> None:
    """Raise UserError where the current folder is gone, or a library would make one that is called ``~``."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current folder is gone ({error.strerror}); cd to one that is there") from error
    if os.path.expanduser("~").startswith("~") and not os.environ.get("HF_HOME"):
        raise UserError(
            f"HOME is not set and user {os.getuid()} has no home folder, so that caches have no place; "
            "export HOME=<a folder that can be written>"
        )


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence, under the name that the program was called by."""

    def __init__(self, *, prog: str | None = None, **options: Any) -> None:
        name = Path(sys.argv[0]).name
        super().__init__(prog=name if name.startswith("sora-") else prog, **options)

    def error(self, message: str) -> NoReturn:
        """Leave with status 2."""
        self.exit(2, f"error: {message[:1].lower()}{message[1:]}; {self.prog} --help lists what there is\n")


def place_of(text: str) -> Path:
    """Parse an argument that is a path; a shell leaves the ``~`` of ``--results=~/x`` alone."""
    return Path(expanded("path", text))


def run(main: Callable[[], int]) -> NoReturn:
    """Call the ``main`` of a program and leave with its status; a UserError ends in one sentence and status 2."""
    outlive_reader()
    try:
        check_folders()
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
