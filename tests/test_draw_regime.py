"""The picture in docs/regime.md: its settings are those of the page, its curves those of the formulas."""

from __future__ import annotations

import pytest

from scripts.draw_regime import PATH, SETTINGS, reach
from tests.conftest import ROOT

PAGE = " ".join((ROOT / "docs" / "regime.md").read_text(encoding="utf-8").split())


def test_the_page_states_the_settings_of_the_picture() -> None:
    left, right = SETTINGS.values()
    assert left == (4e-3, 4e-4, 200)
    assert "ξ = 4e-3, learning rate 4e-4, 200 steps" in PAGE
    assert right == (1.5e-4, 1e-3, 1296)
    assert "ξ = 1.5e-4, learning rate 1e-3, 1,296 steps" in PAGE
    assert f"]({PATH.name})" in PAGE
    for title, (xi, rate, _) in SETTINGS.items():
        assert title.startswith(f"rho {xi / rate:g}: ")


@pytest.mark.parametrize(("xi", "rate", "steps"), SETTINGS.values())
def test_a_gate_ends_where_shrink_and_travel_say(xi: float, rate: float, steps: int) -> None:
    start = 3.0  # large enough that nothing reaches zero
    end, shrink, travel = reach(start, xi, rate, steps).iloc[-1], xi * steps, rate * steps / 2
    assert list(end) == pytest.approx([start - shrink, start - shrink - travel, start - shrink + travel])


def test_a_gate_at_zero_stays_there() -> None:
    found = reach(0.1, 1e-3, 1.1e-3, 1000)["least"]
    assert found.iloc[0] == pytest.approx(0.1)
    assert (found[found.idxmin() :] == 0).all()
