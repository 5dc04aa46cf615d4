"""The running top-k against a stable sort of the whole score matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.ops import top_k as module
from align_jax.ops.top_k import ABSENT, merge_top_k, top_k


def sorted_whole(queries, gallery, k, valid=None):
    """Scores and positions from a stable descending sort of every row, which NumPy does."""
    scores = (queries @ gallery.T).astype(np.float32)
    scores[np.isnan(scores)] = -np.inf
    if valid is not None:
        scores[:, ~valid] = -np.inf
    positions = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, positions, axis=1)
    missing = ((0, 0), (0, k - found.shape[1]))
    found = np.pad(found, missing, constant_values=-np.inf)
    positions = np.pad(positions, missing, constant_values=ABSENT)
    return found, np.where(np.isneginf(found), ABSENT, positions)


def whole_numbers(seed, *shape):
    """Few different values, so that scores are exact and ties are everywhere."""
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)


def assert_found(found, expected):
    np.testing.assert_array_equal(np.asarray(found.scores), expected[0])
    np.testing.assert_array_equal(np.asarray(found.positions), expected[1])


# 1 and 7 leave a last chunk that reaches back; 64 and 500 are cut into groups; 1000 and more is a single chunk.
@pytest.mark.parametrize("chunk_size", [7, 64, 500, 1000, 4096, None])
def test_ties_and_padding_are_the_same_for_every_chunk_size(chunk_size):
    queries, gallery = whole_numbers(0, 5, 6), whole_numbers(1, 1000, 6)
    valid = np.random.default_rng(2).random(1000) < 0.7
    found = top_k(queries, gallery, 10, chunk_size, valid)
    assert_found(found, sorted_whole(queries, gallery, 10, valid))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape(data):
    query_count, gallery_count = data.draw(st.integers(0, 4)), data.draw(st.sampled_from([0, 1, 3, 64, 201]))
    k, chunk_size = data.draw(st.sampled_from([1, 2, 5, 70])), data.draw(st.sampled_from([1, 50, 200]))
    queries, gallery = whole_numbers(3, query_count, 2), whole_numbers(4, gallery_count, 2)
    valid = np.random.default_rng(data.draw(st.integers(0, 9))).random(gallery_count) < 0.8
    assert_found(top_k(queries, gallery, k, chunk_size, valid), sorted_whole(queries, gallery, k, valid))


def test_queries_are_taken_in_tiles(monkeypatch):
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", 4)
    queries, gallery = whole_numbers(5, 11, 3), whole_numbers(6, 300, 3)
    assert_found(top_k(queries, gallery, 3), sorted_whole(queries, gallery, 3))


def test_random_vectors_agree_with_a_sort():
    random = np.random.default_rng(7)
    queries, gallery = (random.standard_normal((rows, 32), np.float32) for rows in (9, 2500))
    scores, positions = sorted_whole(queries, gallery, 20)
    for chunk_size in (600, None):
        found = top_k(queries, gallery, 20, chunk_size)
        np.testing.assert_array_equal(np.asarray(found.positions), positions)
        np.testing.assert_allclose(np.asarray(found.scores), scores, rtol=1e-5)


def test_fewer_items_than_asked_for_are_absent():
    found = top_k(np.ones((1, 2), np.float32), np.eye(2, dtype=np.float32), 4, None, np.array([False, True]))
    assert found.positions.tolist() == [[1, ABSENT, ABSENT, ABSENT]]
    assert found.scores.tolist() == [[1.0, -np.inf, -np.inf, -np.inf]]


def test_what_is_not_a_number_is_never_found():
    gallery = np.array([[np.nan], [1.0], [2.0]], np.float32)
    assert top_k(np.ones((1, 1), np.float32), gallery, 3).positions.tolist() == [[2, 1, ABSENT]]


def test_query_that_is_not_finite_finds_nothing_and_an_infinite_item_is_not_found():
    queries = np.array([[1.0, 0.0], [np.nan, 0.0], [np.inf, 0.0]], np.float32)
    found = top_k(jnp.asarray(queries), jnp.array([[1.0, np.inf], [2.0, 0.0]]), 1)
    assert found.positions.tolist() == [[1], [ABSENT], [ABSENT]]


def test_zeros_of_both_signs_are_equal():
    gallery = np.array([[-0.0], [0.0], [-0.0]], np.float32)
    assert top_k(np.ones((1, 1), np.float32), gallery, 3).positions.tolist() == [[0, 1, 2]]


def test_bfloat16_embeddings_have_float32_scores():
    gallery = jnp.array([[1.0], [1.0 + 2**-7]], jnp.bfloat16)
    found = top_k(gallery[1:], gallery, 1)
    assert found.scores.tolist() == [[(1 + 2**-7) ** 2]]


@pytest.mark.parametrize(("k", "chunk_size"), [(0, None), (1, 0)])
def test_wrong_numbers_are_refused(k, chunk_size):
    with pytest.raises(ValueError, match=f"k={k} and chunk_size={chunk_size}"):
        top_k(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), k, chunk_size)


def test_the_best_of_two_places():
    merged = merge_top_k(jnp.array([[[3.0, 1.0]], [[3.0, 2.0]]]), jnp.array([[[4, 0]], [[8, 6]]]), 3)
    assert merged.positions.tolist() == [[4, 8, 6]]


def test_memory_does_not_hold_the_score_matrix():
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((5_000, 8), (2_000_000, 8))]
    memory = top_k.lower(*shapes, 10).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**29  # the matrix of all scores is 40 GB
