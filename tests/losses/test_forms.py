"""Every form of both objectives against the dense one, on one to eight devices."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from align_jax.losses import contrastive_loss, sigmoid_loss
from align_jax.losses.chunks import Slices, cut
from align_jax.models.align import unit_length
from align_jax.parallel.mesh import BATCH_AXES, MeshShape

LOSSES = {"softmax": contrastive_loss, "sigmoid": sigmoid_loss}
# At a temperature T, two orders of summation give logits that differ by about 1e-7 / T, in every form alike.
SCALARS = {"softmax": (0.07,), "sigmoid": (0.07, -3.0)}


def inputs(objective, batch):
    """Pairs that are somewhat alike, two of which are the same pair: neither of these is ever a hit."""
    keys = jax.random.split(jax.random.key(batch), 2)
    image, noise = (unit_length(jax.random.normal(key, (batch, 24))) for key in keys)
    image = image.at[-1].set(image[0])
    text = unit_length(0.5 * image + noise)
    text = text.at[-1].set(text[0])
    return image, text, *map(jnp.float32, SCALARS[objective])


def value_and_gradients(loss, arguments):
    """The result and the gradients with respect to images, texts, temperature and bias."""

    def function(*values):
        result = loss(*values)
        return result.loss, result

    (_, result), gradients = jax.jit(jax.value_and_grad(function, tuple(range(len(arguments))), has_aux=True))(
        *arguments
    )
    return result, gradients


@cache
def dense(objective, batch):
    return value_and_gradients(LOSSES[objective], inputs(objective, batch))


def sharded(objective, form, mesh, chunk_size=None):
    rows, everywhere = PartitionSpec(BATCH_AXES), PartitionSpec()
    return jax.shard_map(
        partial(LOSSES[objective], axis_names=BATCH_AXES, form=form, chunk_size=chunk_size),
        mesh=mesh,
        in_specs=(rows, rows, *[everywhere] * len(SCALARS[objective])),
        out_specs=everywhere,
    )


def assert_equal_to_dense(loss, objective, batch):
    result, gradients = value_and_gradients(loss, inputs(objective, batch))
    expected, expected_gradients = dense(objective, batch)
    assert result.loss == pytest.approx(float(expected.loss), rel=1e-6)
    assert 0 < float(expected.image_to_text_accuracy) < 1
    assert float(result.image_to_text_accuracy) == float(expected.image_to_text_accuracy)
    assert float(result.text_to_image_accuracy) == float(expected.text_to_image_accuracy)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("objective", LOSSES)
@pytest.mark.parametrize(("form", "chunk_size"), [("chunked", 4), ("chunked", 5), ("chunked", 100), ("ring", None)])
def test_one_device_without_a_mesh_streams_the_same_loss(form, chunk_size, objective):
    loss = partial(LOSSES[objective], form=form, chunk_size=chunk_size)
    assert_equal_to_dense(loss, objective, batch=12)


@pytest.mark.parametrize("objective", LOSSES)
@pytest.mark.parametrize("form", ["all_gather", "ring"])
@pytest.mark.parametrize(("data", "fsdp", "rows"), [(1, 1, 6), (2, 1, 4), (2, 2, 3), (2, 4, 3), (8, 1, 4)])
def test_form_equals_dense_in_value_gradient_and_accuracy(data, fsdp, rows, form, objective):
    mesh = MeshShape(data=data, fsdp=fsdp).build(jax.devices()[: data * fsdp])
    assert_equal_to_dense(sharded(objective, form, mesh), objective, data * fsdp * rows)


# Chunks: whole, that divide and that do not; of all devices, of some, of parts of one.
@pytest.mark.parametrize("objective", LOSSES)
@pytest.mark.parametrize(
    ("data", "fsdp", "rows", "chunk_size"),
    [
        (1, 1, 7, 3), (2, 1, 12, 20), (2, 2, 3, 5), (2, 2, 10, 33), (4, 2, 3, 6), (4, 2, 3, 2),
        (4, 2, 10, 64), (8, 1, 4, 12),
    ],
)  # fmt: skip
def test_chunks_equal_dense_in_value_gradient_and_accuracy(data, fsdp, rows, chunk_size, objective):
    mesh = MeshShape(data=data, fsdp=fsdp).build(jax.devices()[: data * fsdp])
    assert_equal_to_dense(sharded(objective, "chunked", mesh, chunk_size), objective, data * fsdp * rows)


@pytest.mark.parametrize("objective", LOSSES)
def test_automatic_sharding_of_the_dense_form_gives_the_same_loss(objective):
    mesh = MeshShape(data=4, fsdp=2).build()
    image, text, *scalars = inputs(objective, 24)
    rows = jax.NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    everywhere = jax.NamedSharding(mesh, PartitionSpec())
    placed = *jax.device_put((image, text), rows), *jax.device_put(scalars, everywhere)
    result, _ = value_and_gradients(partial(LOSSES[objective], form="dense"), placed)
    expected, _ = dense(objective, 24)
    for value, wanted in zip(result, expected, strict=True):
        assert value == pytest.approx(float(wanted), rel=1e-6)


def test_logits_far_below_the_others_do_not_underflow_to_infinity():
    """A first block whose logits are all 200 lower than a later one's."""
    image = jnp.tile(jnp.eye(2)[:1], (4, 1))
    text = jnp.concatenate([-image[:2], image[2:]])
    value = contrastive_loss(image, text, jnp.float32(0.01), form="chunked", chunk_size=2).loss
    assert value == pytest.approx(float(contrastive_loss(image, text, jnp.float32(0.01)).loss), rel=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 8, 31, 32, 64, 1000])
@pytest.mark.parametrize(("devices", "batch"), [(1, 5), (2, 16), (8, 3), (8, 40)])
def test_no_chunk_is_larger_than_asked_and_all_rows_are_in_one(devices, batch, chunk_size):
    slices = cut(chunk_size, devices, batch)
    assert 1 <= slices.owners * slices.rows <= chunk_size
    assert slices.chunks * slices.owners * slices.rows >= devices * batch


def test_large_chunks_take_a_slice_of_every_device_and_small_ones_all_rows_of_some():
    assert cut(2048, devices=256, batch=64) == Slices(devices=256, batch=64, owners=256, rows=8)
    assert cut(1024, devices=256, batch=64) == Slices(devices=256, batch=64, owners=16, rows=64)
    assert cut(None, devices=1024, batch=64) == Slices(devices=1024, batch=64, owners=4, rows=64)
    assert cut(None, devices=1, batch=65_536).rows == 1024
