"""The activations that configurations name, as `transformers` defines them, slopes at their corners included."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from align_jax.ops.swish import swish

_gelu = partial(nn.gelu, approximate=False)
_gelu_tanh = partial(nn.gelu, approximate=True)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation a configuration calls `name`; configurations only hold names that are in the table."""
    return _ACTIVATIONS[name]


def inference_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The same, in the form that is fastest where no gradient is asked for."""
    return swish if name in ("silu", "swish") else activation(name)


def _leaky_relu(x: jax.Array) -> jax.Array:
    """As JAX's, but for the slope at zero, where PyTorch takes that of the negative side."""
    return jnp.where(x > 0, x, 0.01 * x)


def _gelu_10(x: jax.Array) -> jax.Array:
    """GELU, at most 10; its least value, -0.17, is far above the other bound, -10."""
    value = _gelu(x)
    # `jnp.minimum` would halve the slope at 10, where PyTorch has all of it.
    return jnp.where(value > 10, jnp.full_like(x, 10), value)


def _laplace(x: jax.Array) -> jax.Array:
    """A normal distribution's integral (Ma et al., arXiv 2209.10655)."""
    return 0.5 * (1.0 + jax.lax.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _gelu,
    "gelu_10": _gelu_10,
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "hardswish": nn.hard_swish,
    "laplace": _laplace,
    "leaky_relu": _leaky_relu,
    "linear": lambda x: x,
    "mish": lambda x: x * nn.tanh(nn.softplus(x)),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "relu2": lambda x: jnp.square(nn.relu(x)),
    "relu6": nn.relu6,
    "selu": nn.selu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "sqrtsoftplus": lambda x: jnp.sqrt(nn.softplus(x)),
    "swish": nn.silu,
    "tanh": nn.tanh,
}
