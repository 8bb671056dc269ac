"""What a person is told apart by in a pack."""

import dataclasses

from sora.training.runner import _differences
from tests import tiny


def test_only_what_differs_beside_the_seed_is_told() -> None:
    plain = tiny.runs(seeds=[0, 1])
    assert _differences(plain) == ["", ""]
    apart = [dataclasses.replace(plain[0], seeds=dataclasses.replace(plain[0].seeds, init=1234567)), plain[0]]
    assert _differences(apart) == [" seeds.init 1234567", " seeds.init 0"]
    other = dataclasses.replace(plain[1], method=dataclasses.replace(plain[1].method, threshold=1e-5))
    assert _differences([plain[0], other]) == [" threshold 0.001", " threshold 1e-05"]
