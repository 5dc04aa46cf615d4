"""Settings of a training's input of pairs: which pairs, and how they become batches."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from align_jax.data.mixture import PairMixture
from align_jax.data.records import PairDataset, PairRecord, PairSequence
from align_jax.data.tar_pairs import TarPairs
from align_jax.data.text import TOKENIZER_FILES, Tokenizer
from align_jax.data.training_data import TrainingData
from align_jax.types import PairBatch


@dataclass(frozen=True, kw_only=True)
class PairData(TrainingData):
    """Image-text pairs and how they become batches; what is not listed here is in `TrainingData`.

    Attributes:
        train: the pairs to learn from: a prepared data set, tars as they are, or a mixture of such.
        tokenizer: folder with a `tokenizer.json` or `vocab.txt`.
        text_length: tokens per caption; longer ones are cut.
    """

    train: PairDataset | TarPairs | PairMixture
    tokenizer: str
    text_length: int = 64

    def open(self) -> PairSequence:
        """The pairs to learn from."""
        return self.train.open()

    def order(self) -> dict[str, Any]:
        """As `TrainingData.order`: another vocabulary at the same path would scramble a run that continues."""
        digest = hashlib.sha256()
        for path in self.model_files():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return super().order() | {"tokenizer": digest.hexdigest()[:16]}

    def model_files(self) -> list[Path]:
        """The tokenizer's."""
        paths = [Path(self.tokenizer) / name for name in TOKENIZER_FILES]
        return [path for path in paths if path.exists()]


@dataclass(frozen=True)
class PairBatching:
    """Makes batches of images and tokens.

    Attributes:
        tokenizer: makes the tokens.
        text_length: tokens per caption; longer captions are cut.
    """

    tokenizer: Tokenizer
    text_length: int

    def read(self, record: PairRecord) -> tuple[str, ...]:
        """The captions of a record."""
        return record.texts

    def draw(self, texts: tuple[str, ...], rng: np.random.Generator) -> str:
        """Of several captions one is picked each time."""
        return texts[int(rng.integers(len(texts)))] if len(texts) > 1 else texts[0]

    def batch(self, images: UInt8[np.ndarray, "B H W 3"], texts: Sequence[str]) -> PairBatch:
        """Tokens and their mask."""
        return PairBatch(images, *self.tokenizer.encode(texts, self.text_length))
