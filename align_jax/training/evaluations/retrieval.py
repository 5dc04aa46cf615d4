"""Retrieval beside a training: pictures by captions and captions by pictures."""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from typing import Any, ClassVar, Literal

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from align_jax.data.loader import EvaluationLoader
from align_jax.data.pairs import PairBatching, PairData
from align_jax.data.quarantine import Quarantine
from align_jax.data.records import PairDataset, PairRecord, PairSequence, RecordError
from align_jax.evaluation.retrieval import RetrievalSet, recall
from align_jax.inference.encoder import Encoder
from align_jax.models.align import Align
from align_jax.parallel.mesh import batch_sharding, process_rows
from align_jax.training.evaluations.every import Every


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalEvaluation:
    """Recall in both directions, now and then and at the end.

    Attributes:
        name: prefix of the numbers in `metrics.jsonl`.
        queries: split whose images and captions are looked up.
        distractors: split that is searched besides the queries; none when absent.
        captions: whether an image's first caption counts, or all of them.
        every: how often.
        batch_size: rows encoded at once.
    """

    examples: ClassVar[str] = "pairs"

    name: str
    queries: PairDataset
    distractors: PairDataset | None = None
    captions: Literal["first", "all"] = "first"
    every: Every = Every(1000)
    batch_size: int = 256

    @property
    def datasets(self) -> tuple[PairDataset, ...]:
        """What is read."""
        return (self.queries,) if self.distractors is None else (self.queries, self.distractors)


@dataclasses.dataclass(frozen=True)
class RetrievalOutcome:
    """Recall, and the embeddings and records it was computed from.

    Attributes:
        recall: by direction and cutoff.
        embedded: everything that was searched; ids are positions in `records`.
        records: queries first, then distractors.
        texts: the captions, in the order of the embedded texts.
        query_ids: positions of the queries.
    """

    recall: dict[str, float]
    embedded: RetrievalSet
    records: list[PairRecord]
    texts: list[str]
    query_ids: Int[np.ndarray, "Q"]

    @property
    def numbers(self) -> dict[str, float]:
        """What is recorded."""
        return self.recall


class Retrieval:
    """One `RetrievalEvaluation` with its data opened and its encoder compiled once."""

    def __init__(
        self,
        settings: RetrievalEvaluation,
        module: Align,
        mesh: Mesh,
        batching: PairBatching,
        data: PairData,
        quarantine: Quarantine,
    ):
        self.settings = settings
        tokenizer, length = batching.tokenizer, batching.text_length
        self._encoder = Encoder(module, mesh, tokenizer, text_length=length, batch_size=settings.batch_size)
        sources = [settings.queries.open()] + ([settings.distractors.open()] if settings.distractors else [])
        self._records = [_read(source, index, quarantine) for source in sources for index in range(len(source))]
        self._query_ids = np.arange(len(sources[0]))
        self._loader = EvaluationLoader(
            self._records,
            data.transform,
            settings.batch_size,
            quarantine,
            rows=process_rows(batch_sharding(mesh), settings.batch_size),
            stall_seconds=data.stall_seconds,
        )

    def run(self, variables: dict[str, Any], between: Callable[[], None] = lambda: None) -> RetrievalOutcome:
        """Embeds everything and measures recall; pictures that do not decode are neither asked for nor found.

        Args:
            variables: of the model.
            between: called before each batch of images, and before the texts; what it raises ends the evaluation.
        """
        prepared = self._encoder.prepare(variables)
        captions = slice(1) if self.settings.captions == "first" else slice(None)
        texts = [(index, text) for index, record in enumerate(self._records) for text in record.texts[captions]]
        with closing(self._loader.iterate()) as batches:
            images, valid = self._encoder.images(prepared, (batch for batch in batches if between() is None))
        between()
        image_ids = np.flatnonzero(valid[: len(self._records)])
        embedded = RetrievalSet(
            images=images[image_ids],
            image_ids=image_ids,
            texts=self._encoder.texts(prepared, [text for _, text in texts]),
            text_ids=np.array([index for index, _ in texts]),
        )
        query_ids = np.intersect1d(self._query_ids, image_ids)
        return RetrievalOutcome(
            recall=recall(embedded, query_ids),
            embedded=embedded,
            records=self._records,
            texts=[text for _, text in texts],
            query_ids=query_ids,
        )


def _read(source: PairSequence, index: int, quarantine: Quarantine) -> PairRecord:
    """A record, or what stands for it where it cannot be read: no image that decodes, and no captions."""
    try:
        return source[index]
    except RecordError as error:
        key = f"record {index}"
        quarantine.add(key, str(error))
        return PairRecord(key, b"", ())
