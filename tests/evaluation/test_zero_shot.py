"""Zero-shot classification and accuracy against a direct computation in float64."""

from pathlib import Path

import jax
import numpy as np
import pytest

from align_jax.evaluation.classification import accuracy_estimates, ranks_of, right_classes
from align_jax.evaluation.estimates import Bootstrap
from align_jax.evaluation.prompts import TEMPLATES, fill, read_templates
from align_jax.evaluation.zero_shot import class_embeddings, zero_shot_ranks
from align_jax.parallel.mesh import MeshShape

CLASSES, SENTENCES, IMAGES = 9, 4, 43


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sentences of very different spread, images with repetitions, and the right classes."""
    rng = np.random.default_rng(0)
    spread = np.linspace(0.1, 3.0, CLASSES)[:, None, None]
    sentences = unit(rng.normal(size=(CLASSES, 1, 6)) + spread * rng.normal(size=(CLASSES, SENTENCES, 6)))
    labels = rng.integers(0, CLASSES, IMAGES)
    images = unit(sentences.mean(axis=1)[labels] + 0.5 * rng.normal(size=(IMAGES, 6)))
    images[10:20] = images[:10]
    return sentences.astype(np.float32), images.astype(np.float32), labels


def direct_ranks(sentences: np.ndarray, images: np.ndarray, labels: np.ndarray) -> list[int]:
    classes = unit(np.mean(sentences.astype(np.float64), axis=1))
    scores = images.astype(np.float64) @ classes.T
    return [int(np.sum(row >= row[label])) - 1 for row, label in zip(scores, labels, strict=True)]


@pytest.mark.parametrize(("devices", "rows_at_once"), [(1, 1000), (2, 7), (8, 16)])
def test_ranks_are_those_of_a_direct_computation(devices: int, rows_at_once: int) -> None:
    sentences, images, labels = data()
    right = right_classes([[int(label)] for label in labels], CLASSES)
    mesh = MeshShape().build(jax.devices()[:devices])
    found = zero_shot_ranks(images, class_embeddings(sentences), right, mesh, rows_at_once=rows_at_once)
    assert found.tolist() == direct_ranks(sentences, images, labels)


def test_embeddings_are_averaged_before_they_are_normalised() -> None:
    sentences = np.float32([[[1, 0], [0.6, 0.8], [0.6, 0.8]]])
    expected = np.array([2.2, 1.6]) / np.hypot(2.2, 1.6)
    np.testing.assert_allclose(class_embeddings(sentences), expected[None], rtol=1e-6)


@pytest.mark.parametrize(("devices", "rows_at_once"), [(1, 64), (8, 8)])
def test_accuracy_counts_valid_examples_only(devices: int, rows_at_once: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 30, (50, 11)).astype(np.float32)
    right, valid = rng.random((50, 11)) < 0.2, rng.random(50) < 0.8
    valid &= right.any(axis=1)
    ranks = ranks_of(scores, right, MeshShape().build(jax.devices()[:devices]), rows_at_once=rows_at_once)
    found = accuracy_estimates(ranks, valid, Bootstrap(resamples=10), class_count=11, prefix="real_")
    for k in (1, 5):
        hits = []
        for row, is_right in zip(scores[valid], right[valid], strict=True):
            best = row[is_right].max()
            hits.append(np.sum(row[~is_right] >= best) < k)
        estimate = found[f"real_top{k}"]
        assert estimate.value == pytest.approx(np.mean(hits))
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.examples == valid.sum()


def test_top_5_of_five_classes_is_not_reported() -> None:
    found = accuracy_estimates(np.zeros(3, int), np.ones(3, bool), Bootstrap(resamples=10), class_count=5)
    assert list(found) == ["top1"]


def test_labels_and_examples_that_cannot_count_are_errors() -> None:
    with pytest.raises(ValueError, match="example 1 has label 7, but there are 7 classes"):
        right_classes([[0], [3, 7]], 7)
    with pytest.raises(ValueError, match="not one of 2 examples"):
        accuracy_estimates(np.zeros(2, int), np.zeros(2, bool), Bootstrap(), class_count=9)


def test_templates_are_filled_class_by_class(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("a {}\n\n  the {} itself\n")
    assert fill(read_templates(path), ("cat", "{}")) == ["a cat", "the cat itself", "a {}", "the {} itself"]
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    assert len(set(TEMPLATES)) == len(TEMPLATES)


@pytest.mark.parametrize(
    ("text", "reason"), [("a {}\na photo\n", "template 2"), ("{} or {}", "once"), ("\n", "no template")]
)
def test_templates_that_are_none_are_errors(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "templates.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_templates(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_templates(tmp_path / "absent")
