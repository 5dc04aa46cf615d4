"""Batch-norm groups: their number, their moments, and a gradient that loses nothing to `stop_gradient`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.ops.batch_norm import GroupMoments, group_count, group_moments, normalize

EPSILON = 1e-3
SCALE, OFFSET = jnp.array([1.5, 0.5, -2.0]), jnp.array([0.25, -1.0, 0.0])


def features(batch: int = 12, mean: float = 3.0) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, 2.0, (batch, 4, 3, 3)).astype(np.float32)


def normalize_in_groups(images: jax.Array, group_size: int | None) -> jax.Array:
    return normalize(images, group_moments(images, group_size), SCALE, OFFSET, EPSILON)


def textbook(images: jax.Array, group_size: int | None) -> jax.Array:
    """The definition, differentiated through mean and variance."""
    size = group_size or len(images)
    parts = []
    for start in range(0, len(images), size):
        group = images[start : start + size]
        mean = group.mean((0, 1, 2), keepdims=True)
        variance = ((group - mean) ** 2).mean((0, 1, 2), keepdims=True)
        parts.append((group - mean) / jnp.sqrt(variance + EPSILON) * SCALE[None, None, None] + OFFSET[None, None, None])
    return jnp.concatenate(parts)


@pytest.mark.parametrize(
    ("batch", "group_size", "count"), [(12, 4, 3), (12, 1, 12), (12, 12, 1), (12, 16, 1), (12, None, 1)]
)
def test_number_of_groups(batch: int, group_size: int | None, count: int) -> None:
    assert group_count(batch, group_size) == count


@pytest.mark.parametrize("group_size", [0, -4])
def test_group_without_examples_is_refused(group_size: int) -> None:
    with pytest.raises(ValueError, match=f"group size {group_size} is not positive; use 1 or more, or None"):
        group_count(12, group_size)
    with pytest.raises(ValueError, match=f"group size {group_size} is not positive"):
        group_moments(jnp.asarray(features()), group_size)


def test_uneven_groups_are_refused_with_sizes_that_would_do() -> None:
    with pytest.raises(ValueError, match=r"batch size 12 is not a multiple of .* group size 5; use 10 or 15"):
        group_count(12, 5)


@pytest.mark.parametrize("group_size", [1, 4, 12, 16, None])
def test_moments_are_those_of_each_run_of_examples(group_size: int | None) -> None:
    images = features(mean=300.0)  # beside a spread of 2, E[x^2] - m^2 in float32 is wrong in the third digit
    groups = group_count(12, group_size)
    moments = group_moments(jnp.asarray(images), group_size)
    runs = images.astype(np.float64).reshape(groups, -1, 3)
    np.testing.assert_allclose(moments.mean, runs.mean(1), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, runs.var(1), rtol=1e-4)


@pytest.mark.parametrize("group_size", [4, None])
def test_gradient_is_that_of_the_textbook(group_size: int | None) -> None:
    images = jnp.asarray(features())
    # Random weights: the sum itself, and its square, hardly change when the input of a normalisation does.
    weights = jnp.asarray(np.random.default_rng(1).normal(size=images.shape).astype(np.float32))

    def gradient(form: object) -> jax.Array:
        return jax.jit(jax.grad(lambda x: jnp.sum(form(x, group_size) * weights)))(images)

    np.testing.assert_allclose(normalize_in_groups(images, group_size), textbook(images, group_size), atol=2e-6)
    ours, expected = gradient(normalize_in_groups), gradient(textbook)
    assert float(jnp.abs(expected).max()) > 0.5
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_gradient_of_the_variance_itself_is_complete() -> None:
    images = jnp.asarray(features())
    ours = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sqrt(group_moments(x, 4).variance))))(images)
    expected = jax.jit(jax.grad(lambda x: jnp.sum(jnp.std(x.reshape(3, -1, 3), axis=1))))(images)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_bfloat16_comes_back_and_the_sums_are_float32() -> None:
    images = jnp.asarray(features(), jnp.bfloat16)
    moments = group_moments(images, 4)
    assert moments.mean.dtype == moments.variance.dtype == jnp.float32
    exact = np.asarray(images, np.float64).reshape(3, -1, 3)  # bfloat16 itself has three digits
    np.testing.assert_allclose(moments.mean, exact.mean(1), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, exact.var(1), rtol=1e-6)
    normalized = normalize(images, moments, SCALE, OFFSET, EPSILON)
    assert normalized.dtype == jnp.bfloat16
    whole = normalize(images.astype(jnp.float32), moments, SCALE, OFFSET, EPSILON)
    np.testing.assert_array_equal(normalized, whole.astype(jnp.bfloat16))  # rounded once, at the end


def test_running_statistics_serve_any_batch() -> None:
    images = jnp.asarray(features(batch=5))
    running = GroupMoments(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[4.0, 1.0, 0.25]]))
    normalized = normalize(images, running, SCALE, OFFSET, 0.0)
    expected = (np.asarray(images) - [1.0, 2.0, 3.0]) / [2.0, 1.0, 0.5] * np.asarray(SCALE) + np.asarray(OFFSET)
    np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-5)
