"""Exact gradient accumulation, also for a loss that compares every example with every other.

The gradient of such a loss is not a mean over micro-batches: each embedding's gradient depends on all embeddings. So
all are computed first, one micro-batch at a time and keeping nothing else; the loss over all of them gives the gradient
of each; and a second pass computes every micro-batch again, this time with its gradient (Gao et al., arXiv 2101.06983).
`jax.lax.scan` over a rematerialised body is exactly that, and leaves one path through the loss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from align_jax.configuration import ConfigurationError
from align_jax.parallel.mesh import batch_sharding, batch_shards

Embeddings = TypeVar("Embeddings")
Embed = Callable[[Any, jax.Array], tuple[Embeddings, Any]]


def in_micro_batches(
    embed: Embed[Embeddings], batch: Any, key: jax.Array, *, count: int, mesh: Mesh
) -> tuple[Embeddings, Any]:
    """Embeds a global batch in `count` parts, one after the other.

    Every device splits its own rows, so nothing moves between devices: with rows r0 … r3 on each of two devices, the
    first of two micro-batches is r0, r1 of both. Embeddings come back in the order of the batch.

    Args:
        embed: embeddings (a tree with a row per example) and moved batch statistics, of some rows and a dropout key.
            What it uses besides may be differentiated.
        batch: a tree of arrays with a row per example, sharded over the batch axes.
        key: of dropout. One part takes the key itself, several fold in their number: with dropout, the draws are not
            those of the whole batch, but both passes make the same.
        count: micro-batches; 1 embeds the batch as it is.
        mesh: on which the batch lies.

    Returns:
        The embeddings of the batch, and the mean of the micro-batches' moved statistics. A step moves statistics
        linearly by the mean over groups, so this is the move of the whole batch.
    """
    if count == 1:
        return embed(batch, key)
    shards, rows = batch_shards(mesh), batch_sharding(mesh)

    def keep_in_place(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, rows), tree)

    runs = keep_in_place(jax.tree.map(lambda leaf: leaf.reshape(shards, count, -1, *leaf.shape[1:]), batch))

    # The number of the part, not its rows, is what is kept for the second pass.
    @partial(jax.checkpoint, prevent_cse=False)
    def part(index: jax.Array) -> tuple[Embeddings, Any]:
        of_part = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 1, keepdims=False).reshape(-1, *leaf.shape[3:]), runs
        )
        embeddings, statistics = embed(keep_in_place(of_part), jax.random.fold_in(key, index))
        return keep_in_place(embeddings), statistics

    _, (embeddings, statistics) = jax.lax.scan(lambda _, index: (None, part(index)), None, jnp.arange(count))

    def in_order(leaf: jax.Array) -> jax.Array:
        by_device = leaf.reshape(count, shards, -1, *leaf.shape[2:]).swapaxes(0, 1)
        return by_device.reshape(-1, *leaf.shape[2:])

    embeddings = keep_in_place(jax.tree.map(in_order, embeddings))
    return embeddings, jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), statistics)


def check_micro_batches(batch_size: int, count: int, group_size: int | None, shards: int = 1) -> None:
    """Refuses micro-batches that would not be made of the batch-norm groups of the whole batch.

    Args:
        batch_size: of the global batch.
        count: micro-batches.
        group_size: consecutive examples that share batch-norm statistics, 1 without batch norm; `None` for the whole
            batch.
        shards: devices that share the batch; 1 while they are not known.

    Raises:
        ConfigurationError: with the nearest sizes that would do.
    """
    if count < 1:
        raise ConfigurationError(f"accumulation {count} is not positive; use 1 or more")
    if count == 1:
        return
    if group_size is None:
        raise ConfigurationError(
            f"accumulation {count} splits the batch, over the whole of which batch norm takes its statistics; set "
            "batch_norm_group_size (the released recipe uses 16)"
        )
    unit = shards * count * group_size
    if batch_size % unit:
        lower = batch_size // unit * unit
        choices = f"{lower} or {lower + unit}" if lower else f"{unit}"
        devices = f"{shards} device{'s' if shards > 1 else ''}"
        groups = "" if group_size == 1 else f" into batch-norm groups of {group_size} examples"
        raise ConfigurationError(
            f"batch_size {batch_size} on {devices} in {count} micro-batches does not divide{groups}; use {choices}"
        )
