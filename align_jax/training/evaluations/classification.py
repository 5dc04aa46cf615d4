"""Classification beside a training: how often the first classes are right, on images that were held out."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from align_jax.data.labelled import LabelBatching, LabelledDataset, LabelledRecord
from align_jax.data.loader import EvaluationLoader
from align_jax.data.quarantine import Quarantine
from align_jax.data.records import RecordError, RecordSource
from align_jax.data.training_data import TrainingData
from align_jax.evaluation.classification import CUTOFFS
from align_jax.metrics import class_ranks
from align_jax.models.align import scale_pixels
from align_jax.parallel.mesh import batch_sharding, check_batch_size, place_batch, process_rows, replicated
from align_jax.training.classes import names_of_classes
from align_jax.training.evaluations.every import Every


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationEvaluation:
    """Top-1 and top-5 accuracy, now and then and at the end.

    Attributes:
        name: prefix of the numbers in `metrics.jsonl`.
        data: the images; where one has several classes, any of them is right (ReaL, arXiv 2006.07159).
        every: how often.
        batch_size: images at once.
    """

    examples: ClassVar[str] = "images"

    name: str
    data: LabelledDataset
    every: Every = Every(1000)
    batch_size: int = 256

    @property
    def datasets(self) -> tuple[LabelledDataset, ...]:
        """What is read."""
        return (self.data,)


@dataclasses.dataclass(frozen=True)
class ClassificationOutcome:
    """Accuracy, and what it was computed from.

    Attributes:
        numbers: `top1` and, of more than five classes, `top5`; `class_mean_top1` is the mean of the classes' own, so
            that a class of many images does not hide the others.
        source: the records.
        right: their classes, by number.
        shown: positions of some of them, evenly spread.
        probabilities: of all classes, for those; of each by itself where the model is for images of several classes.
        class_names: in order.
    """

    numbers: dict[str, float]
    source: RecordSource[LabelledRecord]
    right: Sequence[tuple[int, ...]]
    shown: Int[np.ndarray, "S"]
    probabilities: Float[np.ndarray, "S K"]
    class_names: tuple[str, ...]


class HeldOutClassification:
    """One `ClassificationEvaluation` with its data opened and its program made once."""

    def __init__(
        self,
        settings: ClassificationEvaluation,
        module: Any,  # a ViT or EfficientNet with classes
        mesh: Mesh,
        batching: LabelBatching,
        data: TrainingData,
        quarantine: Quarantine,
    ):
        check_batch_size(settings.batch_size, mesh)
        self.settings = settings
        self._names = names_of_classes(module.config.id2label, settings.data)
        several = module.config.problem_type == "multi_label_classification"
        self._probabilities = jax.nn.sigmoid if several else jax.nn.softmax
        self._source = settings.data.open()
        # ReaL has images of no class, and of more classes than are learnt from.
        reading = dataclasses.replace(batching, least_labels=0, max_labels=batching.class_count)
        self._right = [_classes(self._source, index, reading, quarantine) for index in range(len(self._source))]
        self._rows = batch_sharding(mesh)
        self._loader = EvaluationLoader(
            self._source,
            data.transform,
            settings.batch_size,
            quarantine,
            rows=process_rows(self._rows, settings.batch_size),
            stall_seconds=data.stall_seconds,
        )

        def logits(variables: Any, images: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
            return module.apply(variables, scale_pixels(images)).logits, valid

        self._logits = jax.jit(logits, out_shardings=replicated(mesh))

    def run(self, variables: dict[str, Any], between: Callable[[], None] = lambda: None) -> ClassificationOutcome:
        """Classifies everything; images that do not decode, and those without a class, do not count.

        Args:
            variables: of the model.
            between: called before each batch; what it raises ends the evaluation.
        """
        count, shown = len(self._right), _spread(len(self._right), 24)
        ranks, valid = np.zeros(count, np.int64), np.zeros(count, np.bool_)
        probabilities = np.zeros((len(shown), len(self._names)), np.float32)
        with closing(self._loader.iterate()) as batches:
            for number, batch in enumerate(batches):
                between()
                logits, whole = jax.device_get(self._logits(variables, *place_batch(tuple(batch), self._rows)))
                positions = np.arange(number * len(logits), min(count, (number + 1) * len(logits)))
                right = np.zeros(logits.shape, np.bool_)
                for row, position in enumerate(positions):
                    right[row, list(self._right[position])] = True
                ranks[positions] = np.asarray(class_ranks(logits, right))[: len(positions)]
                valid[positions] = whole[: len(positions)] & np.any(right, axis=1)[: len(positions)]
                for place in np.flatnonzero(np.isin(shown, positions)):
                    probabilities[place] = self._probabilities(jnp.asarray(logits[shown[place] - positions[0]]))
        numbers = _accuracy(ranks, valid, [labels[0] if labels else 0 for labels in self._right], len(self._names))
        return ClassificationOutcome(numbers, self._source, self._right, shown, probabilities, self._names)


def _classes(
    source: RecordSource[LabelledRecord], index: int, batching: LabelBatching, quarantine: Quarantine
) -> tuple[int, ...]:
    """The classes of a record; none where it cannot be used."""
    try:
        return batching.read(source[index])
    except RecordError as error:
        quarantine.add(f"record {index}", str(error))
        return ()


def _accuracy(
    ranks: Int[np.ndarray, "N"], valid: Bool[np.ndarray, "N"], first_labels: Sequence[int], class_count: int
) -> dict[str, float]:
    """Shares of the valid rows; nan where there is none."""
    if not valid.any():
        return {"top1": float("nan")}
    numbers = {f"top{k}": float(np.mean(ranks[valid] < k)) for k in CUTOFFS if k == 1 or k < class_count}
    classes = np.asarray(first_labels)[valid]
    of_class = np.bincount(classes, weights=ranks[valid] < 1, minlength=class_count)
    images = np.bincount(classes, minlength=class_count)
    return numbers | {"class_mean_top1": float(np.mean(of_class[images > 0] / images[images > 0]))}


def _spread(count: int, most: int) -> Int[np.ndarray, "S"]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
