"""The activations that a configuration may name; `align_jax.models.activations` computes them."""

from typing import Literal

HiddenAct = Literal[
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6",
    "selu", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh",
]  # fmt: skip
