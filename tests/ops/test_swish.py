"""The fast swish is swish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.ops.swish import swish


def test_everywhere_close_to_the_definition() -> None:
    x = np.concatenate([np.linspace(-30, 30, 1_000_001), [-1e20, -100.0, 100.0, 1e30, 0.0, -0.0]]).astype(np.float32)
    with np.errstate(over="ignore"):
        exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    found = np.asarray(jax.jit(swish)(x))
    assert np.max(np.abs(found - exact) / np.maximum(np.abs(exact), 1e-6)) < 2e-6


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(value) -> None:
    np.testing.assert_array_equal(jax.jit(swish)(jnp.array([value], jnp.float32)), [value])


def test_the_type_stays() -> None:
    x = jnp.array([-2.0, 0.5, 3.0], jnp.bfloat16)
    assert swish(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(swish(x).astype(np.float32), jax.nn.silu(x.astype(np.float32)), rtol=2**-8)
