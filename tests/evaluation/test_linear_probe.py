"""The linear probe against scikit-learn's logistic regression."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from align_jax.evaluation.classification import right_classes
from align_jax.evaluation.linear_probe import fit, probe, probe_ranks
from align_jax.parallel.mesh import MeshShape

TRAIN, TEST, WIDTH, CLASSES = 611, 4000, 12, 6


def mesh(devices: int = 8) -> jax.sharding.Mesh:
    return MeshShape().build(jax.devices()[:devices])


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit-length embeddings of classes that overlap."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES, WIDTH))
    labels = rng.integers(0, CLASSES, TRAIN + TEST)
    vectors = centers[labels] + 1.2 * rng.normal(size=(len(labels), WIDTH))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return vectors[:TRAIN], labels[:TRAIN], vectors[TRAIN:], labels[TRAIN:]


@pytest.mark.parametrize("l2", [1e-2, 1e-5])
def test_fit_is_that_of_scikit_learn(data: tuple[np.ndarray, ...], l2: float) -> None:
    train, labels, test, test_labels = data
    found = fit(train, labels, CLASSES, mesh(), l2=l2)
    reference = LogisticRegression(C=1 / (l2 * TRAIN), tol=1e-8, max_iter=10_000).fit(train, labels)
    right = right_classes([[int(label)] for label in test_labels], CLASSES)
    accuracy = np.mean(probe_ranks(test, found.classifier, right, mesh(), rows_at_once=1300) == 0)
    assert accuracy == pytest.approx(reference.score(test, test_labels), abs=0.001)
    assert 0.3 < accuracy < 0.95  # the comparison can tell right from wrong
    weights = found.classifier.weights - found.classifier.weights.mean(axis=1, keepdims=True)
    scale = np.abs(reference.coef_).max()
    np.testing.assert_allclose(weights, reference.coef_.T, rtol=0, atol=(1e-3 if l2 > 1e-3 else 2e-2) * scale)
    assert found.gradient < 1e-5


@pytest.mark.parametrize(("devices", "rows_at_once"), [(1, 100), (2, 611)])
def test_devices_and_chunks_change_nothing(data: tuple[np.ndarray, ...], devices: int, rows_at_once: int) -> None:
    """The rows that fill the last chunk must not count."""
    train, labels, _, _ = data
    whole = fit(train, labels, CLASSES, mesh(), l2=1e-2)
    found = fit(train, labels, CLASSES, mesh(devices), l2=1e-2, rows_at_once=rows_at_once)
    np.testing.assert_allclose(found.classifier.weights, whole.classifier.weights, rtol=0, atol=2e-3)
    np.testing.assert_allclose(found.classifier.bias, whole.classifier.bias, rtol=0, atol=2e-3)


def test_sweep_takes_the_best_penalty_of_the_held_out_part(data: tuple[np.ndarray, ...]) -> None:
    train, labels, _, _ = data
    done: list[int] = []
    found = probe(train, labels, CLASSES, mesh(), l2_sweep=(1e-3, 10.0), held_out_fraction=0.3, advance=done.append)
    assert found.l2 == 1e-3
    assert found.held_out_accuracy[1e-3] > found.held_out_accuracy[10.0]
    assert len(done) == 3
    again = probe(train, labels, CLASSES, mesh(), l2_sweep=(1e-3, 10.0), held_out_fraction=0.3)
    assert again.held_out_accuracy == found.held_out_accuracy


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        *(({"held_out_fraction": share}, "not between 0 and 1") for share in (0.0, 1.0, -0.3, 2.0, float("nan"))),
        *(
            ({"l2_sweep": (1e-3, l2)}, f"penalty {l2} is not positive")
            for l2 in (0.0, -1.0, float("nan"), float("inf"))
        ),
        ({"l2_sweep": ()}, "penalty None"),
        ({"held_out_fraction": 1e-6}, "0 to choose a penalty by are not enough"),
    ],
)
def test_sweep_without_examples_or_penalties_is_an_error(
    data: tuple[np.ndarray, ...], options: dict, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        probe(data[0], data[1], CLASSES, mesh(), **options)
