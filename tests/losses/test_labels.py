import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.losses.labels import first_is_right, sigmoid_losses, softmax_losses

LABELS = np.array([[2, 0, -1], [1, -1, -1], [-1, -1, -1], [3, 2, 1]], np.int32)
LOGITS = np.random.default_rng(0).normal(0, 4, (4, 5)).astype(np.float32)


def multi_hot(labels, classes):
    targets = np.zeros((len(labels), classes))
    for row, of_example in zip(targets, labels, strict=True):
        row[of_example[of_example >= 0]] = 1
    return targets


def test_sigmoid_loss_is_the_cross_entropy_of_every_class_summed():
    probabilities = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    targets = multi_hot(LABELS, 5)
    expected = -(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities)).sum(axis=1)
    np.testing.assert_allclose(sigmoid_losses(jnp.asarray(LOGITS), jnp.asarray(LABELS)), expected, rtol=1e-5)
    gradients = jax.grad(lambda logits: jnp.sum(sigmoid_losses(logits, jnp.asarray(LABELS))))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(gradients, probabilities - targets, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_target_is_shared_by_the_labels_and_smoothed_over_all_classes(smoothing):
    labels, logits = LABELS[[0, 1, 3]], LOGITS[[0, 1, 3]].astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = multi_hot(labels, 5)
    targets = (1 - smoothing) * targets / targets.sum(axis=1, keepdims=True) + smoothing / 5
    found = softmax_losses(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(found, -(targets * log_probabilities).sum(axis=1), rtol=1e-5)


def test_losses_of_extreme_logits_are_finite_and_right():
    logits = jnp.array([[200.0, -200.0]])
    assert sigmoid_losses(logits, jnp.array([[0]])).tolist() == [0.0]
    assert sigmoid_losses(logits, jnp.array([[1]])).tolist() == [400.0]
    assert softmax_losses(logits, jnp.array([[1]])).tolist() == [400.0]


def test_first_class_is_right_where_it_is_one_of_the_labels():
    logits = jnp.array([[0.0, 1.0, 2.0], [0.0, 3.0, 2.0], [1.0, 0.0, 0.0]])
    assert first_is_right(logits, jnp.array([[0, 2], [0, -1], [-1, -1]])).tolist() == [True, False, False]
