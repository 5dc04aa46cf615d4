"""What the evaluations count, as pure functions of arrays; padded rows are masked by `valid`."""

from align_jax.metrics.bootstrap import confidence_interval, weighted_mean
from align_jax.metrics.class_ranks import class_ranks
from align_jax.metrics.ranks import match_ranks, recall_at
from align_jax.metrics.votes import neighbours_vote

__all__ = ["class_ranks", "confidence_interval", "match_ranks", "neighbours_vote", "recall_at", "weighted_mean"]
