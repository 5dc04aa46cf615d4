"""The text tower: padding, masks, default inputs, errors and types."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.configuration import AlignConfig, AlignTextConfig
from align_jax.models.align import Align
from align_jax.models.bert import Bert, TextFeatures

CONFIG = AlignTextConfig.tiny()
LENGTH = 12


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    """Weights large enough for attention that is far from uniform; drawn outside JAX, which would compile each."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(Bert(CONFIG).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * 0.2 + (leaf.ndim == 1)).astype(np.float32), shapes)


@partial(jax.jit, static_argnames=("dtype",))
def encode(variables: dict[str, Any], *inputs: Any, dtype: Any = jnp.float32, **options: Any) -> TextFeatures:
    return Bert(CONFIG, dtype=dtype).apply(variables, *inputs, **options)


def token_ids(seed: int, batch: int = 3, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, CONFIG.vocab_size, (batch, length), np.int32)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(lengths=st.tuples(*3 * [st.integers(1, LENGTH)]), seed=st.integers(0, 1000))
def test_padding_never_changes_real_tokens(variables: dict[str, Any], lengths: tuple[int, ...], seed: int) -> None:
    mask = (np.arange(LENGTH)[None, :] < np.array(lengths)[:, None]).astype(np.int32)
    real = token_ids(seed)
    zero_padded = encode(variables, real * mask, mask)
    other_padded = encode(variables, np.where(mask == 1, real, token_ids(seed + 1)), mask)
    tokens = mask.astype(bool)
    for zero, other in zip(zero_padded.hidden_states, other_padded.hidden_states, strict=True):
        np.testing.assert_array_equal(np.asarray(zero)[tokens], np.asarray(other)[tokens])
    np.testing.assert_array_equal(zero_padded.pooled, other_padded.pooled)


def test_a_longer_batch_never_changes_a_text(variables: dict[str, Any]) -> None:
    ids = token_ids(0, batch=1, length=5)
    alone = encode(variables, ids)
    padded = np.pad(ids, ((0, 0), (0, 20)))
    together = encode(variables, padded, (np.arange(25)[None, :] < 5).astype(np.int32))
    np.testing.assert_allclose(together.last_hidden_state[:, :5], alone.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_masked_tokens_get_no_attention(variables: dict[str, Any]) -> None:
    mask = np.ones((3, LENGTH), np.int32)
    mask[0, 8:] = 0
    mask[1, 3] = 0
    for attention in encode(variables, token_ids(0), mask).attentions:
        weights = np.asarray(attention)
        np.testing.assert_array_equal(weights[0, :, :, 8:], 0.0)
        np.testing.assert_array_equal(weights[1, :, :, 3], 0.0)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_a_text_without_tokens_stays_finite(variables: dict[str, Any]) -> None:
    features = encode(variables, token_ids(0), np.zeros((3, LENGTH), np.int32))
    assert np.isfinite(features.last_hidden_state).all()


def test_absent_inputs_mean_all_tokens_first_segment_and_counting_positions(variables: dict[str, Any]) -> None:
    ids = token_ids(0)
    given = (np.ones_like(ids), np.zeros_like(ids), np.arange(LENGTH, dtype=np.int32)[None, :])
    np.testing.assert_allclose(encode(variables, ids).pooled, encode(variables, ids, *given).pooled, rtol=1e-5)


def test_first_token_alone_is_the_first_of_all(variables: dict[str, Any]) -> None:
    ids, mask = token_ids(5), np.ones((3, LENGTH), np.int32)
    mask[1, 4:] = 0
    whole = encode(variables, ids, mask)
    first = Bert(CONFIG).apply(variables, ids, mask, last_layer_tokens=1)
    assert first.last_hidden_state.shape == (3, 1, CONFIG.hidden_size)
    np.testing.assert_allclose(first.last_hidden_state, whole.last_hidden_state[:, :1], rtol=0, atol=1e-5)


def test_segments_and_positions_matter(variables: dict[str, Any]) -> None:
    ids = token_ids(0)
    pooled = np.asarray(encode(variables, ids).pooled)
    positions = np.arange(LENGTH, dtype=np.int32)[None, ::-1]
    for options in ({"token_type_ids": np.ones_like(ids)}, {"position_ids": positions}):
        assert np.abs(np.asarray(encode(variables, ids, **options).pooled) - pooled).max() > 0.01


def test_too_many_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match="65 tokens are more than the 64 positions of the text tower; truncate"):
        Bert(CONFIG).init(jax.random.key(0), jnp.zeros((1, 65), jnp.int32))


def test_dropout_only_in_training(variables: dict[str, Any]) -> None:
    ids = token_ids(0)
    train = jax.jit(partial(Bert(CONFIG).apply, train=True))
    runs = [train(variables, ids, rngs={"dropout": jax.random.key(seed)}).pooled for seed in (0, 1)]
    assert not np.array_equal(*runs)
    np.testing.assert_array_equal(encode(variables, ids).pooled, encode(variables, ids).pooled)


def test_bfloat16_is_close_and_projects_in_float32(variables: dict[str, Any]) -> None:
    ids = token_ids(0)
    exact, rough = encode(variables, ids), encode(variables, ids, dtype=jnp.bfloat16)
    assert rough.last_hidden_state.dtype == jnp.bfloat16
    difference = np.abs(np.asarray(rough.last_hidden_state, np.float32) - np.asarray(exact.last_hidden_state))
    assert 0 < difference.max() < 0.1 * np.abs(exact.last_hidden_state).max()
    model = Align(AlignConfig.tiny(), dtype=jnp.bfloat16)
    embeddings, _ = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), jnp.zeros((1, 4), jnp.int32)
    )
    assert {leaf.dtype for leaf in embeddings} == {jnp.dtype("float32")}
