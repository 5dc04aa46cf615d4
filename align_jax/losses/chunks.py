"""Chunks: a slice of every device's texts is gathered at a time, and forgotten before the next."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from align_jax.losses.blocks import (
    Pairs,
    Texts,
    added,
    block_gradient,
    block_of,
    device_count,
    device_place,
    no_gradient,
    stacked,
    varying,
)
from align_jax.losses.objectives import COLUMNS, ROWS, Objective, Statistics

DEFAULT_CHUNK_SIZE = 1024
"""Columns; where there are more devices, one column of each."""


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The columns of the global batch, some at a time.

    Attributes:
        objective: of the logits.
        axis_names: mesh axes the batch is sharded over, major axis first; none for a batch in one place.
        chunk_size: columns of a block, rounded down to a multiple of the devices.
    """

    objective: Objective
    axis_names: tuple[str, ...]
    chunk_size: int | None

    def statistics(self, pairs: Pairs) -> tuple[Statistics, Statistics]:
        """Those of this device's images and of its texts, over the global batch."""
        size = self._slice_size(pairs)

        def visit(rows: Statistics, part: Any) -> tuple[Statistics, Statistics]:
            block = block_of(pairs, self._gathered(part, pairs), device_place(self.axis_names))
            rows = self.objective.merge(stacked(rows, self.objective.reduce(block, ROWS)))
            return rows, self._of_all_devices(self.objective.reduce(block, COLUMNS))

        nothing = varying(self.objective.nothing(pairs.image.shape[0]), self.axis_names)
        rows, columns = jax.lax.scan(visit, nothing, self._slices(pairs.text, size))
        return rows, _joined(columns, pairs)

    def gradient(self, pairs: Pairs, rows: Any, columns: Any) -> Pairs:
        """That of this device's loss, given the normalizers of its images and texts."""
        size = self._slice_size(pairs)
        count = device_count(self.axis_names) * pairs.image.shape[0]

        def visit(total: Any, part: Any) -> tuple[Any, Float[Array, "S D"]]:
            (index, text), normalizer = part
            texts = self._gathered((index, text), pairs)
            block = block_of(pairs, texts, device_place(self.axis_names))
            logits = self.objective.gradient(block, rows, jax.tree.map(self._all_gather, normalizer), count)
            here, of_texts = block_gradient(pairs, texts, block, logits)
            return added(total, here), self._scattered(of_texts)

        zero = varying(no_gradient(pairs), self.axis_names)
        normalizers = jax.tree.map(lambda leaf: self._slices(leaf, size)[1], columns)
        total, text = jax.lax.scan(visit, zero, (self._slices(pairs.text, size), normalizers))
        return Pairs(total.image, _joined(text, pairs), total.temperature, total.bias)

    def _slice_size(self, pairs: Pairs) -> int:
        """Rows that each device gives to a chunk."""
        devices = device_count(self.axis_names)
        chunk_size = max(DEFAULT_CHUNK_SIZE, devices) if self.chunk_size is None else self.chunk_size
        if chunk_size < devices:
            raise ValueError(
                f"chunk_size {chunk_size} is less than the {devices} devices, each of which gives a column; use "
                f"{devices} or more, or the ring form"
            )
        return min(chunk_size // devices, pairs.text.shape[0])

    def _slices(self, rows: Float[Array, "B *rest"], size: int) -> tuple[Int[Array, "N"], Float[Array, "N S *rest"]]:
        """Runs of this device's rows, the last one filled up with zeros, and their numbers."""
        count = -(-rows.shape[0] // size)
        filled = jnp.pad(rows, [(0, count * size - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1))
        return jnp.arange(count, dtype=jnp.int32), filled.reshape(count, size, *rows.shape[1:])

    def _gathered(self, part: tuple[Int[Array, ""], Float[Array, "S D"]], pairs: Pairs) -> Texts:
        """One slice of every device."""
        index, text = part
        size, batch = text.shape[0], pairs.text.shape[0]
        local = index * size + jnp.arange(size, dtype=jnp.int32)
        first = batch * jnp.arange(device_count(self.axis_names), dtype=jnp.int32)
        places = (first[:, None] + local[None, :]).reshape(-1)
        valid = jnp.tile(local < batch, device_count(self.axis_names))
        return Texts(self._all_gather(text), places, valid)

    def _all_gather(self, leaf: Float[Array, "S *rest"]) -> Float[Array, "C *rest"]:
        return jax.lax.all_gather(leaf, self.axis_names, tiled=True) if self.axis_names else leaf

    def _scattered(self, gradient: Float[Array, "C D"]) -> Float[Array, "S D"]:
        """The sum over devices, of this device's slice."""
        return jax.lax.psum_scatter(gradient, self.axis_names, tiled=True) if self.axis_names else gradient

    def _of_all_devices(self, columns: Statistics) -> Statistics:
        """Statistics of this device's slice, merged over the images of all devices."""
        if not self.axis_names:
            return columns
        devices = device_count(self.axis_names)
        by_owner = jax.tree.map(lambda leaf: leaf.reshape(devices, -1), columns)
        return self.objective.merge(jax.lax.all_to_all(by_owner, self.axis_names, split_axis=0, concat_axis=0))


def _joined(slices: Any, pairs: Pairs) -> Any:
    """The rows of all slices, without those that filled the last one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: pairs.text.shape[0]], slices)
