"""Random weights for a new model, from the distributions that its modules draw from.

The modules' own initialisation takes XLA a minute to compile for the released size, since every parameter is a random
draw of its own; NumPy needs a few seconds. The numbers drawn are others.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, ViTConfig
from align_jax.conversion.architectures import architecture_of

Config = AlignConfig | AlignTextConfig | AlignVisionConfig | ViTConfig

_CONSTANTS = {"bias": 0.0, "mean": 0.0, "scale": 1.0, "var": 1.0}
_TRUNCATED_STD = 0.8796  # of a standard normal variable between -2 and 2


def random_variables(config: Config, seed: int, param_dtype: Any = jnp.float32) -> dict[str, Any]:
    """Variables of a model of any kind; equal seeds give equal weights."""
    rng = np.random.default_rng(seed)
    abstract = architecture_of(config.model_type).abstract_variables(config, param_dtype)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names = tuple(entry.key for entry in path[1:])  # without the collection
        return jnp.asarray(_values(names, leaf.shape, config, rng), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def _values(names: tuple[str, ...], shape: tuple[int, ...], config: Config, rng: np.random.Generator) -> Any:
    if names[-1] in _CONSTANTS:
        return np.full(shape, _CONSTANTS[names[-1]], np.float32)
    if isinstance(config, AlignConfig):
        if names == ("temperature",):
            return config.temperature_init_value
        if names[0] in ("image_projection", "text_projection"):
            return _glorot_uniform(shape, rng)
        tower = config.vision_config if names[0] == "image" else config.text_config
        return _values(names[1:], shape, tower, rng)
    if isinstance(config, AlignVisionConfig):
        return _by_fan_out(shape, rng)
    if isinstance(config, ViTConfig):
        return _of_patches(names, shape, rng)
    values = rng.standard_normal(shape, np.float32) * np.float32(config.initializer_range)
    if names == ("embeddings", "word", "embedding") and config.pad_token_id is not None:
        values[config.pad_token_id] = 0.0  # as in `transformers`
    return values


def _of_patches(names: tuple[str, ...], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A Vision Transformer's, see `models/vit.py`."""
    if names[-1] == "class_token" or names[-2] == "classifier":
        return np.zeros(shape, np.float32)
    if names[-1] == "position":
        return rng.standard_normal(shape, np.float32) * np.float32(0.02)
    if names[-2] == "patches":
        return _glorot_uniform(shape, rng)
    return _truncated_normal(shape, rng) * np.float32(math.sqrt(2.0 / sum(shape)) / _TRUNCATED_STD)


def _glorot_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    limit = math.sqrt(6.0 / (math.prod(shape[:-2]) * sum(shape[-2:])))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def _by_fan_out(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Truncated normal of variance 2 / fan-out, which for a depthwise kernel (k, k, 1, C) is that of one filter."""
    depthwise = len(shape) == 4 and shape[2] == 1
    fan_out = math.prod(shape[:2]) if depthwise else math.prod(shape) // shape[-2]
    return _truncated_normal(shape, rng) * np.float32(math.sqrt(2.0 / fan_out) / _TRUNCATED_STD)


def _truncated_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Standard normal, but between -2 and 2."""
    values = rng.standard_normal(shape, np.float32)
    outside = np.flatnonzero(np.abs(values) > 2.0)
    while outside.size:
        values.flat[outside] = rng.standard_normal(outside.size, np.float32)
        outside = outside[np.abs(values.flat[outside]) > 2.0]
    return values
