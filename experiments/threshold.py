"""The paper's Table 6: SoRA over its threshold ξ."""

from experiments.settings import varied
from experiments.study import Study
from experiments.sweep import rate_by_threshold
from experiments.tables import Artefact

TITLE = "Threshold ξ (Table 6)"


def build(study: Study) -> list[Artefact | None]:
    """See :func:`experiments.settings.varied`."""
    words = "The threshold of SoRA's proximal step; a larger one leaves fewer ranks."
    return [*varied(study, "method.threshold", "ξ", "6", None, words), *rate_by_threshold(study)]
