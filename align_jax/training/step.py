"""One training step: gradient of the task's loss, optimizer, averages. The only step function there is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from align_jax.parallel.distributed import barrier
from align_jax.parallel.mesh import batch_shards
from align_jax.parallel.sharding import whole_over_fsdp
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import exponential_moving_average
from align_jax.training.state import TrainState

StepFunction = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def train_step(experiment: Experiment, optimizer: optax.GradientTransformation, mesh: Mesh) -> StepFunction:
    """The step as a pure function of the state and a global batch; the caller jits it with shardings.

    Its randomness is `fold_in(key(seed), step)`, so nothing about randomness is part of the state.

    Raises:
        ValueError: if the batch does not divide over the mesh the way the task needs it.
    """
    experiment.task.check_batch_size(experiment.batch_size, batch_shards(mesh))

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(experiment.seed), state.step)

        def loss(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            trained = experiment.optimizer.without_frozen_gradients(params)
            variables = {"params": whole_over_fsdp(trained, mesh), "batch_stats": state.batch_stats}
            return experiment.task.loss(variables, batch, key, mesh)

        (value, (batch_stats, shown)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = experiment.task.constrain(optax.apply_updates(state.params, updates))
        ema_params = state.ema_params
        if experiment.ema_decay is not None:
            ema_params = exponential_moving_average(ema_params, params, experiment.ema_decay, state.step)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)} | shown
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema_params), metrics

    return skip_non_finite(step) if experiment.non_finite.action == "skip" else step


def compile_step(step: StepFunction, state: TrainState, batch_sharding: Any) -> StepFunction:
    """Jits a step for a state (of arrays or of abstract arrays) whose memory the new state takes over."""
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        step,
        in_shardings=(state_shardings, batch_sharding),
        out_shardings=(state_shardings, None),
        donate_argnums=0,
    )


def compile_together(step: Any, state: TrainState, batch: Any) -> StepFunction:
    """Of several processes, compiles `step` for this state and batch and waits until all of them have.

    Where one process starts to run its first collectives long before another has compiled them, they give up (on CPU
    after 30 s). A single process compiles when it first calls the step.
    """
    if jax.process_count() == 1 or isinstance(step, jax.stages.Compiled):
        return step
    compiled = step.lower(state, batch).compile()
    barrier("the first step")
    return compiled


def skip_non_finite(step: StepFunction) -> StepFunction:
    """A step that changes nothing but the count of steps where its loss or gradient is not a number."""

    def guarded(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        moved, metrics = step(state, batch)
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state)
        return kept.replace(step=moved.step), metrics

    return guarded
