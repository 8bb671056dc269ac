"""The paper's Table 7: SoRA over the weight λ of the L1 term in its loss (what the table calls η_t)."""

from experiments.settings import varied
from experiments.study import Study
from experiments.tables import Artefact

TITLE = "Penalty λ (Table 7)"


def build(study: Study) -> list[Artefact | None]:
    """See :func:`experiments.settings.varied`."""
    words = "The weight of the L1 term in SoRA's loss, which the paper's table calls η_t."
    return varied(study, "method.penalty", "λ", "7", None, words)
