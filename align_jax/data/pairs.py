"""Settings of a training's input: which pairs, and how they become batches."""

from collections.abc import Sequence
from dataclasses import dataclass

from align_jax.data.images import ImageTransform
from align_jax.data.loader import STALL_SECONDS, TrainLoader
from align_jax.data.mixture import PairMixture
from align_jax.data.quarantine import Quarantine
from align_jax.data.records import PairDataset
from align_jax.data.tar_pairs import TarPairs
from align_jax.data.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PairData:
    """Image-text pairs and how they become batches.

    Attributes:
        train: the pairs to learn from: a prepared data set, tars as they are, or a mixture of such.
        tokenizer: folder with a `tokenizer.json` or `vocab.txt`.
        transform: sizes and augmentation of the images.
        text_length: tokens per caption; longer ones are cut.
        workers: processes that decode and augment; 0 does it in threads of the training process.
        cache_bytes: decoded images kept in memory, so that small data sets are decoded once.
        neighbours: consecutive records that stay together in a batch, as each other's hard negatives.
        max_bad_records: training stops when more records than this cannot be used, over all processes.
        stall_seconds: training stops when it has waited for a batch so long; the message names what was being read.
    """

    train: PairDataset | TarPairs | PairMixture
    tokenizer: str
    transform: ImageTransform
    text_length: int = 64
    workers: int = 0
    cache_bytes: int = 0
    neighbours: int = 1
    max_bad_records: int = 100
    stall_seconds: float = STALL_SECONDS

    def loader(
        self,
        tokenizer: Tokenizer,
        quarantine: Quarantine,
        *,
        batch_size: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> TrainLoader:
        """Opens the training pairs; `rows` are the rows of each batch that this process needs, all when absent."""
        return TrainLoader(
            self.train.open(),
            self.transform,
            tokenizer,
            text_length=self.text_length,
            batch_size=batch_size,
            seed=seed,
            quarantine=quarantine,
            rows=rows,
            workers=self.workers,
            cache_bytes=self.cache_bytes,
            neighbours=self.neighbours,
            stall_seconds=self.stall_seconds,
        )
