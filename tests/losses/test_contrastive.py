import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.losses import contrastive, contrastive_loss, sigmoid_loss
from align_jax.models.align import unit_length


def embeddings(batch, width=16, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return tuple(unit_length(jax.random.normal(key, (batch, width))) for key in keys)


def numpy_loss(image, text, temperature, smoothing):
    """The definition, in float64, with explicit targets."""
    logits = np.asarray(image, np.float64) @ np.asarray(text, np.float64).T / temperature
    batch = len(logits)
    targets = (1 - smoothing) * np.eye(batch) + smoothing / batch
    total = 0.0
    for scores in (logits, logits.T):
        log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        total += -(targets * log_probabilities).sum(axis=1).mean()
    return total


def test_worked_examples_in_docstrings():
    result = doctest.testmod(contrastive, extraglobs={"jnp": jnp})
    assert result.attempted == 4
    assert result.failed == 0


def test_smoothed_loss_of_two_pairs_worked_by_hand():
    # Logits (2, 0) in each row: log-sum-exp is log(e^2 + 1) = 2.126928; targets 0.95 and 0.05 take 1.9 away.
    loss = contrastive_loss(jnp.eye(2), jnp.eye(2), jnp.float32(0.5), label_smoothing=0.1).loss
    assert loss == pytest.approx(2 * (2.1269280 - 1.9), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_dense_loss_is_the_definition(batch, smoothing):
    image, text = embeddings(batch)
    loss = contrastive_loss(image, text, jnp.float32(0.07), label_smoothing=smoothing).loss
    assert loss == pytest.approx(numpy_loss(image, text, 0.07, smoothing), rel=1e-5, abs=1e-6)


def test_accuracy_counts_rows_whose_partner_scores_highest():
    image = jnp.eye(4)
    text = image[jnp.array([0, 1, 3, 2])]
    result = contrastive_loss(image, text, jnp.float32(1.0))
    assert (float(result.image_to_text_accuracy), float(result.text_to_image_accuracy)) == (0.5, 0.5)


def test_collapsed_embeddings_have_no_accuracy():
    ones = unit_length(jnp.ones((4, 8)))
    assert float(contrastive_loss(ones, ones, jnp.float32(1.0)).image_to_text_accuracy) == 0.0


def test_collapsed_embeddings_have_no_accuracy_in_the_sigmoid_loss():
    ones = unit_length(jnp.ones((4, 8)))
    result = sigmoid_loss(ones, ones, jnp.float32(1.0), jnp.float32(0.0))
    assert (float(result.image_to_text_accuracy), float(result.text_to_image_accuracy)) == (0.0, 0.0)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_dense_sigmoid_loss_is_the_definition(batch):
    image, text = embeddings(batch)
    logits = np.asarray(image, np.float64) @ np.asarray(text, np.float64).T / 0.07 - 3.0
    signs = 2 * np.eye(batch) - 1
    expected = np.log1p(np.exp(-signs * logits)).sum() / batch
    assert sigmoid_loss(image, text, jnp.float32(0.07), jnp.float32(-3.0)).loss == pytest.approx(expected, rel=1e-5)


def test_unknown_form_and_misplaced_dense_form_are_refused():
    image, text = embeddings(2)
    with pytest.raises(ValueError, match="whole batch in one place"):
        contrastive_loss(image, text, jnp.float32(1.0), form="dense", axis_names=("data",))
    with pytest.raises(ValueError, match="chunk_size 0 is not positive"):
        contrastive_loss(image, text, jnp.float32(1.0), form="chunked", chunk_size=0)
