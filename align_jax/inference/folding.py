"""Batch norm folded into the convolution before it, for inference.

With running statistics, batch norm is `y * a + b` per channel, `a = scale / sqrt(variance + epsilon)` and
`b = offset - mean * a`. The convolution is linear, so `conv(x, K) * a + b = conv(x, K * a) + b`: the factor goes into
the kernel, and the offset is all that is left of the norm.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from align_jax.configuration import ViTConfig
from align_jax.conversion.architectures import architecture_of

_NORM = "norm"


def fold_batch_norm(variables: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
    """Variables for a model with `batch_norm="folded"`.

    Args:
        variables: `{"params": …, "batch_stats": …}`. A batch norm called `norm` follows the module `conv` beside it,
            and `x_norm` follows `x`.
        epsilon: of the batch norms.

    Returns:
        `{"params": …}` with kernels in the type that they had and offsets in float32; everything else unchanged.

    Raises:
        ValueError: if a batch norm has no convolution to go into.
    """
    return {"params": _folded(variables["params"], variables.get("batch_stats", {}), epsilon, ())}


def inference_variables(config: Any, dtype: Any, variables: Any) -> dict[str, Any]:
    """Variables as the programs of inference take them: folded in float32, then in the types of a model of `dtype`.

    Args:
        config: of the model.
        dtype: of its parameters.
        variables: as those of `fold_batch_norm`.
    """
    images = getattr(config, "vision_config", config)
    # A Vision Transformer has no batch norm: nothing is folded then.
    fold = partial(fold_batch_norm, epsilon=0.0 if isinstance(images, ViTConfig) else images.batch_norm_eps)
    targets = jax.eval_shape(fold, architecture_of(config.model_type).abstract_variables(config, dtype))
    return jax.tree.map(lambda leaf, target: leaf.astype(target.dtype), fold(variables), targets)


def _folded(params: Mapping[str, Any], statistics: Mapping[str, Any], epsilon: float, path: tuple[str, ...]) -> Any:
    folded = {
        name: _folded(child, statistics.get(name, {}), epsilon, (*path, name)) if isinstance(child, Mapping) else child
        for name, child in params.items()
    }
    norms = [name for name, child in statistics.items() if isinstance(child, Mapping) and "mean" in child]
    for name in norms:
        convolution = "conv" if name == _NORM else name.removesuffix(f"_{_NORM}")
        kernel = params.get(convolution, {}).get("kernel") if convolution != name else None
        if kernel is None:
            raise ValueError(f"batch norm {'/'.join((*path, name))} follows no convolution; name it after one")
        factor, offset = _factor_and_offset(params[name], statistics[name], epsilon)
        product = jnp.asarray(kernel, jnp.float32) * factor[None, None, None, :]
        folded[convolution] = {"kernel": product.astype(kernel.dtype)}
        folded[name] = {"bias": offset}
    return folded


def _factor_and_offset(
    norm: Mapping[str, Any], statistics: Mapping[str, Any], epsilon: float
) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
    scale, bias, mean, variance = (
        jnp.asarray(array, jnp.float32)
        for array in (norm["scale"], norm["bias"], statistics["mean"], statistics["var"])
    )
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    return factor, bias - mean * factor
