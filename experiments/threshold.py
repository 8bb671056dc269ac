"""The paper's Table 6: SoRA over its threshold ξ."""

from __future__ import annotations

from experiments.artefacts import Artefact
from experiments.settings import number_label, varied
from experiments.study import Definition, Study


def build(study: Study) -> list[Artefact]:
    """See :func:`experiments.settings.varied`."""
    return varied(
        study,
        "method.threshold",
        "ξ",
        ("sora", "6"),
        number_label,
        lambda value: f"method.threshold={float(value):g}",
        "The threshold of SoRA's proximal step; a larger one leaves fewer ranks.",
    )


STUDY = Definition("threshold", "Threshold ξ (Table 6)", build)
