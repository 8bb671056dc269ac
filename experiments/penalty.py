"""The paper's Table 7: SoRA over the weight λ of the L1 term in its loss (what the table calls η_t)."""

from __future__ import annotations

from experiments.artefacts import Artefact
from experiments.settings import number_label, varied
from experiments.study import Definition, Study


def build(study: Study) -> list[Artefact]:
    """See :func:`experiments.settings.varied`."""
    return varied(
        study,
        "method.penalty",
        "λ",
        ("sora", "7"),
        number_label,
        lambda value: f"method.penalty={float(value):g}",
        "The weight of the L1 term in SoRA's loss, which the paper's table calls η_t.",
    )


STUDY = Definition("penalty", "Penalty λ (Table 7)", build)
