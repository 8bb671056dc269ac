"""The programs of scripts/ as commands of an installation: ``sora-tables`` is scripts/tables.py, and so on."""

from __future__ import annotations

import runpy
import sys
from functools import partial

from sora.files import ROOT
from sora.runs.commands import install

REPORT = ("matplotlib", "statsmodels", "tabulate")  # of the extra that tables and figures need


def run(name: str) -> None:
    """Run a script; ``experiments`` and ``benchmark`` lie next to scripts/ and are not installed."""
    sys.path.insert(0, str(ROOT))
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name not in REPORT:
            raise
        print(f"error: needs {error.name}, which is not installed; {install('report')}", file=sys.stderr)
        sys.exit(2)


tables, status, doctor, export = (partial(run, name) for name in ("tables", "status", "doctor", "export"))
prepare = partial(run, "prepare_data")
