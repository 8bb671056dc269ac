"""Write results/published/anomalies.md and dispersion.md: what the published numbers say of themselves.

python scripts/anomalies.py
"""

from __future__ import annotations

import argparse

from experiments import anomalies, dispersion
from experiments.published import FOLDER
from sora.files import write_text

if __name__ == "__main__":
    argparse.ArgumentParser(prog="scripts/anomalies.py", description=__doc__.splitlines()[0]).parse_args()
    write_text(FOLDER / "anomalies.md", anomalies.note())
    write_text(FOLDER / "dispersion.md", dispersion.note())
