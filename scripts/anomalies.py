"""Write results/published/anomalies.md: published cells that their test sets cannot produce.

python scripts/anomalies.py
"""

from __future__ import annotations

import argparse

from experiments.anomalies import note
from experiments.published import FOLDER
from sora.files import write_text

if __name__ == "__main__":
    argparse.ArgumentParser(prog="scripts/anomalies.py", description=__doc__.splitlines()[0]).parse_args()
    write_text(FOLDER / "anomalies.md", note())
