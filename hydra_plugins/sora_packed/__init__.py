"""The packed sweeper, a plugin of Hydra."""
