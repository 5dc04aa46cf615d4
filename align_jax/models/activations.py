"""The activations that configurations name, as `transformers` defines them."""

from collections.abc import Callable
from functools import partial

import jax
from flax import linen as nn

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": partial(nn.gelu, approximate=True),
    "gelu_fast": partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "relu6": nn.relu6,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "linear": lambda x: x,
    "selu": nn.selu,
    "mish": lambda x: x * nn.tanh(nn.softplus(x)),
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation a configuration calls `name`; configurations only hold names that are in the table."""
    return _ACTIVATIONS[name]
