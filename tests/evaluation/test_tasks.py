"""Folds of a split, and which class of a model is which class of a data set."""

import numpy as np
import pytest

from align_jax.data.benchmarks import BenchmarkError, CaptionedImages, Classes, ImageSet
from align_jax.evaluation.estimates import Bootstrap
from align_jax.evaluation.features import Features
from align_jax.evaluation.tasks import class_columns, retrieval
from align_jax.parallel.mesh import MeshShape


def test_a_broken_image_at_the_end_costs_no_fold() -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(19)  # of 20

    def embed(count: int) -> np.ndarray:
        vectors = rng.normal(size=(count, 4))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    data = CaptionedImages(ImageSet(tuple(map(str, range(20))), lambda row: b""), (("a", "b"),) * 20, "test")
    features = Features(embed(19), rows, [("19", "broken")])
    found = retrieval(
        data, features, lambda texts: embed(len(texts)), Bootstrap(resamples=2), MeshShape().build(), fold_size=10
    )
    assert found.details == {"images": 19, "captions": 38, "folds": 2}
    assert found.results["fold_10_image_to_text_recall@1"].examples == 19


def test_numbers_count_where_model_and_list_have_equally_many_classes() -> None:
    classes = Classes(("n2", "n5"), ("a", "b"), (2, 5), 6)
    assert class_columns(classes, [f"LABEL_{n}" for n in range(6)]).tolist() == [2, 5]


def test_names_count_before_numbers_where_they_contradict_them() -> None:
    pets = Classes(("cat", "dog"), ("cat", "dog"), (0, 1), 2)
    assert class_columns(pets, ["dog", "cat"]).tolist() == [1, 0]
    assert class_columns(pets, ["Cat, feline", "Dog"]).tolist() == [0, 1]
    with pytest.raises(BenchmarkError, match=r"class dog is by its name none of its 2 classes"):
        class_columns(pets, ["hound", "cat"])


def test_twins_are_told_apart_by_their_numbers_or_refused() -> None:
    twins = Classes(("n1", "n2", "n3"), ("crane", "tench", "crane"), (0, 1, 2), 3)
    assert class_columns(twins, ["crane", "tench, Tinca tinca", "crane"]).tolist() == [0, 1, 2]
    with pytest.raises(BenchmarkError, match=r"class n1 \(crane\) is by its name 2 classes of the model: \[0, 2\]"):
        class_columns(twins, ["crane", "tench", "crane", "goldfish"])
    with pytest.raises(BenchmarkError, match=r"n1 \(crane\) and n3 \(crane\) are both class 1 of the model, 'crane'"):
        class_columns(twins, ["tench", "crane", "bird", "goldfish"])


def test_names_find_the_classes_of_a_model_that_has_others() -> None:
    classes = Classes(("n2", "n5"), ("Tench", "great white shark"), (0, 1), 2)
    labels = ["goldfish, Carassius auratus", "great white shark, white shark", "tench, Tinca tinca"]
    assert class_columns(classes, labels).tolist() == [2, 1]
    with pytest.raises(BenchmarkError, match=r"n5 \(great white shark\) is by its name none of its 3 classes"):
        class_columns(classes, ["tench", "goldfish", "shark"])
