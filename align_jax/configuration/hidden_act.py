"""The activations that a configuration may name; `align_jax.models.activations` computes them."""

from typing import Literal

HiddenAct = Literal[
    "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu6", "silu", "swish", "tanh",
    "sigmoid", "linear", "selu", "mish",
]  # fmt: skip
