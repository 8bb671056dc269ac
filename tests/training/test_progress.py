"""What a person reads at the end of a training."""

from sora.tracking import summary
from tests import tiny


def test_the_last_line_tells_the_last_evaluation(tmp_path):
    loop = tiny.train(tiny.runs(), tmp_path)
    first, last = (entry["select"]["accuracy"] for entry in loop.progress[0].history)
    assert first != last, "the toy's evaluations do not differ: the line below shows nothing"
    line = (tmp_path / "seed-0" / "log.txt").read_text().splitlines()[-1]
    assert summary(accuracy=[last]) in line
