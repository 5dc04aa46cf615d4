"""The five evaluations, from the features of a benchmark to numbers with confidence intervals.

`docs/evaluation.md` states the protocol of each, and what the papers report.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from align_jax.data.benchmarks import BenchmarkError, CaptionedImages, Classes, LabelledImages
from align_jax.evaluation.classification import accuracy_estimates, ranks_of, right_classes
from align_jax.evaluation.estimates import Bootstrap, Estimate, estimates
from align_jax.evaluation.features import Features
from align_jax.evaluation.knn import knn_predictions, nearest_neighbours
from align_jax.evaluation.linear_probe import L2_SWEEP, probe, probe_ranks
from align_jax.evaluation.prompts import fill
from align_jax.evaluation.requirements import require_names, require_same_classes
from align_jax.evaluation.retrieval import RetrievalSet, recall_estimates
from align_jax.evaluation.zero_shot import class_embeddings, zero_shot_ranks

Advance = Callable[[int], Any]
EmbedTexts = Callable[[Sequence[str]], Float[np.ndarray, "N D"]]


class Outcome(NamedTuple):
    """Numbers, and what is to be known of how they came about."""

    results: dict[str, Estimate]
    details: dict[str, Any]


class Targets(NamedTuple):
    """What is right for the images of a split that could be used."""

    labels: Int[np.ndarray, "n"]
    right: dict[str, Bool[np.ndarray, "n K"]]  # by the prefix of the numbers: "" and perhaps "real_"


def targets_of(data: LabelledImages, rows: Int[np.ndarray, "n"], real: Sequence[Sequence[int]] | None) -> Targets:
    """The labels of the data set, and the ReaL labels of its images where they are given."""
    labels, count = data.labels[rows], len(data.classes.keys)
    right = {"": right_classes([[int(label)] for label in labels], count)}
    if real is not None:
        right["real_"] = right_classes([list(real[row]) for row in rows], count)
    return Targets(labels, right)


def retrieval(
    data: CaptionedImages,
    features: Features,
    embed_texts: EmbedTexts,
    bootstrap: Bootstrap,
    mesh: Mesh,
    *,
    captions_per_image: int | None = 5,
    fold_size: int | None = 1000,
) -> Outcome:
    """Recall in both directions over the whole split and, where it holds several folds, as their mean.

    Args:
        data: images and captions.
        features: embeddings of the images; captions of the others do not count.
        embed_texts: embeds captions.
        bootstrap: of the intervals; an image and its captions are drawn together.
        mesh: the devices.
        captions_per_image: the first so many of each image; all of them where it is absent.
        fold_size: images of a fold.
    """
    captions = [(int(row), text) for row in features.rows for text in data.captions[row][:captions_per_image]]
    gallery = RetrievalSet(
        images=features.values,
        image_ids=features.rows,
        texts=embed_texts([text for _, text in captions]),
        text_ids=np.array([row for row, _ in captions]),
    )
    results, count = recall_estimates(gallery, bootstrap, mesh=mesh), len(data.images)
    details = {"images": len(features.rows), "captions": len(captions)}
    if fold_size is not None and count >= 2 * fold_size:
        folds = recall_estimates(gallery, bootstrap, fold_size=fold_size, image_count=count, mesh=mesh)
        results |= {f"fold_{fold_size}_{name}": estimate for name, estimate in folds.items()}
        details["folds"] = count // fold_size
    return Outcome(results, details)


def zero_shot(
    data: LabelledImages,
    features: Features,
    embed_texts: EmbedTexts,
    templates: tuple[str, ...],
    bootstrap: Bootstrap,
    mesh: Mesh,
    *,
    real: Sequence[Sequence[int]] | None = None,
) -> Outcome:
    """Top-1 and top-5 accuracy of the class whose sentences are nearest.

    Raises:
        BenchmarkError: if the classes have no names.
    """
    names = require_names(data.classes)
    sentences = embed_texts(fill(templates, names))
    classes = class_embeddings(sentences.reshape(len(names), len(templates), -1))
    results: dict[str, Estimate] = {}
    targets = targets_of(data, features.rows, real)
    for prefix, right in targets.right.items():
        ranks = zero_shot_ranks(features.values, classes, right, mesh)
        results |= _accuracy(prefix, ranks, right, bootstrap)
    return Outcome(results, {"images": len(features.rows), "classes": len(names), "templates": list(templates)})


def knn(
    train: tuple[LabelledImages, Features],
    data: LabelledImages,
    features: Features,
    ks: Sequence[int],
    temperature: float,
    bootstrap: Bootstrap,
    mesh: Mesh,
    *,
    real: Sequence[Sequence[int]] | None = None,
    advance: Advance | None = None,
) -> Outcome:
    """Accuracy of the votes of the k nearest training images, each alike and weighted, as `uniform_k=…`."""
    require_same_classes(train[0].classes, data.classes)
    train_labels = train[0].labels[train[1].rows]
    neighbours = nearest_neighbours(features.values, train[1].values, max(ks), mesh, advance=advance)
    targets = targets_of(data, features.rows, real)
    results: dict[str, Estimate] = {}
    for name, weights in (("uniform", None), ("weighted", temperature)):
        for k, predicted in knn_predictions(neighbours, train_labels, ks, mesh, temperature=weights).items():
            for prefix, right in targets.right.items():
                counts = right.any(axis=1)
                hits = right[np.arange(len(right)), predicted][counts]
                results |= estimates([f"{prefix}{name}_k={k}"], hits[:, None].astype(np.float64), bootstrap)
    details = {"images": len(features.rows), "train_images": len(train_labels), "temperature": temperature}
    return Outcome(results, details)


def linear_probe(
    train: tuple[LabelledImages, Features],
    data: LabelledImages,
    features: Features,
    bootstrap: Bootstrap,
    mesh: Mesh,
    *,
    l2_sweep: Sequence[float] = L2_SWEEP,
    held_out_fraction: float = 0.1,
    seed: int = 0,
    real: Sequence[Sequence[int]] | None = None,
    advance: Advance | None = None,
) -> Outcome:
    """Accuracy of a logistic regression on the embeddings; the penalty is chosen on a part of the training images."""
    require_same_classes(train[0].classes, data.classes)
    count = len(data.classes.keys)
    fitted = probe(
        train[1].values, train[0].labels[train[1].rows], count, mesh,
        l2_sweep=l2_sweep, held_out_fraction=held_out_fraction, seed=seed, advance=advance,
    )  # fmt: skip
    results: dict[str, Estimate] = {}
    for prefix, right in targets_of(data, features.rows, real).right.items():
        ranks = probe_ranks(features.values, fitted.classifier, right, mesh)
        results |= _accuracy(prefix, ranks, right, bootstrap)
    details = {
        "images": len(features.rows),
        "train_images": len(train[1].rows),
        "l2": fitted.l2,
        "held_out_accuracy": {f"{l2:g}": accuracy for l2, accuracy in fitted.held_out_accuracy.items()},
    }
    return Outcome(results, details)


def classification(
    data: LabelledImages,
    scores: Features,
    labels: Sequence[str],
    bootstrap: Bootstrap,
    mesh: Mesh,
    *,
    real: Sequence[Sequence[int]] | None = None,
) -> Outcome:
    """Top-1 and top-5 accuracy of a classifier among the classes of the data.

    Args:
        data: images and classes.
        scores: of all classes of the model.
        labels: the model's names of its classes.
        bootstrap: of the intervals.
        mesh: the devices.
        real: ReaL labels of the images.
    """
    columns = class_columns(data.classes, labels)
    results: dict[str, Estimate] = {}
    for prefix, right in targets_of(data, scores.rows, real).right.items():
        ranks = ranks_of(np.ascontiguousarray(scores.values[:, columns]), right, mesh)
        results |= _accuracy(prefix, ranks, right, bootstrap)
    return Outcome(results, {"images": len(scores.rows), "classes": len(columns), "model_classes": len(labels)})


def class_columns(classes: Classes, labels: Sequence[str]) -> Int[np.ndarray, "K"]:
    """Which class of a model each class of a data set is.

    That is its number, where data and model have equally many classes and no name contradicts it (synsets and
    `LABEL_0` never do, and a name that two classes share, such as "crane", does not); else the model must name it.

    Raises:
        BenchmarkError: if a class is none of the model's, or one of several, or if two are the same one.
    """
    places: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        for name in {_plain(label), _plain(label.split(",")[0])}:
            places.setdefault(name, []).append(number)
    names = classes.names or classes.keys
    found = [
        places.get(_plain(key)) or places.get(_plain(name), []) for key, name in zip(classes.keys, names, strict=True)
    ]
    if classes.total == len(labels) and all(
        number in columns or not columns for number, columns in zip(classes.numbers, found, strict=True)
    ):
        return np.array(classes.numbers)
    owner: dict[int, str] = {}
    for key, name, columns in zip(classes.keys, names, found, strict=True):
        shown = key if key == name else f"{key} ({name})"
        if len(columns) != 1:
            which = (
                f"{len(columns)} classes of the model: {columns}" if columns else f"none of its {len(labels)} classes"
            )
            raise BenchmarkError(
                f"class {shown} is by its name {which}; give the list of all classes of the model, in order and with "
                "its names, with --classes"
            )
        if (other := owner.setdefault(columns[0], shown)) != shown:
            raise BenchmarkError(
                f"classes {other} and {shown} are both class {columns[0]} of the model, {labels[columns[0]]!r}; give "
                "them other names with --classes"
            )
    return np.array(list(owner))


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().lower()


def _accuracy(
    prefix: str, ranks: Int[np.ndarray, "n"], right: Bool[np.ndarray, "n K"], bootstrap: Bootstrap
) -> dict[str, Estimate]:
    """Of the images that have a right class."""
    counts = np.any(right, axis=1, keepdims=True)[:, 0]
    return accuracy_estimates(ranks, counts, bootstrap, class_count=right.shape[1], prefix=prefix)
