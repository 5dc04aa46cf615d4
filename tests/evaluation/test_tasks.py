"""Which class of a model is which class of a data set."""

import pytest

from align_jax.data.benchmarks import BenchmarkError, Classes
from align_jax.evaluation.tasks import class_columns


def test_numbers_count_where_model_and_list_have_equally_many_classes() -> None:
    classes = Classes(("n2", "n5"), ("a", "b"), (2, 5), 6)
    assert class_columns(classes, [f"LABEL_{n}" for n in range(6)]).tolist() == [2, 5]


def test_names_find_the_classes_of_a_model_that_has_others() -> None:
    classes = Classes(("n2", "n5"), ("Tench", "great white shark"), (0, 1), 2)
    labels = ["goldfish, Carassius auratus", "great white shark, white shark", "tench, Tinca tinca"]
    assert class_columns(classes, labels).tolist() == [2, 1]
    with pytest.raises(BenchmarkError, match=r"n5 \(great white shark\) is none of the 3 classes"):
        class_columns(classes, ["tench", "goldfish", "shark"])
