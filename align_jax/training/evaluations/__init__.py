"""The evaluations that run beside a training, on the parameters of the moment."""

from typing import Any

from jax.sharding import Mesh

from align_jax.data.quarantine import Quarantine
from align_jax.training.evaluations.classification import (
    ClassificationEvaluation,
    ClassificationOutcome,
    HeldOutClassification,
)
from align_jax.training.evaluations.every import Every
from align_jax.training.evaluations.retrieval import Retrieval, RetrievalEvaluation, RetrievalOutcome

Evaluation = RetrievalEvaluation | ClassificationEvaluation
OpenEvaluation = Retrieval | HeldOutClassification
Outcome = RetrievalOutcome | ClassificationOutcome

__all__ = [
    "ClassificationEvaluation",
    "ClassificationOutcome",
    "Evaluation",
    "Every",
    "HeldOutClassification",
    "OpenEvaluation",
    "Outcome",
    "Retrieval",
    "RetrievalEvaluation",
    "RetrievalOutcome",
    "open_evaluation",
]


def open_evaluation(
    settings: Evaluation, module: Any, mesh: Mesh, batching: Any, data: Any, quarantine: Quarantine
) -> OpenEvaluation:
    """An evaluation with its data opened and its programs made once.

    Args:
        settings: of the evaluation.
        module: of the task.
        mesh: of the training.
        batching: of the task's data.
        data: of the training, whose preprocessing is taken.
        quarantine: for records that cannot be used.
    """
    if isinstance(settings, RetrievalEvaluation):
        return Retrieval(settings, module, mesh, batching, data, quarantine)
    return HeldOutClassification(settings, module, mesh, batching, data, quarantine)
