"""Train the two readings of SoRA and each of their differences alone, and write what changes.

    make fidelity DATA=/path/to/data        or        python scripts/fidelity.py [key=value ...]

Three seeds of each setting are one pack; words such as task=rte or seed=[0,1] replace the defaults below. What is
finished is not trained again. Writes <paths.results>/fidelity.md, and the study's manifest for scripts/tables.py.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

import experiments
from experiments import fidelity, render
from experiments.artefacts import Table
from experiments.study import load as load_studies
from sora import records, studies
from sora.backbones.source import backbone_identity
from sora.cli import explain
from sora.commands import published, without_paths
from sora.compose import runs_of
from sora.errors import UserError
from sora.identity import run_id
from sora.sweeps import decides
from sora.tasks import load
from sora.training.runner import run_pack

# Ours: SST-2, because its sentences are short and 200 steps are enough to leave chance level; xi = 0.8 / steps, so that
# ranks die. Nothing was chosen by its outcome beyond that.
DEFAULTS = {
    "method": "sora",
    "task": "sst2",
    "backbone": "minilm-l6",
    "recipe": "none",
    "seed": "[0,1,2]",
    "method.threshold": "4e-3",
    "trainer.max_steps": "200",
    "trainer.batch_size": "8",
    "trainer.learning_rate": "2e-3",
    "trainer.eval_every": "200",
}


def main(words: Sequence[str]) -> int:
    """Train what is missing and write the tables; returns the exit status."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        path = study(words)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


def study(words: Sequence[str]) -> Path:
    """The whole study; returns the path of its Markdown. Raises UserError, HydraException or OmegaConfBaseException."""
    fixed = DEFAULTS | dict(_split(word) for word in words)
    arms = {name: fixed | values for name, values in fidelity.settings().items()}
    packs = {name: runs_of(f"{key}={value}" for key, value in values.items()) for name, values in arms.items()}
    first = packs["authors"][0]
    if first.dry_run:
        raise UserError("dry_run: this script trains and writes its page; try a setting with run.py dry_run=true")
    data, weights = load(first.task, first.protocol, first.data), backbone_identity(first.backbone)
    axes = fidelity.axes(first.task.name, [run.seed for run in packs["authors"]])
    entries = [
        {
            "run_id": (identifier := run_id(run, data.sha256, weights)),
            "axes": {**{key: arms[name].get(key) for key in axes}, "seed": run.seed},
            "record": records.record_path(Path(), run, identifier).as_posix(),
            "command": _command(arms[name] | {"seed": str(run.seed)}),
        }
        for name, runs in packs.items()
        for run in runs
    ]
    told = {key: without_paths(value) for key, value in fixed.items() if key not in axes and decides(key)}
    manifest = studies.make("fidelity", axes, told, entries)
    results = Path(first.paths.results)
    studies.write(results, manifest)
    for number, (name, runs) in enumerate(packs.items(), 1):
        print(f"setting {number} of {len(packs)}: {name}", flush=True)
        run_pack(runs, _command(arms[name]))
    return _write(results, f"fidelity-{manifest['hash']}", words)


def _write(results: Path, key: str, words: Sequence[str]) -> Path:
    loaded = load_studies(results, lambda name: experiments.find(name).accepts)
    (found,) = (each for each in loaded.studies if each.key == key)
    pages = [render.markdown(each) for each in fidelity.build(found) if isinstance(each, Table)]
    heading = f"# {fidelity.STUDY.title}\n\n    {published(['python', 'scripts/fidelity.py', *words])}\n"
    records.write_text(results / "fidelity.md", "\n".join([heading, *pages]))
    return results / "fidelity.md"


def _command(values: dict[str, str]) -> str:
    return published(["python", "run.py", *(f"{key}={value}" for key, value in values.items())])


def _split(word: str) -> tuple[str, str]:
    key, separator, value = word.partition("=")
    if not separator or not key:
        raise UserError(f"{shlex.quote(word)}: must be key=value, as for run.py")
    return key, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
