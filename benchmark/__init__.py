"""What a training step costs here, and what it costs where people would train instead (``scripts/bench.py``).

* ``cases.py``: which contestants meet on which model, task and method;
* ``contestants.py``: the training loops themselves, ours and theirs;
* ``measure.py``: one process each, taking turns on a CPU, one after another on a GPU;
* ``report.py``: from the measurements to ratios and the table.
"""
