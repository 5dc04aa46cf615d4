"""Search on one and several devices against a stable sort of all scores, and queries that are combined."""

import jax
import numpy as np
import pytest

from align_jax.inference.search import FaissIndex, Index, combine
from align_jax.ops.top_k import ABSENT
from align_jax.parallel.mesh import MeshShape
from tests.processes import run_together, start_flags

TOGETHER = """
import sys

import numpy as np

from align_jax.parallel import distributed

distributed.start(sys.argv[2], int(sys.argv[4]), int(sys.argv[6]), 60)

from align_jax.inference.search import Index

gallery = np.arange(22, dtype=np.float32).reshape(11, 2) % 5
print(Index(gallery).search(gallery[:3], 4)[1].tolist())
distributed.finish()
"""


def sorted_whole(queries, gallery, k):
    scores = queries @ gallery.T
    positions = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    missing = ((0, 0), (0, k - positions.shape[1]))
    return (
        np.pad(np.take_along_axis(scores, positions, axis=1), missing, constant_values=-np.inf),
        np.pad(positions, missing, constant_values=ABSENT),
    )


def whole_numbers(seed, *shape):
    """Few different values, so that scores are exact and ties are everywhere, also between devices."""
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)


def mesh_of(devices, **axes):
    return MeshShape(**axes).build(jax.devices()[:devices])


def assert_found(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


# 101 leaves padding on 2 and on 8 devices; 5 leaves devices of 8 without any row.
@pytest.mark.parametrize("size", [101, 5])
@pytest.mark.parametrize(
    "mesh", [{"devices": 1}, {"devices": 2}, {"devices": 8, "fsdp": 2, "tensor": 2}], ids=["1", "2", "2x2x2"]
)
def test_ties_and_padding_are_the_same_on_any_devices(mesh, size):
    queries, gallery = whole_numbers(0, 3, 6), whole_numbers(1, size, 6)
    assert_found(
        Index(gallery, mesh=mesh_of(**mesh), chunk_size=10).search(queries, 7), sorted_whole(queries, gallery, 7)
    )


@pytest.mark.parametrize("k", [1, 11, 14])
def test_more_may_be_asked_for_than_there_is(k):
    queries, gallery = whole_numbers(2, 9, 4), whole_numbers(3, 11, 4)
    assert_found(Index(gallery).search(queries, k), sorted_whole(queries, gallery, k))


def test_processes_share_the_gallery_and_all_have_the_result():
    finished = run_together([["-c", TOGETHER, *flags] for flags in start_flags(2)], devices=2, limit_seconds=200)
    gallery = np.arange(22, dtype=np.float32).reshape(11, 2) % 5
    expected = str(sorted_whole(gallery[:3], gallery, 4)[1].tolist())
    assert [one.output.splitlines()[-1:] for one in finished] == [[expected]] * 2, finished


def test_all_devices_share_the_gallery():
    index = Index(whole_numbers(4, 80, 4))
    assert {shard.data.shape for shard in index._gallery.addressable_shards} == {(10, 4)}
    assert len(index) == 80


def test_number_of_queries_compiles_few_programs():
    from align_jax.inference import search

    index = Index(whole_numbers(5, 20, 4))
    before = search._search._cache_size()
    for count in (2, 3, 8):
        assert index.search(whole_numbers(6, count, 4), 2)[0].shape == (count, 2)
    assert search._search._cache_size() == before + 1
    assert index.search(np.empty((0, 4), np.float32), 2)[1].shape == (0, 2)


def test_empty_gallery_finds_nothing():
    scores, positions = Index(np.empty((0, 4), np.float32)).search(np.ones((1, 4), np.float32), 2)
    assert positions.tolist() == [[ABSENT, ABSENT]]
    assert scores.tolist() == [[-np.inf, -np.inf]]


# 91 leaves padding on the second device, and 10 a last chunk that reaches back.
@pytest.mark.parametrize("chunk_size", [None, 10])
def test_approximate_search_is_exact_where_it_is_not_a_tpu(chunk_size):
    random = np.random.default_rng(7)
    queries, gallery = (random.standard_normal((rows, 16), np.float32) for rows in (3, 91))
    mesh = mesh_of(2)
    expected = sorted_whole(queries, gallery, 91)
    found = Index(gallery, mesh=mesh, chunk_size=chunk_size, approximate=True).search(queries, 91)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lists", [None, 4])
def test_faiss_finds_the_same(lists):
    pytest.importorskip("faiss")
    random = np.random.default_rng(8)
    queries, gallery = (random.standard_normal((rows, 16), np.float32) for rows in (5, 70))
    scores, positions = sorted_whole(queries, gallery, 75)
    found = FaissIndex(gallery, lists=lists, probes=4).search(queries, 75)
    np.testing.assert_array_equal(found[1], positions)
    np.testing.assert_allclose(found[0], scores, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="lists 71 is not between 1 and the 70"):
        FaissIndex(gallery, lists=71)


def test_wrong_queries_are_refused():
    index = Index(whole_numbers(9, 5, 4))
    with pytest.raises(ValueError, match="queries of size 3 cannot be compared with embeddings of size 4"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="k=0"):
        index.search(np.ones((1, 4), np.float32), 0)


def test_text_counts_twice_as_much_as_an_image_and_lengths_do_not_count():
    text, image, minus = np.array([0.0, 5.0, 0.0]), np.array([3.0, 0.0, 0.0]), np.array([0.0, 0.0, 7.0])
    np.testing.assert_allclose(combine(text, image), np.array([1, 2, 0]) / 5**0.5)
    np.testing.assert_allclose(combine(text, image, minus), np.array([1, 2, -2]) / 3)
    np.testing.assert_allclose(combine(text, image, text_weight=3.0, image_weight=4.0), [0.8, 0.6, 0.0])
    np.testing.assert_allclose(combine(image=image), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(combine(np.stack([text, minus])), [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def test_nothing_to_search_for_is_refused():
    one = np.array([1.0, 0.0])
    with pytest.raises(ValueError, match="nothing to search for"):
        combine(minus=one)
    with pytest.raises(ValueError, match="text and minus cancel out"):
        combine(text=one, minus=2 * one)
    with pytest.raises(ValueError, match="text and image cancel out"):
        combine(text=one, image=-one, text_weight=1.0)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["text_weight", "image_weight"])
def test_weights_that_mean_nothing_are_refused(name, weight):
    with pytest.raises(ValueError, match=f"{name} {weight:g} is not positive and finite"):
        combine(np.array([1.0, 0.0]), np.array([0.0, 1.0]), **{name: weight})


def test_tiny_weights_do_not_cancel_out():
    np.testing.assert_allclose(combine(np.array([3.0, 0.0]), text_weight=1e-9, image_weight=1e-9), [1.0, 0.0])


@pytest.mark.parametrize("embedding", [[[0.0, 0.0], [1.0, 0.0]], [[np.nan, 1.0], [1.0, 0.0]]])
def test_embeddings_without_a_direction_are_refused(embedding):
    one = np.array([[1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="the embedding of text is zero or not finite"):
        combine(text=np.array(embedding), image=one)
    with pytest.raises(ValueError, match="the embedding of minus is zero"):
        combine(text=one, minus=0 * one)
