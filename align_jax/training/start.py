"""Trained weights that a run starts from: for fine-tuning, linear evaluation, and locked-image tuning.

Parameters are found by their paths. What a task adds to the source begins anew and has to be named, so that a run never
starts from less than was meant; what the source has beyond the task, such as the head of its pre-training, is left out,
and said.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from align_jax.configuration import ConfigurationError
from align_jax.conversion.model_folder import read_model
from align_jax.models.position_embeddings import interpolate_positions
from align_jax.parallel.sharding import path_name
from align_jax.training.state import TrainState

# Where the parameters of a tower by itself stand in the whole model.
_TOWERS = {
    "align_vision_model": "image", "vit": "image", "efficientnet": "image", "align_text_model": "text", "bert": "text",
}  # fmt: skip
_POSITIONS = "image/embeddings/position"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run takes its first parameters and batch statistics from.

    Attributes:
        source: a model folder, a workdir (its averaged parameters where there are any), or an id of the Hub. A tower by
            itself serves as the tower of a whole model.
        fresh: patterns of parameter paths that begin anew, such as `^classifier/`.
    """

    source: str
    fresh: tuple[str, ...] = ()


class Started(NamedTuple):
    """A state with weights of a source, and what is to be said of it."""

    state: TrainState
    note: str


def start_from(start: Start, state: TrainState, positions: Callable[[jax.Array, int], jax.Array]) -> Started:
    """Puts a source's weights into a state at step 0; the optimizer has not seen them yet.

    Args:
        start: names the source.
        state: of the run.
        positions: brings a table of position embeddings to another number of rows.

    Raises:
        ConfigurationError: if the source lacks a parameter that is not fresh, or has it in another shape, or a pattern
            of `fresh` is found nowhere.
        FileNotFoundError, ValueError: as `read_model`.
    """
    model = read_model(start.source)
    tower = _TOWERS.get(model.config.model_type) if not getattr(model.config, "id2label", ()) else None
    found = {
        kind: {f"{tower}/{name}" if tower else name: leaf for name, leaf in _by_path(tree).items()}
        for kind, tree in model.variables.items()
    }
    parameters = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    unmatched = [pattern for pattern in start.fresh if not any(re.search(pattern, name) for name in parameters)]
    if unmatched:
        raise ConfigurationError(f"start.fresh: no parameter's path contains {', '.join(map(repr, unmatched))}")
    taken: set[str] = set()
    problems: list[str] = []

    def replaced(kind: str, tree: Any) -> Any:
        return _replaced(tree, found.get(kind, {}), start.fresh, positions, taken, problems)

    params, batch_stats = replaced("params", state.params), replaced("batch_stats", state.batch_stats)
    if problems:
        raise ConfigurationError(
            f"{start.source} does not fit the model: {'; '.join(problems[:5])}"
            f"{f', and {len(problems) - 5} more' if len(problems) > 5 else ''}; name what begins anew in start.fresh"
        )
    averaged = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    left_out = sorted({name for names in found.values() for name in names} - taken)
    note = f"{len(taken)} arrays from {start.source}"
    if left_out:
        note += f"; not taken: {', '.join(left_out[:5])}{', …' if len(left_out) > 5 else ''}"
    return Started(dataclasses.replace(state, params=params, batch_stats=batch_stats, ema_params=averaged), note)


def positions_of(config: Any) -> Callable[[jax.Array, int], jax.Array]:
    """How a model's position embeddings are brought to its size, by the formula of its configuration."""
    vision = getattr(config, "vision_config", config)

    def resized(table: jax.Array, rows: int) -> jax.Array:
        side = round((rows - 1) ** 0.5)
        return interpolate_positions(table, (side, side), vision.position_interpolation)

    return resized


def _by_path(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _replaced(
    tree: Any,
    found: Mapping[str, Any],
    fresh: tuple[str, ...],
    positions: Callable[[jax.Array, int], jax.Array],
    taken: set[str],
    problems: list[str],
) -> Any:
    """The tree with the source's leaves, in its own types and on its own devices."""

    def of_leaf(path: Any, leaf: jax.Array) -> jax.Array:
        name = path_name(path)
        if any(re.search(pattern, name) for pattern in fresh):
            return leaf
        if name not in found:
            problems.append(f"it has no {name}")
            return leaf
        value = jnp.asarray(found[name])
        if name == _POSITIONS and value.shape != leaf.shape and value.shape[1:] == leaf.shape[1:]:
            value = positions(value, leaf.shape[0])
        if value.shape != leaf.shape:
            problems.append(f"{name} is {list(value.shape)} there and {list(leaf.shape)} in the model")
            return leaf
        taken.add(name)
        host = np.asarray(value.astype(leaf.dtype))  # every process has read the whole source
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: host[index])

    return jax.tree_util.tree_map_with_path(of_leaf, tree)
