"""The paper's Table 3: SoRA on some of the matrices of a layer."""

from __future__ import annotations

from typing import Any

from experiments.artefacts import Artefact, Cell, text
from experiments.settings import varied
from experiments.study import Definition, Study

SUFFIXES = {"query": "Q", "key": "K", "value": "V", "attention.output.dense": "A.O"}
SUFFIXES |= {"intermediate.dense": "FF.W1", "output.dense": "FF.W2"}
PRINTED = {
    ("Q", "K"): "query,key",
    ("Q", "K", "V"): "query,key,value",
    ("Q", "K", "V", "A.O"): "query,key,value,attention.output",
}


def build(study: Study) -> list[Artefact]:
    """See :func:`experiments.settings.varied`."""
    return varied(
        study,
        "method.targets",
        "matrices",
        ("sora", "3"),
        _label,
        lambda value: f"method.targets={PRINTED.get(_short(value), 'all')}",
        "The paper tuned λ so that all rows keep about as many parameters; here every other setting is the same in all "
        "rows, so compare scores together with live parameters.",
    )


def _short(value: Any) -> tuple[str, ...]:
    """``(query, key)`` of any architecture as ``("Q", "K")``; everything for null."""
    patterns = [value] if isinstance(value, str) else list(value or ())
    bare = [str(pattern).removeprefix("*.").removesuffix("*").removesuffix("_proj") for pattern in patterns]
    return tuple(SUFFIXES.get(each, each) for each in bare)


def _label(value: Any) -> Cell:
    return text(", ".join(_short(value)) or "all six")


STUDY = Definition("modules", "Which matrices (Table 3)", build)
