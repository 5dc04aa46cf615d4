"""Gradients of a batch taken in parts against those of the batch taken whole, with batch norm in training mode."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, ConfigurationError
from align_jax.losses import contrastive_loss
from align_jax.models.align import unit_length
from align_jax.models.efficientnet_blocks import BatchNorm
from align_jax.parallel.mesh import BATCH_AXES, MeshShape, batch_sharding, place_batch
from align_jax.training.micro_batches import check_micro_batches, in_micro_batches
from align_jax.training.tasks import Contrastive
from align_jax.types import PairBatch

BATCH = 128


class Towers(nn.Module):
    """Two small towers that compile fast: convolution, batch norm in pairs, dropout; and a matrix."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, images, texts):
        x = nn.Conv(8, (3, 3), strides=2)(images)
        x = nn.relu(BatchNorm(train=True, group_size=2, momentum=0.9, epsilon=1e-3)(x))
        x = nn.Dropout(self.dropout, deterministic=False)(jnp.mean(x, axis=(1, 2)))
        return unit_length(nn.Dense(12)(x)), unit_length(nn.Dense(12)(texts))


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (BATCH, 8, 8, 3)), jax.random.normal(keys[1], (BATCH, 6))


def value_and_gradients(batch, count, devices=1, dropout=0.0):
    """Loss, moved statistics and gradients of the small towers."""
    mesh = MeshShape().build(jax.devices()[:devices])
    towers = Towers(dropout)
    variables = towers.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, *batch)
    rows = PartitionSpec(BATCH_AXES)
    compare = jax.shard_map(
        partial(contrastive_loss, axis_names=BATCH_AXES), mesh=mesh,
        in_specs=(rows, rows, PartitionSpec()), out_specs=PartitionSpec(),
    )  # fmt: skip

    def loss(params, batch):
        def embed(rows, key):
            embeddings, moved = towers.apply(
                {**variables, "params": params}, *rows, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return embeddings, moved["batch_stats"]

        embeddings, statistics = in_micro_batches(embed, batch, jax.random.key(3), count=count, mesh=mesh)
        return compare(*embeddings, jnp.float32(0.1)).loss, (statistics, embeddings)

    placed = place_batch(jax.tree.map(np.asarray, batch), batch_sharding(mesh))
    return jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"], placed))


def assert_close(found, wanted, tolerance=1e-6):
    """Relative to the largest entry of every leaf."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=jax.tree_util.keystr(path))


def without_bias_before_batch_norm(gradients):
    """Its gradient is zero but for rounding."""
    return {**gradients, "Conv_0": {"kernel": gradients["Conv_0"]["kernel"]}}


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_micro_batches_give_the_gradient_of_the_full_batch(batch, count, devices):
    (value, (statistics, embeddings)), gradients = value_and_gradients(batch, count, devices)
    (wanted, (wanted_statistics, wanted_embeddings)), wanted_gradients = value_and_gradients(batch, 1)
    assert value == pytest.approx(float(wanted), rel=1e-6)
    assert_close(embeddings, wanted_embeddings)
    assert_close(statistics, wanted_statistics)
    assert_close(without_bias_before_batch_norm(gradients), without_bias_before_batch_norm(wanted_gradients))


def test_both_passes_draw_the_same_dropout(batch, monkeypatch):
    """Against parts that are embedded once, with everything kept for the gradient."""
    (value, _), gradients = value_and_gradients(batch, 4, dropout=0.5)

    def kept(embed, batch, key, *, count, mesh):
        del mesh
        parts = [
            embed(jax.tree.map(lambda rows, at=part: jnp.split(rows, count)[at], batch), jax.random.fold_in(key, part))
            for part in range(count)
        ]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[embeddings for embeddings, _ in parts]), None

    monkeypatch.setattr("tests.training.test_micro_batches.in_micro_batches", kept)
    (wanted, _), wanted_gradients = value_and_gradients(batch, 4, dropout=0.5)
    assert value == pytest.approx(float(wanted), rel=1e-6)
    assert_close(without_bias_before_batch_norm(gradients), without_bias_before_batch_norm(wanted_gradients))


def test_nothing_of_the_towers_is_kept_between_the_passes(batch):
    """What the second pass needs of the first are parameters, the batch and the number of the part."""
    mesh = MeshShape().build(jax.devices()[:1])

    def embed(rows, key):
        hidden = jnp.tanh(rows[1] @ jnp.ones((6, 1000)))
        return hidden @ jnp.ones((1000, 12)), {}

    def loss(scale):
        scaled = (batch[0], batch[1] * scale)
        return jnp.sum(in_micro_batches(embed, scaled, jax.random.key(0), count=4, mesh=mesh)[0])

    shapes = [value.aval.shape for value in jax.make_jaxpr(jax.grad(loss))(1.0).eqns for value in value.outvars]
    assert not [shape for shape in shapes if 1000 in shape and shape != (6, 1000) and shape != (1000, 12)]


def test_rows_stay_on_their_device():
    """The rows of a part are already where they are computed, and its embeddings where they are compared."""
    mesh = MeshShape().build()
    rows = jax.ShapeDtypeStruct((BATCH, 12), jnp.float32, sharding=batch_sharding(mesh))

    def embed(rows, key):
        return jnp.tanh(rows), {}

    def loss(rows):
        return jnp.sum(jnp.square(in_micro_batches(embed, rows, jax.random.key(0), count=4, mesh=mesh)[0]))

    compiled = jax.jit(jax.grad(loss), out_shardings=batch_sharding(mesh)).lower(rows).compile().as_text()
    for kind in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter", "all-reduce"):
        assert f" {kind}(" not in compiled


def test_the_whole_model_in_micro_batches_has_the_gradient_of_the_full_batch():
    """Relative to the largest entry of all: some gradients are zero but for rounding, those of key biases for one."""
    channels = {"in_channels": (32, 8, 16), "out_channels": (8, 16, 16)}
    vision = AlignVisionConfig.tiny(image_size=17, drop_connect_rate=0.0, **channels)
    text = AlignTextConfig.tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_hidden_layers=1)
    model = AlignConfig.of_towers(vision, text, projection_dim=16, temperature_init_value=0.2)
    whole = Contrastive(model=model, batch_norm_group_size=2)
    variables = jax.jit(whole.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    ids = rng.integers(1, text.vocab_size, (64, 5)).astype(np.int32)
    pairs = PairBatch(rng.integers(0, 256, (64, 17, 17, 3), dtype=np.uint8), ids, np.ones_like(ids))

    def gradients(task, devices):
        mesh = MeshShape().build(jax.devices()[:devices])

        def loss(params, batch):
            variables_now = {"params": params, "batch_stats": variables["batch_stats"]}
            return task.loss(variables_now, batch, jax.random.key(1), mesh)

        placed = place_batch(pairs, batch_sharding(mesh))
        (_, (statistics, _)), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"], placed)
        return jax.device_get((found, statistics))

    found, statistics = gradients(dataclasses.replace(whole, accumulation=4), devices=8)
    wanted, wanted_statistics = gradients(whole, devices=1)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * largest)
    for a, b in zip(jax.tree.leaves(statistics), jax.tree.leaves(wanted_statistics), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_batches_that_do_not_divide_into_groups_name_sizes_that_do():
    with pytest.raises(ConfigurationError, match=r"batch_size 48 on 8 devices in 2 micro-batches .* use 64"):
        check_micro_batches(48, 2, 4, shards=8)
    with pytest.raises(ConfigurationError, match=r"batch_size 100 on 1 device in 2 .* use 96 or 104"):
        check_micro_batches(100, 2, 4)
    check_micro_batches(64, 2, 4, shards=8)
    check_micro_batches(100, 1, 4, shards=8)


def test_micro_batches_without_groups_are_refused():
    with pytest.raises(ConfigurationError, match="set batch_norm_group_size"):
        Contrastive(model=AlignConfig.tiny(), accumulation=2, batch_norm_group_size=None)
    with pytest.raises(ConfigurationError, match="accumulation 0 is not positive"):
        Contrastive(model=AlignConfig.tiny(), accumulation=0)


def test_chunk_size_without_chunks_is_refused():
    with pytest.raises(ConfigurationError, match="no meaning in the ring form"):
        Contrastive(model=AlignConfig.tiny(), loss_form="ring", chunk_size=64)
    with pytest.raises(ConfigurationError, match="chunk_size -1 is not positive"):
        Contrastive(model=AlignConfig.tiny(), loss_form="chunked", chunk_size=-1)
