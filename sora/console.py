"""Standard output and error that outlive their reader: ``... | head`` closes a pipe, and a training goes on."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from sora.errors import UserError


class _Unbroken(io.FileIO):
    """A file descriptor whose writes go nowhere once nobody reads them any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except (BrokenPipeError, OSError) as error:
            if not isinstance(error, BrokenPipeError) and error.errno not in _GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


_GONE = (5,)  # EIO: the terminal was closed


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


def check_home() -> None:
    """Raise UserError where a library would make a folder that is called ``~``."""
    if os.path.expanduser("~").startswith("~") and not os.environ.get("HF_HOME"):
        raise UserError(
            f"HOME is not set and user {os.getuid()} has no home folder, so that caches have no place; "
            "export HOME=<a folder that can be written>"
        )


def run(main: Callable[[], int]) -> NoReturn:
    """Call the ``main`` of a program and leave with its status; a UserError ends in one sentence and status 2."""
    outlive_reader()
    try:
        check_home()
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
