"""Settings of a training's input of labelled images: which images, and how they become batches."""

from dataclasses import dataclass
from typing import Any

from align_jax.data.labelled import LabelledDataset, LabelledRecord
from align_jax.data.records import RecordSource
from align_jax.data.training_data import TrainingData


@dataclass(frozen=True, kw_only=True)
class LabelData(TrainingData):
    """Labelled images and how they become batches; what is not listed here is in `TrainingData`.

    Attributes:
        train: the images to learn from.
        max_labels: the most labels that an image has; one with more is put aside as a bad record.
    """

    train: LabelledDataset
    max_labels: int = 1

    def open(self) -> RecordSource[LabelledRecord]:
        """The images to learn from."""
        return self.train.open()

    def order(self) -> dict[str, Any]:
        """As `TrainingData.order`; the threshold decides which labels an image has."""
        return super().order() | {"least_probability": self.train.least_probability}
