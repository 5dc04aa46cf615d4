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
    """A pure function that makes the state at step 0."""

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


def compile_init(init: Callable[[], TrainState], abstract: TrainState) -> Callable[[], TrainState]:
    """Jits `init` for the shardings of `abstract`, so that every device makes only its own part."""
    # One random draw per parameter is much to compile for a program that runs once: half of the time goes to passes
    # that would make it faster.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(init, out_shardings=shardings, compiler_options=options)
