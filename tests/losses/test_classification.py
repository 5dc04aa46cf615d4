"""The classifiers' losses equal torch's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from align_jax.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy, squared_error

LOGITS = np.random.default_rng(0).normal(0, 30, (6, 5)).astype(np.float32)  # far out, where naive forms overflow
TARGETS = np.random.default_rng(1).uniform(0, 1, (6, 5)).round(1).astype(np.float32)


def test_softmax_cross_entropy_leaves_ignored_examples_out() -> None:
    classes = np.array([0, 4, -100, 2, -100, 1])
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(LOGITS), torch.from_numpy(classes))
    found = softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(classes, jnp.int32))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert np.isnan(softmax_cross_entropy(jnp.asarray(LOGITS), jnp.full(6, -100, jnp.int32)))


def test_sigmoid_cross_entropy_and_squared_error() -> None:
    theirs = [torch.from_numpy(LOGITS), torch.from_numpy(TARGETS)]
    ours = [jnp.asarray(LOGITS), jnp.asarray(TARGETS)]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(*theirs)
    assert float(sigmoid_cross_entropy(*ours)) == pytest.approx(float(expected), rel=1e-6)
    assert float(squared_error(*ours)) == pytest.approx(float(torch.nn.functional.mse_loss(*theirs)), rel=1e-6)
