"""kNN against a loop with ties and against scikit-learn; in chunks, in blocks, and on any number of devices."""

import functools

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from align_jax.evaluation.knn import knn_predictions, nearest_neighbours
from align_jax.parallel.mesh import MeshShape

KS = (1, 3, 8, 20)


def mesh(devices: int = 8) -> jax.sharding.Mesh:
    return MeshShape().build(jax.devices()[:devices])


@functools.cache
def data(queries: int = 37, examples: int = 150, classes: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of unit length around centers that overlap."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(classes, 16))
    labels = rng.integers(0, classes, examples)
    of_queries = rng.integers(0, classes, queries)
    vectors = [centers[numbers] + 1.6 * rng.normal(size=(len(numbers), 16)) for numbers in (of_queries, labels)]
    unit = [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in vectors]
    return unit[0], unit[1], labels


def loop_vote(query: np.ndarray, gallery: np.ndarray, labels: np.ndarray, k: int) -> int:
    """Equal scores in the order of the gallery; of classes with equally many votes, the smallest."""
    order = sorted(range(len(gallery)), key=lambda row: (-float(query @ gallery[row]), row))[:k]
    votes: dict[int, int] = {}
    for row in order:
        votes[labels[row]] = votes.get(labels[row], 0) + 1
    return min(label for label, count in votes.items() if count == max(votes.values()))


@pytest.mark.parametrize("temperature", [None, 0.07])
def test_predictions_are_those_of_scikit_learn(temperature: float | None) -> None:
    queries, gallery, labels = data()
    neighbours = nearest_neighbours(queries, gallery, max(KS), mesh())
    found = knn_predictions(neighbours, labels, KS, mesh(), temperature=temperature)
    weights = "uniform" if temperature is None else lambda distances: np.exp((1 - distances) / temperature)
    for k in KS:
        reference = KNeighborsClassifier(k, weights=weights, algorithm="brute", metric="cosine").fit(gallery, labels)
        np.testing.assert_array_equal(found[k], reference.predict(queries))


def test_ties_of_scores_and_votes_are_broken_like_the_loop() -> None:
    rng = np.random.default_rng(1)
    queries = rng.integers(-1, 2, (21, 3)).astype(np.float32)
    gallery, labels = rng.integers(-1, 2, (60, 3)).astype(np.float32), rng.integers(0, 5, 60)
    found = knn_predictions(nearest_neighbours(queries, gallery, 20, mesh()), labels, KS, mesh())
    for k in KS:
        assert found[k].tolist() == [loop_vote(query, gallery, labels, k) for query in queries]


@pytest.mark.parametrize(("devices", "queries_at_once", "chunk_size"), [(1, 10, 7), (2, 37, 149), (8, 9, 1000)])
def test_chunks_blocks_and_devices_change_nothing(devices: int, queries_at_once: int, chunk_size: int) -> None:
    queries, gallery, labels = data()
    whole = nearest_neighbours(queries, gallery, 20, mesh(1))
    found = nearest_neighbours(
        queries, gallery, 20, mesh(devices), queries_at_once=queries_at_once, chunk_size=chunk_size
    )
    np.testing.assert_array_equal(found.positions, whole.positions)
    np.testing.assert_allclose(found.scores, whole.scores, rtol=0, atol=1e-6)
    votes = knn_predictions(found, labels, (8,), mesh(devices), temperature=0.07)[8]
    np.testing.assert_array_equal(votes, knn_predictions(whole, labels, (8,), mesh(1), temperature=0.07)[8])


def test_more_neighbours_than_examples_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"k=151 .* among 150 examples"):
        nearest_neighbours(*data()[:2], 151, mesh())
