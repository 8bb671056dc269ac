"""What a task is, where its data comes from, how splits are made, how predictions are scored. Torch-free."""

from sora.config import TaskConfig
from sora.tasks.examples import Examples, TaskData
from sora.tasks.load import load, load_test
from sora.tasks.metrics import compute_metrics
from sora.tasks.spec import load_task

__all__ = ["Examples", "TaskConfig", "TaskData", "compute_metrics", "load", "load_task", "load_test"]
