"""A sweep on a real Ray, on this machine alone: make test-cluster."""

from __future__ import annotations

import importlib.util

import pytest

from sora.runs import records
from tests.cluster.jobs import run
from tests.typed import SMALL

pytestmark = pytest.mark.ray


def test_jobs_finish_and_a_mistake_fails_its_job_alone(tmp_path):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: make setup-cluster")
    (tmp_path / "results/records/minilm-l6").mkdir(parents=True)
    (tmp_path / "results/records/minilm-l6/synthetic_single").write_text("a file where a folder must be")
    sweep = ("-m", "cluster=ray", *SMALL, "method=lora", "task=synthetic_pair,synthetic_single", "seed=0,1")
    alone = ("hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init._node_ip_address=127.0.0.1")
    done = run(tmp_path, *sweep, *alone)
    assert done.returncode == 2, done.stderr
    assert "1 of 2 jobs did not finish" in done.stderr
    found = records.read_many(tmp_path / "results/records")
    assert sorted((r["config"]["task"]["name"], r["config"]["seed"]) for r in found) == [
        ("synthetic_pair", 0),
        ("synthetic_pair", 1),
    ]
