import doctest
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from align_jax import losses
from align_jax.losses import ContrastiveLoss, contrastive_loss
from align_jax.models.align import unit_length
from align_jax.parallel.mesh import BATCH_AXES, MeshShape


def embeddings(batch, width=16, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return tuple(unit_length(jax.random.normal(key, (batch, width))) for key in keys)


def sharded(mesh, **settings):
    rows, everywhere = PartitionSpec(BATCH_AXES), PartitionSpec()
    return jax.shard_map(
        partial(contrastive_loss, axis_names=BATCH_AXES, **settings),
        mesh=mesh, in_specs=(rows, rows, everywhere), out_specs=everywhere,
    )  # fmt: skip


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
    assert doctest.testmod(losses, extraglobs={"jnp": jnp}).attempted > 0
    assert doctest.testmod(losses, extraglobs={"jnp": jnp}).failed == 0


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


@pytest.mark.parametrize(("data", "fsdp"), [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (1, 8)])
def test_gathered_loss_equals_dense_in_value_and_gradient(data, fsdp):
    mesh = MeshShape(data=data, fsdp=fsdp).build(jax.devices()[: data * fsdp])
    image, text = embeddings(32)
    temperature = jnp.float32(0.05)

    def value_and_gradients(loss):
        return jax.jit(jax.value_and_grad(lambda *inputs: loss(*inputs).loss, argnums=(0, 1, 2)))(
            image, text, temperature
        )

    dense_value, dense_gradients = value_and_gradients(contrastive_loss)
    value, gradients = value_and_gradients(sharded(mesh))
    assert value == pytest.approx(float(dense_value), rel=1e-6)
    for gradient, expected in zip(gradients, dense_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


def test_gathered_accuracy_sees_every_device():
    mesh = MeshShape(data=8).build()
    image, text = embeddings(32)
    text = jnp.concatenate([text[:16], image[16:]])
    result = jax.jit(sharded(mesh))(image, text, jnp.float32(0.05))
    expected = contrastive_loss(image, text, jnp.float32(0.05))
    for name in ContrastiveLoss._fields:
        assert getattr(result, name) == pytest.approx(float(getattr(expected, name)), rel=1e-6)
    assert expected.image_to_text_accuracy >= 0.5


def test_gather_in_the_step_is_two_all_gathers():
    """Each side travels once; a third gather would mean that logits or one-hot labels travel too."""
    mesh = MeshShape(data=8).build()
    image, text = embeddings(32)
    compiled = jax.jit(sharded(mesh)).lower(image, text, jnp.float32(0.05)).compile().as_text()
    gathers = [line for line in compiled.splitlines() if " all-gather(" in line or " all-gather-start(" in line]
    assert 1 <= len(gathers) <= 2
