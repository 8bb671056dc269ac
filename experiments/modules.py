"""The paper's Table 3: SoRA on some of the matrices of a layer."""

from typing import Any

from experiments.settings import varied
from experiments.study import Study
from experiments.tables import Artefact

TITLE = "Which matrices (Table 3)"
SUFFIXES = {"query": "Q", "key": "K", "value": "V", "attention.output.dense": "A.O"}
SUFFIXES |= {"intermediate.dense": "FF.W1", "output.dense": "FF.W2"}
ALL = "all six"
PRINTED = {"Q, K": "query,key", "Q, K, V": "query,key,value", "Q, K, V, A.O": "query,key,value,attention.output"}


def build(study: Study) -> list[Artefact | None]:
    """See :func:`experiments.settings.varied`."""
    study.runs["matrices adapted"] = study.runs["method.targets"].map(short)
    words = (
        "The paper tuned λ so that all rows keep about as many parameters; here every other setting is the same in all "
        "rows, so compare scores together with live parameters."
    )
    setting = {name: f"method.targets={PRINTED.get(name, 'all')}" for name in study.values("matrices adapted")}
    return varied(study, "matrices adapted", "matrices", "3", setting, words)


def short(value: Any) -> str:
    """``(query, key)`` of any architecture as ``Q, K``; all six for none."""
    patterns = [value] if isinstance(value, str) else value if isinstance(value, tuple) else ()
    bare = [str(pattern).removeprefix("*.").removesuffix("*").removesuffix("_proj") for pattern in patterns]
    return ", ".join(SUFFIXES.get(each, each) for each in bare) or ALL
