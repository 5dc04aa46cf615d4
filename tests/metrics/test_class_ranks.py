"""Ranks of right classes against a loop, with ties, several right classes and scores that are not numbers."""

import jax.numpy as jnp
import numpy as np

from align_jax.metrics import class_ranks


def loop_ranks(scores: np.ndarray, right: np.ndarray) -> list[int]:
    ranks = []
    for row, is_right in zip(scores, right, strict=True):
        best = max((score for score, ok in zip(row, is_right, strict=True) if ok), default=None)
        wrong = [score for score, ok in zip(row, is_right, strict=True) if not ok]
        ranks.append(2**31 - 1 if best is None else sum(not score < best for score in wrong))
    return ranks


def test_ranks_equal_a_loop_on_scores_full_of_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (60, 12)).astype(np.float32)
    right = rng.random((60, 12)) < 0.15
    found = class_ranks(jnp.asarray(scores), jnp.asarray(right)).tolist()
    assert found == loop_ranks(scores, right)
    assert 2**31 - 1 in found  # some have no right class
    assert 0 in found


def test_constant_and_missing_scores_never_score() -> None:
    right = np.eye(4, dtype=bool)
    for value in (0.0, np.nan):
        assert class_ranks(jnp.full((4, 4), value), jnp.asarray(right)).tolist() == [3] * 4
