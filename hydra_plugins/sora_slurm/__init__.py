"""Submission to Slurm, a plugin of Hydra."""
