"""What pyproject.toml cannot say: in a wheel sora carries conf, experiments, scripts and the published numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLE = ("conf", "experiments", "benchmark", "scripts", "results/published")


class BuildWithBundle(build_py):
    """Copy ``BUNDLE`` to sora/_bundle of the build; an editable installation reads the folders where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "sora" / "_bundle"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        for part in BUNDLE:
            shutil.copytree(part, target / part, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithBundle})
