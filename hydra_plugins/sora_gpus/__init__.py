"""Jobs on the GPUs of one machine, a plugin of Hydra."""
