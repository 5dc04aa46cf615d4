"""Embeddings of a benchmark: computed now, or taken from folders of `align-jax embed`."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from align_jax.data.benchmarks import BenchmarkError, ImageSet
from align_jax.inference.classifier import Classifier
from align_jax.inference.embedder import Embedder
from align_jax.inference.embedding.folder import read_embeddings, read_refused

Advance = Callable[[int], Any]


class Features(NamedTuple):
    """What a model makes of a set of images."""

    values: Float[np.ndarray, "n _"]  # embeddings, or scores of classes
    rows: Int[np.ndarray, "n"]  # their places in the set
    bad_images: list[tuple[str, str]]  # ids of the others, and why


def embed_images(embedder: Embedder, images: ImageSet, advance: Advance) -> Features:
    """Embeds every image that decodes; `advance` is called with the number of images that are done."""
    return _of_images(embedder.stream_images(_contents(images)), embedder.embedding_size, images, advance)


def score_images(classifier: Classifier, images: ImageSet, advance: Advance) -> Features:
    """Logits of every image that decodes; `advance` as for `embed_images`."""
    return _of_images(classifier.stream_images(_contents(images)), len(classifier.config.id2label), images, advance)


def _contents(images: ImageSet) -> Iterator[tuple[int, bytes]]:
    return ((row, images.read(row)) for row in range(len(images)))


def _of_images(
    batches: Generator[tuple[list[int], np.ndarray, list[tuple[int, str]]], None, None],
    width: int,
    images: ImageSet,
    advance: Advance,
) -> Features:
    """What a model streams for the places of images."""
    values, rows, bad = [np.zeros((0, width), np.float32)], [], []
    with closing(batches):
        for keys, found, refused in batches:
            _require_finite(found, [images.ids[row] for row in keys])
            values.append(found)
            rows += keys
            bad += [(images.ids[row], reason) for row, reason in refused]
            advance(len(keys) + len(refused))
    return _usable(Features(np.concatenate(values), np.array(rows, np.int64), bad), images)


def embed_texts(embedder: Embedder, texts: Sequence[str], advance: Advance) -> Float[np.ndarray, "N D"]:
    """Embeds every text, in order."""
    values = [np.zeros((0, embedder.embedding_size), np.float32)]
    with closing(embedder.stream_texts(enumerate(texts))) as batches:
        for keys, embeddings in batches:
            _require_finite(embeddings, [texts[row] for row in keys])
            values.append(embeddings)
            advance(len(keys))
    return np.concatenate(values)


def read_features(folders: Sequence[Path], images: ImageSet, model_digest: str | None = None) -> Features:
    """Takes embeddings of images out of folders of `align-jax embed`.

    An image is found by its id, which is its path in the folder of the data, or by that with the name of the folder
    that was embedded in front: so `val` may have been embedded by itself.

    Args:
        folders: in which the embeddings are.
        images: that are wanted.
        model_digest: of the model that must have made them; any model where it is absent.

    Raises:
        FileNotFoundError: if a folder holds no embeddings.
        ValueError: if they are not finished, not of images, of another model or of several, or not finite; or lack an
            image.
    """
    places: dict[str, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    matrices = []
    for number, folder in enumerate(folders):
        read = read_embeddings(folder, columns=[])
        if read.metadata.get("content", "images") != "images":
            raise BenchmarkError(f"{folder} holds embeddings of {read.metadata['content']}; give those of images")
        digest = read.metadata.get("model", {}).get("digest")
        model_digest = digest if model_digest is None else model_digest
        if digest != model_digest:
            raise BenchmarkError(
                f"the embeddings of {folder} are of model {str(digest)[:12]}, not {str(model_digest)[:12]}; embed the "
                "images again with the model that is evaluated (and the same --weights)"
            )
        matrices.append(read.embeddings)
        sources = read.metadata.get("input", {}).get("source", [])
        parent = f"{Path(sources[0]).name}/" if len(sources) == 1 else ""
        for row, name in enumerate(read.ids):
            places[name] = places[parent + name] = (number, row)
        for name, reason in read_refused(folder):
            refused[name] = refused[parent + name] = reason
    missing = [name for name in images.ids if name not in places and name not in refused]
    if missing:
        raise BenchmarkError(
            f"{len(missing)} of {len(images)} images have no embedding in {', '.join(map(str, folders))}, such as "
            f"{missing[0]}; embed the folder of the data, or a folder in it"
        )
    rows = [row for row, name in enumerate(images.ids) if name in places]
    found = np.array([places[images.ids[row]] for row in rows], np.int64).reshape(-1, 2)
    values = np.empty((len(rows), matrices[0].shape[1]), np.float32)
    for number, matrix in enumerate(matrices):
        here = found[:, 0] == number
        values[here] = matrix[found[here, 1]]
    _require_finite(values, [images.ids[row] for row in rows])
    bad = [(name, refused[name]) for name in images.ids if name not in places]
    return _usable(Features(values, np.array(rows, np.int64), bad), images)


def _require_finite(values: Float[np.ndarray, "n _"], names: Sequence[str]) -> None:
    """Nothing can be compared with what is not a number, and no rank of it would mean anything."""
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~np.isfinite(values.sum(axis=1, dtype=np.float64)))
    if len(wrong):
        raise BenchmarkError(
            f"the model gives {names[wrong[0]]!r} values that are not finite, and {len(wrong) - 1} more of "
            f"{len(names)}; use weights that are finite, and --dtype float32"
        )


def _usable(features: Features, images: ImageSet) -> Features:
    if not len(features.rows):
        name, reason = features.bad_images[0] if features.bad_images else ("there is none", "no image")
        raise BenchmarkError(f"not one of {len(images)} images can be used, such as {name}: {reason}")
    return features
