"""Which class of a model is which class of a data set."""

import numpy as np
import pytest

from align_jax.data.benchmarks import BenchmarkError, Classes, ImageSet
from align_jax.evaluation.features import score_images
from align_jax.evaluation.tasks import class_columns
from tests.data.benchmarks.layouts import jpeg


def test_numbers_count_where_model_and_list_have_equally_many_classes() -> None:
    classes = Classes(("n2", "n5"), ("a", "b"), (2, 5), 6)
    assert class_columns(classes, [f"LABEL_{n}" for n in range(6)]).tolist() == [2, 5]


def test_names_find_the_classes_of_a_model_that_has_others() -> None:
    classes = Classes(("n2", "n5"), ("Tench", "great white shark"), (0, 1), 2)
    labels = ["goldfish, Carassius auratus", "great white shark, white shark", "tench, Tinca tinca"]
    assert class_columns(classes, labels).tolist() == [2, 1]
    with pytest.raises(BenchmarkError, match=r"n5 \(great white shark\) is none of the 3 classes"):
        class_columns(classes, ["tench", "goldfish", "shark"])


class ByBrightness:
    """Scores that tell pictures apart."""

    batch_size = 4

    def logits(self, images: list[np.ndarray]) -> np.ndarray:
        means = [[float(pixels.mean()), -float(pixels.mean())] for pixels in images]
        return np.array(means, np.float32).reshape(len(images), 2)


def test_scores_stay_with_their_images_when_others_do_not_decode() -> None:
    contents = [b"broken" if number in (0, 4, 5, 6, 7, 10) else jpeg(number, 0) for number in range(11)]
    done: list[int] = []
    images = ImageSet(tuple(map(str, range(11))), contents.__getitem__)
    found = score_images(ByBrightness(), images, done.append)
    assert found.rows.tolist() == [1, 2, 3, 8, 9]
    assert [name for name, _ in found.bad_images] == ["0", "4", "5", "6", "7", "10"]
    for row, score in zip(found.rows, found.values, strict=True):
        (alone,) = score_images(ByBrightness(), ImageSet(("x",), lambda _, row=row: contents[row]), done.append).values
        np.testing.assert_array_equal(score, alone)
    assert sum(done[:3]) == 11
    with pytest.raises(BenchmarkError, match="not one of 1 images"):
        score_images(ByBrightness(), ImageSet(("x",), lambda _: b""), done.append)
