"""A state of a few arrays, and steps of it on disk."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from align_jax.checkpoints import Checkpoints


def state(step: int) -> dict[str, Any]:
    kernel = jnp.arange(16.0).reshape(8, 2) + step
    return {
        "step": jnp.int32(step),
        "params": {"kernel": kernel, "bias": jnp.full(2, step, jnp.float32)},
        "batch_stats": {},
        "opt_state": {"mu": kernel / 2},
        "ema_params": None,
    }


def position(step: int) -> dict[str, Any]:
    return {"seed": 0, "examples": 32 * step}


def abstract(tree: Any, sharding: Any = None) -> Any:
    place = sharding or SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)


def save(directory: Path, *steps: int, **options: Any) -> None:
    """Saves the steps after what is there."""
    with Checkpoints(directory, **options) as checkpoints:
        checkpoints.restore(abstract(state(0)))
        for step in steps:
            checkpoints.save(step, state(step), position(step))


def restore(directory: Path, **options: Any) -> Any:
    with Checkpoints(directory, **options) as checkpoints:
        return checkpoints.restore(abstract(state(0)))


def assert_is_step(restored: Any, step: int) -> None:
    assert (restored.step, restored.position) == (step, position(step))
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(step))


def steps_on_disk(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every file and folder below a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }
