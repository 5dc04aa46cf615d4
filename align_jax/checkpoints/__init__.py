"""Checkpoints of training runs and variables of model folders: the only package that knows Orbax.

run.py writes and restores `checkpoints/<step>/`; steps.py says which of those folders are whole; variables.py writes
and reads the `params/` of a model folder.
"""

from align_jax.checkpoints.run import Checkpoints, Restored, Weights
from align_jax.checkpoints.steps import CheckpointError, Rejected, SaveError
from align_jax.checkpoints.variables import restore_variables, save_variables

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Rejected",
    "Restored",
    "SaveError",
    "Weights",
    "restore_variables",
    "save_variables",
]
