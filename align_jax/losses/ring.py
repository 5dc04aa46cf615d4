"""The ring: the texts of every device travel past the images of every other, one device a step.

Their statistics travel with them, and in the gradient theirs: after as many steps as there are devices, both are home.
No device holds more than its own rows and one visiting block.
"""

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
    varying,
)
from align_jax.losses.objectives import COLUMNS, ROWS, Objective, Statistics


@dataclasses.dataclass(frozen=True)
class Ring:
    """The devices of one or more mesh axes, in a circle.

    Attributes:
        objective: of the logits.
        axis_names: mesh axes the batch is sharded over, major axis first; none is a ring of one.
    """

    objective: Objective
    axis_names: tuple[str, ...]

    def statistics(self, pairs: Pairs) -> tuple[Statistics, Statistics]:
        """Those of this device's images and of its texts, over the global batch."""

        def visit(carry: Any, step: Int[Array, ""]) -> tuple[Any, None]:
            rows, visitors, columns = carry
            block = block_of(pairs, self._texts(visitors, step), device_place(self.axis_names))
            rows = self.objective.merge(rows, self.objective.reduce(block, ROWS))
            columns = self.objective.merge(columns, self.objective.reduce(block, COLUMNS))
            return (rows, *self._passed_on((visitors, columns))), None

        nothing = varying(self.objective.nothing(pairs.image.shape[0]), self.axis_names)
        (rows, _, columns), _ = jax.lax.scan(visit, (nothing, pairs.text, nothing), self._steps())
        return rows, columns

    def gradient(self, pairs: Pairs, rows: Any, columns: Any) -> Pairs:
        """That of this device's loss, given the normalizers of its images and texts."""

        def visit(carry: Any, step: Int[Array, ""]) -> tuple[Any, None]:
            total, visitors, columns, text = carry
            texts = self._texts(visitors, step)
            block = block_of(pairs, texts, device_place(self.axis_names))
            logits = self.objective.gradient(block, rows, columns, device_count(self.axis_names) * pairs.image.shape[0])
            here, of_visitors = block_gradient(pairs, texts, block, logits)
            return (added(total, here), *self._passed_on((visitors, columns, text + of_visitors))), None

        zero = varying(no_gradient(pairs), self.axis_names)
        (total, _, _, text), _ = jax.lax.scan(visit, (zero, pairs.text, columns, zero.image), self._steps())
        return Pairs(total.image, text, total.temperature, total.bias)

    def _steps(self) -> Int[Array, "P"]:
        return jnp.arange(device_count(self.axis_names), dtype=jnp.int32)

    def _texts(self, visitors: Float[Array, "B D"], step: Int[Array, ""]) -> Texts:
        """Who is here: each step brings the texts of the next device."""
        batch = visitors.shape[0]
        home = (device_place(self.axis_names) + step) % device_count(self.axis_names)
        places = home * batch + jnp.arange(batch, dtype=jnp.int32)
        return Texts(visitors, places, jnp.ones(batch, bool))

    def _passed_on(self, tree: Any) -> Any:
        """What the next device held."""
        devices = device_count(self.axis_names)
        if devices == 1:
            return tree
        return jax.lax.ppermute(tree, self.axis_names, [(place, (place - 1) % devices) for place in range(devices)])
