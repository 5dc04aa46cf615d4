"""The classes of a classifier's `config.json`: their names, and what kind of problem they are."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from align_jax.json_config import ConfigurationError

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

# What `transformers` takes for the labels of a file that names none.
_UNNAMED_LABELS = ("LABEL_0", "LABEL_1")


def numbered_labels(count: int) -> tuple[str, ...]:
    """The names that `transformers` gives to classes without any."""
    return tuple(f"LABEL_{index}" for index in range(count))


def read_labels(values: Mapping[str, Any], name: str, classifier: str) -> tuple[str, ...]:
    """Names of the classes, in order; none without a classifier.

    There is a classifier if `architectures` says so or, where that is left out, if there are labels.

    Args:
        values: the object of a `config.json`.
        name: of the configuration, for errors.
        classifier: the class of `transformers` that has one.

    Raises:
        ConfigurationError: if they are not what they should be.
    """
    architectures, labels = values.get("architectures"), values.get("id2label")
    if architectures is not None and (isinstance(architectures, str) or not isinstance(architectures, Sequence)):
        raise ConfigurationError(f"{name}.architectures is {architectures!r}, which is not a list of names")
    if architectures and classifier not in architectures:
        return ()
    count = values.get("num_labels")
    if count is not None and (type(count) is not int or count < 0):
        raise ConfigurationError(f"{name}.num_labels is {count!r}, which is not a number of classes")
    if labels is None:
        labels = dict(enumerate(numbered_labels(len(_UNNAMED_LABELS) if count is None else count)))
    if not isinstance(labels, Mapping):
        raise ConfigurationError(f"{name}.id2label is {labels!r}, which is not a JSON object")
    if count not in (None, len(labels)):
        raise ConfigurationError(
            f"{name}.num_labels is {count}, but id2label has {len(labels)} classes; remove one of them"
        )
    by_index = {str(index): label for index, label in labels.items()}
    missing = [index for index in map(str, range(len(labels))) if not isinstance(by_index.get(index), str)]
    if missing:
        raise ConfigurationError(
            f"{name}.id2label has no name for class {missing[0]}; it must name all of its {len(labels)} "
            "classes, counted from 0"
        )
    names = tuple(by_index[str(index)] for index in range(len(labels)))
    # Without `architectures`, the two names that every configuration of `transformers` has speak of no classifier.
    return () if not architectures and names == _UNNAMED_LABELS else names


def label_fields(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`id2label` and `label2id` of a `config.json`."""
    return {
        "id2label": {str(index): label for index, label in enumerate(names)},
        "label2id": {label: index for index, label in enumerate(names)},
    }
