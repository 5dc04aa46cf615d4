"""Tensors of torch in and out, for code that was written for the PyTorch model; torch itself is never imported here.

Whoever passes a tensor has imported torch already, so it is found among the loaded modules.
"""

import sys
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Tree = TypeVar("Tree")


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor of torch, or of a class derived from it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(tensor: Any) -> np.ndarray:
    """The numbers of a tensor on any device; bfloat16, which NumPy lacks, becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def like_the_inputs(tree: Tree, *inputs: Any) -> Tree:
    """Every array of a tree as a tensor on the device of the first tensor among the inputs; as it is without one."""
    tensors = [value for value in inputs if is_tensor(value)]
    if not tensors:
        return tree
    return jax.tree.map(lambda array: _to_tensor(array).to(tensors[0].device), tree)


def _to_tensor(array: jax.Array) -> Any:
    torch: Any = sys.modules["torch"]
    host = np.array(array)  # a copy, because a tensor may be written to
    if host.dtype == jnp.bfloat16:
        return torch.from_numpy(host.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(host)
