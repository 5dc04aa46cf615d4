import doctest

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax import metrics
from align_jax.metrics import match_ranks, recall_at


def ranks_by_sorting(queries, query_ids, gallery, gallery_ids):
    """Sorts every score, wrong items first among equals, and walks down to the first right one."""
    ranks = []
    for query, query_id in zip(queries, query_ids, strict=True):
        scores = gallery @ query
        order = sorted(range(len(scores)), key=lambda item: (-scores[item], gallery_ids[item] == query_id))
        wrong_before = 0
        for item in order:
            if gallery_ids[item] == query_id:
                break
            wrong_before += 1
        ranks.append(wrong_before)
    return np.array(ranks)


def test_worked_examples_in_docstrings():
    assert doctest.testmod(metrics, extraglobs={"jnp": jnp}).failed == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 4))
def test_ranks_equal_a_sort_with_ties_and_several_captions(seed, images, captions):
    rng = np.random.default_rng(seed)
    # Small integers: inner products are exact, and many of them are equal.
    queries = rng.integers(-1, 2, (images, 3)).astype(np.float32)
    gallery = rng.integers(-1, 2, (images * captions, 3)).astype(np.float32)
    gallery_ids = rng.permutation(np.repeat(np.arange(images), captions)).astype(np.int32)
    query_ids = np.arange(images, dtype=np.int32)
    ranks = match_ranks(*map(jnp.asarray, (queries, query_ids, gallery, gallery_ids)))
    np.testing.assert_array_equal(ranks, ranks_by_sorting(queries, query_ids, gallery, gallery_ids))


def test_collapsed_embeddings_score_nothing():
    ones, ids = jnp.ones((20, 4)), jnp.arange(20)
    assert float(recall_at(match_ranks(ones, ids, ones, ids), 5)) == 0.0


def test_scores_that_are_not_numbers_score_nothing():
    ids = jnp.arange(6)
    broken = jnp.full((6, 4), jnp.nan)
    assert float(recall_at(match_ranks(broken, ids, broken, ids), 1)) == 0.0


def test_padding_never_changes_ranks():
    rng = np.random.default_rng(0)
    queries, gallery = (jnp.asarray(rng.normal(size=(300, 8)).astype(np.float32)) for _ in range(2))
    ids = jnp.arange(300)
    padded = jnp.concatenate([gallery, 100.0 * jnp.ones((20, 8))])
    padded_ids = jnp.concatenate([ids, jnp.zeros(20, jnp.int32)])
    valid = jnp.arange(320) < 300
    np.testing.assert_array_equal(
        match_ranks(queries, ids, padded, padded_ids, valid), match_ranks(queries, ids, gallery, ids)
    )


def test_padded_queries_do_not_count():
    ranks = jnp.array([0, 3, 0, 0])
    valid = jnp.array([True, True, False, False])
    assert float(recall_at(ranks, 1, valid)) == 0.5


def test_an_item_without_partner_is_found_at_no_cutoff():
    gallery = jnp.eye(3)
    ranks = match_ranks(jnp.eye(3)[:1], jnp.array([7]), gallery, jnp.arange(3))
    assert float(recall_at(ranks, 10)) == 0.0
