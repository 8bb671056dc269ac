"""A training of seconds for processes that are to be killed or starved: two seeds, three checkpoints."""

from tests import typed

SMALL = (
    "method=sora",
    "seed=[0,1]",
    *typed.SMALL,
    "task.sizes={train: 120, validation: 80}",
    "trainer.max_steps=9",
    "trainer.eval_every=4",
    "trainer.checkpoint_every=3",
)
