"""Settings that every training's input has, whatever stands beside its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_jax.data.images import ImageTransform
from align_jax.data.loader import STALL_SECONDS, Batching, TrainLoader
from align_jax.data.quarantine import Quarantine
from align_jax.data.records import RecordSequence


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Images, and how they become batches.

    Attributes:
        transform: sizes and augmentation of the images.
        workers: processes that decode and augment; 0 does it in threads of the training process.
        cache_bytes: decoded images kept in memory, so that small data sets are decoded once.
        neighbours: consecutive records that stay together in a batch, as each other's hard negatives.
        max_bad_records: training stops when more records than this cannot be used, over all processes.
        stall_seconds: training stops when it has waited for a batch so long; the message names what was being read.
    """

    transform: ImageTransform
    workers: int = 0
    cache_bytes: int = 0
    neighbours: int = 1
    max_bad_records: int = 100
    stall_seconds: float = STALL_SECONDS

    def open(self) -> RecordSequence:
        """The records to learn from."""
        raise NotImplementedError(f"{type(self).__name__} is no data by itself; use PairData or LabelData")

    def order(self) -> dict[str, Any]:
        """What the order of examples, and what stands beside their images, follow from besides seed and batch size."""
        return {"neighbours": self.neighbours}

    def model_files(self) -> list[Path]:
        """Files that a folder of the trained model needs a copy of."""
        return []

    def loader(
        self,
        batching: Batching,
        quarantine: Quarantine,
        *,
        batch_size: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> TrainLoader:
        """Opens the records; `rows` are the rows of each batch that this process needs, all when absent."""
        return TrainLoader(
            self.open(),
            self.transform,
            batching,
            batch_size=batch_size,
            seed=seed,
            quarantine=quarantine,
            rows=rows,
            workers=self.workers,
            cache_bytes=self.cache_bytes,
            neighbours=self.neighbours,
            stall_seconds=self.stall_seconds,
        )
