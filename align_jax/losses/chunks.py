"""Chunks: some columns of the global batch are brought together at a time, and forgotten before the next."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from align_jax.losses.blocks import (
    Pairs,
    Texts,
    added,
    block_gradient,
    block_of,
    device_count,
    device_place,
    no_gradient,
    varying,
)
from align_jax.losses.objectives import COLUMNS, ROWS, Objective, Statistics

DEFAULT_CHUNK_SIZE = 1024
"""Columns, or the rows of four devices if these are fewer."""

_TILE_ROWS = 8
"""Of a TPU: slices of fewer rows would be gathered into buffers padded to whole tiles."""


class Slices(NamedTuple):
    """How the columns are cut: each chunk has some rows of some devices.

    Attributes:
        devices: that share the batch.
        batch: rows on each.
        owners: devices whose rows are in a chunk.
        rows: that each owner gives; the last slice of a device may have fewer.
    """

    devices: int
    batch: int
    owners: int
    rows: int

    @property
    def of_device(self) -> int:
        """Slices of one device."""
        return -(-self.batch // self.rows)

    @property
    def chunks(self) -> int:
        """Chunks in all."""
        return -(-self.devices // self.owners) * self.of_device


class Slice(NamedTuple):
    """What a device gives to a chunk."""

    first: Int[Array, ""]  # of its rows
    owners: Int[Array, "owners"]  # places of the devices that give something; beyond the last one there are none
    mine: Bool[Array, ""]  # whether this device is among them


def cut(chunk_size: int | None, devices: int, batch: int) -> Slices:
    """Slices of every device where they are a tile or more, otherwise larger slices of some devices.

    Raises:
        ValueError: if a chunk has no columns.
    """
    chunk_size = min(DEFAULT_CHUNK_SIZE, 4 * batch) if chunk_size is None else chunk_size
    if chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} is not positive; use 1 or more")
    if chunk_size >= devices * min(_TILE_ROWS, batch):
        return Slices(devices, batch, devices, min(chunk_size // devices, batch))
    rows = min(chunk_size, batch)
    return Slices(devices, batch, chunk_size // rows, rows)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The columns of the global batch, some at a time.

    Attributes:
        objective: of the logits.
        axis_names: mesh axes the batch is sharded over, major axis first; none for a batch in one place.
        chunk_size: columns of a block at most; a default when absent.
    """

    objective: Objective
    axis_names: tuple[str, ...]
    chunk_size: int | None

    def statistics(self, pairs: Pairs) -> tuple[Statistics, Statistics]:
        """Those of this device's images and of its texts, over the global batch."""
        slices, text = self._cut(pairs)

        def visit(carry: Any, index: Int[Array, ""]) -> tuple[Any, None]:
            rows, columns = carry
            part = self._slice(slices, index)
            block = block_of(pairs, self._gathered(slices, part, text), device_place(self.axis_names))
            rows = self.objective.merge(rows, self.objective.reduce(block, ROWS))
            of_chunk = self.objective.reduce(block, COLUMNS)
            if self.axis_names:
                of_chunk = self.objective.merge_devices(of_chunk, self.axis_names)
            own = jax.tree.map(lambda chunk: self._own(slices, part, chunk), of_chunk)
            return (rows, jax.tree.map(partial(self._put, slices, part), columns, own)), None

        nothing = self.objective.nothing(slices.batch), self.objective.nothing(text.shape[0])
        (rows, columns), _ = jax.lax.scan(visit, varying(nothing, self.axis_names), _numbers(slices))
        return rows, jax.tree.map(lambda leaf: leaf[: slices.batch], columns)

    def gradient(self, pairs: Pairs, rows: Any, columns: Any) -> Pairs:
        """That of this device's loss, given the normalizers of its images and texts."""
        slices, text = self._cut(pairs)
        columns = jax.tree.map(lambda leaf: _filled(leaf, slices), columns)

        def visit(carry: Any, index: Int[Array, ""]) -> tuple[Any, None]:
            total, of_text = carry
            part = self._slice(slices, index)
            texts = self._gathered(slices, part, text)
            block = block_of(pairs, texts, device_place(self.axis_names))
            normalizers = jax.tree.map(lambda leaf: self._gather(slices, part, leaf), columns)
            logits = self.objective.gradient(block, rows, normalizers, slices.devices * slices.batch)
            here, of_chunk = block_gradient(pairs, texts, block, logits)
            of_text = self._put(slices, part, of_text, self._scattered(slices, part, of_chunk))
            return (added(total, here), of_text), None

        zero = varying((no_gradient(pairs), jnp.zeros(text.shape, jnp.float32)), self.axis_names)
        (total, of_text), _ = jax.lax.scan(visit, zero, _numbers(slices))
        return Pairs(total.image, of_text[: slices.batch], total.temperature, total.bias)

    def _cut(self, pairs: Pairs) -> tuple[Slices, Float[Array, "F D"]]:
        """The slices, and this device's texts, filled up to whole slices."""
        slices = cut(self.chunk_size, device_count(self.axis_names), pairs.text.shape[0])
        return slices, _filled(pairs.text, slices)

    def _slice(self, slices: Slices, index: Int[Array, ""]) -> Slice:
        """What this device gives to a chunk."""
        owners = index // slices.of_device * slices.owners + jnp.arange(slices.owners, dtype=jnp.int32)
        first = index % slices.of_device * slices.rows
        return Slice(first, owners, jnp.any(owners == device_place(self.axis_names)))

    def _gathered(self, slices: Slices, part: Slice, text: Float[Array, "F D"]) -> Texts:
        """The columns of a chunk."""
        local = part.first + jnp.arange(slices.rows, dtype=jnp.int32)
        places = (part.owners[:, None] * slices.batch + local[None, :]).reshape(-1)
        valid = (part.owners < slices.devices)[:, None] & (local < slices.batch)[None, :]
        return Texts(self._gather(slices, part, text), places, valid.reshape(-1))

    def _gather(self, slices: Slices, part: Slice, rows: Float[Array, "F *rest"]) -> Float[Array, "C *rest"]:
        """The owners' rows, on every device."""
        given = jax.lax.dynamic_slice_in_dim(rows, part.first, slices.rows)
        if not self.axis_names:
            return given
        if slices.owners == slices.devices:
            return jax.lax.all_gather(given, self.axis_names, tiled=True)
        mine = (part.owners == device_place(self.axis_names)).reshape(-1, *[1] * given.ndim)
        placed = jnp.where(mine, given[None], 0.0)
        return jax.lax.psum(placed.reshape(-1, *given.shape[1:]), self.axis_names)

    def _scattered(self, slices: Slices, part: Slice, gradient: Float[Array, "C D"]) -> Float[Array, "S D"]:
        """The sum over devices, of this device's rows."""
        if not self.axis_names:
            return gradient
        if slices.owners == slices.devices:
            return jax.lax.psum_scatter(gradient, self.axis_names, tiled=True)
        return self._own(slices, part, jax.lax.psum(gradient, self.axis_names))

    def _own(self, slices: Slices, part: Slice, chunk: Float[Array, "C *rest"]) -> Float[Array, "S *rest"]:
        """The rows of a chunk that are this device's; any rows where it gives none."""
        place = device_place(self.axis_names) - part.owners[0]
        return jax.lax.dynamic_slice_in_dim(chunk, place * slices.rows, slices.rows)

    def _put(
        self, slices: Slices, part: Slice, whole: Float[Array, "F *rest"], own: Float[Array, "S *rest"]
    ) -> Float[Array, "F *rest"]:
        """All rows of this device, with those of a chunk written if there are any."""
        before = jax.lax.dynamic_slice_in_dim(whole, part.first, slices.rows)
        return jax.lax.dynamic_update_slice_in_dim(whole, jnp.where(part.mine, own, before), part.first, 0)


def _numbers(slices: Slices) -> Int[Array, "N"]:
    return jnp.arange(slices.chunks, dtype=jnp.int32)


def _filled(rows: Float[Array, "B *rest"], slices: Slices) -> Float[Array, "F *rest"]:
    """The rows with zeros behind them, to whole slices."""
    missing = slices.of_device * slices.rows - slices.batch
    return jnp.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
