"""A training of seconds for processes that are to be killed or starved: a random encoder of one narrow layer."""

SMALL = (
    "method=sora",
    "seed=[0,1]",
    "backbone=minilm-l6",
    "backbone.weights=random",
    "backbone.arch.num_hidden_layers=1",
    "backbone.arch.hidden_size=24",
    "backbone.arch.intermediate_size=32",
    "task=synthetic_pair",
    "recipe=none",
    "task.sizes={train: 120, validation: 80}",
    "trainer.max_steps=9",
    "trainer.batch_size=4",
    "trainer.eval_every=4",
    "trainer.checkpoint_every=3",
)
