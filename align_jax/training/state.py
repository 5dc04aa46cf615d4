"""Everything that a training step changes."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from align_jax.parallel.sharding import tree_shardings


@flax.struct.dataclass
class TrainState:
    """Parameters, statistics and the optimizer's memory after `step` steps."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any  # running average of the parameters; None without one

    def variables(self, *, averaged: bool = True) -> dict[str, Any]:
        """The tree that `Module.apply` takes, with averaged parameters where there are any."""
        params = self.ema_params if averaged and self.ema_params is not None else self.params
        return {"params": params, "batch_stats": self.batch_stats}


def abstract_state(init: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the state, without computing it."""
    shapes = jax.eval_shape(init)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh),
    )


def state_initializer(
    init_variables: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    averaged: bool,
) -> Callable[[], TrainState]:
    """A function that makes the state at step 0; jitted with shardings, every device makes only its own part."""

    def init() -> TrainState:
        variables = init_variables(jax.random.key(seed))
        params = variables["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(params),
            ema_params=jax.tree.map(jnp.copy, params) if averaged else None,
        )

    return init
