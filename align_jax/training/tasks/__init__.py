"""What is trained: a task makes the model, its first variables, and the loss of a batch.

The loop and the step know tasks only through these methods, so one loop serves every task.
"""

from align_jax.training.tasks.classification import Classification
from align_jax.training.tasks.contrastive import Contrastive

Task = Contrastive | Classification

__all__ = ["Classification", "Contrastive", "Task"]
