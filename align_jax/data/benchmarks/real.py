"""ReaL labels: all classes that people found right for a validation image of ImageNet (arXiv 2006.07159).

`real.json` is a list of 50,000 lists of classes, in the order of the images' numbers; images for which nobody found any
class have an empty list and do not count.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from align_jax.data.benchmarks.classes import Classes
from align_jax.data.benchmarks.images import BenchmarkError
from align_jax.data.benchmarks.validation_labels import validation_number


def read_real(path: Path) -> list[list[int]]:
    """The right classes of every validation image, by its number less one.

    Raises:
        FileNotFoundError: if there is no such file.
        BenchmarkError: if it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; real.json is in the repository google-research/reassessed-imagenet"
        )
    try:
        labels = json.loads(path.read_bytes())
    except ValueError as error:
        raise BenchmarkError(f"{path} is not JSON: {error}") from error
    lists = isinstance(labels, list) and all(isinstance(classes, list) for classes in labels)
    if not lists or not all(type(label) is int and label >= 0 for classes in labels for label in classes):
        raise BenchmarkError(f"{path} is not a list of lists of class numbers; give real.json of the ReaL labels")
    return labels


def real_labels(real: Sequence[Sequence[int]], ids: Sequence[str], classes: Classes) -> list[list[int]]:
    """The right classes of images, as their places in `classes`, by the numbers in the names of the images.

    Args:
        real: of `read_real`.
        ids: names of the images.
        classes: that are told apart; ReaL counts as the list of all of them does.

    Raises:
        BenchmarkError: if an image is no validation image of ImageNet, or beyond the list; if a label is none of the
            classes; or if not one image has a label.
    """
    places = {number: place for place, number in enumerate(classes.numbers)}
    found = []
    for name in ids:
        number = validation_number(name)
        if number is None or not 1 <= number <= len(real):
            raise BenchmarkError(
                f"image {name} has no ReaL labels: they are of ILSVRC2012_val_00000001 to {len(real):08d}; use them "
                "with ImageNet's validation images"
            )
        if outside := [label for label in real[number - 1] if label not in places]:
            raise BenchmarkError(
                f"image {name} has ReaL label {outside[0]}, which is none of the {len(places)} classes of the data; "
                "use the labels with the validation images of all classes"
            )
        found.append([places[label] for label in real[number - 1]])
    if not any(found):
        raise BenchmarkError(f"not one of {len(ids)} images has a ReaL label; leave --real out")
    return found
