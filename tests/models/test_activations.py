"""Activations and their slopes equal those of `transformers`."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.activations import ACT2CLS, ACT2FN

from align_jax.configuration import AlignTextConfig, AlignVisionConfig, ConfigurationError
from align_jax.configuration.hidden_act import HiddenAct
from align_jax.models.activations import activation

NAMES = get_args(HiddenAct)
# The documentation of ALIGN's text tower names SELU, which `transformers` itself cannot look up.
REFERENCES = {name: ACT2FN[name] if name in ACT2CLS else {"selu": torch.nn.SELU()}[name] for name in NAMES}
NAMES_OF_4_37 = {
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "laplace",
    "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
}  # fmt: skip
CORNERS = (-10.0, -3.0, 0.0, 3.0, 6.0, 10.0)
POINTS = np.concatenate([np.linspace(-30, 30, 4001), CORNERS]).astype(np.float32)

pytestmark = pytest.mark.optimized


def test_every_name_of_transformers_is_computed_or_refused() -> None:
    parametric = {name for name, kind in ACT2CLS.items() if list(_module(kind).parameters())}
    assert ACT2CLS.keys() - parametric <= set(NAMES), transformers.__version__
    assert set(NAMES) >= NAMES_OF_4_37
    assert parametric == {"prelu", "xielu"}
    for name in parametric:
        for config in (AlignTextConfig, AlignVisionConfig):
            with pytest.raises(ConfigurationError, match=f"hidden_act '{name}' has parameters of its own, .*; use one"):
                config.from_dict({"hidden_act": name})


def _module(kind: Any) -> torch.nn.Module:
    kind, options = kind if isinstance(kind, tuple) else (kind, {})
    return kind(**options)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_slope_equal_those_of_transformers(name: str) -> None:
    x = torch.tensor(POINTS, requires_grad=True)
    expected = REFERENCES[name](x)
    expected.sum().backward()
    assert x.grad is not None
    values, slopes_of = jax.vjp(jax.jit(activation(name)), jnp.asarray(POINTS))
    (slopes,) = slopes_of(jnp.ones_like(values))
    np.testing.assert_allclose(values, expected.detach().numpy(), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(slopes, x.grad.numpy(), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_bfloat16_and_nan_stays_nan(name: str) -> None:
    values = activation(name)(jnp.asarray([1.0, jnp.nan], jnp.bfloat16))
    assert values.dtype == jnp.bfloat16
    assert jnp.isnan(values).tolist() == [False, True]
