"""The classes of a model beside those of the data set that it learns from, or is evaluated on."""

from collections.abc import Sequence

from align_jax.configuration import ConfigurationError
from align_jax.configuration.labels import numbered_labels
from align_jax.data.benchmarks.classes import SYNSET
from align_jax.data.labelled import LabelledDataset


def names_of_classes(labels: Sequence[str], dataset: LabelledDataset) -> tuple[str, ...]:
    """The names of a model's classes: the data set's, where the model only numbers them.

    A data set whose labels are bare integers says nothing of them, and neither does one without names beyond their
    number. Synsets and words are not compared.

    Args:
        labels: the model's names.
        dataset: the labelled images.

    Raises:
        ConfigurationError: if there are more or fewer classes in the data set, or others.
        DatasetNotPreparedError: no such data set.
        DatasetError: it cannot be used.
    """
    labels, names = tuple(labels), dataset.class_names()
    if names is None:
        return labels
    if len(names) != len(labels):
        raise ConfigurationError(
            f"the model has {len(labels)} classes, and {dataset.description} {len(names)}; give the model's id2label a "
            "name for each class of the data set, in its order"
        )
    if names == tuple(map(str, range(len(names)))):
        return labels
    if labels == numbered_labels(len(labels)):
        return names
    if _are_synsets(labels) == _are_synsets(names):
        for number, (label, name) in enumerate(zip(labels, names, strict=True)):
            if _plain(label) != _plain(name):
                raise ConfigurationError(
                    f"class {number} is {label!r} in the model and {name!r} in {dataset.description}; give the model's "
                    "id2label the names of the data set, in its order"
                )
    return labels


def _are_synsets(names: Sequence[str]) -> bool:
    return all(SYNSET.fullmatch(name) for name in names)


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().lower()
