"""Embeddings of many images and texts: jitted, sharded over the mesh, in batches of fixed shapes.

Batch norm is folded into the convolutions, and of the text tower's last layer only the token that is read is computed.
A mesh of one CPU computes its batches in pieces, see `lanes.py`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from align_jax.data.loader import EvaluationBatch
from align_jax.data.text import Tokenizer
from align_jax.inference.folding import inference_variables
from align_jax.inference.lanes import Lanes, cached_rows, lane_count
from align_jax.models.align import Align, scale_pixels, unit_length
from align_jax.models.image_tower import largest_map
from align_jax.parallel.mesh import batch_sharding, check_batch_size, place_batch, replicated

Variables = Any
"""What `Encoder.prepare` makes."""

Finish = Callable[[], np.ndarray]
"""Waits for what was started, and gives it: a row for each of the batch."""

_IN_FLIGHT = 2
_SHORTEST_BUCKET = 8


class Encoder:
    """Both towers in evaluation mode.

    Args:
        model: the module; its variables are passed to each call, so a running training can evaluate them.
        mesh: rows of a batch are spread over it.
        tokenizer: of the texts.
        text_length: the most tokens per text.
        batch_size: rows of every batch; must divide over the devices.
        scale: from the pixels of the batches to those that the image tower takes.
    """

    def __init__(
        self,
        model: Align,
        mesh: Mesh,
        tokenizer: Tokenizer,
        *,
        text_length: int,
        batch_size: int,
        scale: Callable[[jax.Array], jax.Array] = scale_pixels,
    ):
        check_batch_size(batch_size, mesh)
        self._tokenizer, self.batch_size = tokenizer, batch_size
        self.text_lengths = text_buckets(text_length)
        self.rows = batch_sharding(mesh)
        self._config = model.config
        encode_images = partial(image_embeddings, model, scale)
        encode_texts = partial(text_embeddings, model)
        self._lanes = lane_count(mesh)
        if self._lanes:
            self._image_lanes, self._text_lanes = (Lanes(f, self._lanes) for f in (encode_images, encode_texts))
        else:
            jit = partial(jax.jit, out_shardings=replicated(mesh))
            self._encode_texts = jit(encode_texts)
            self._encode_images = jit(lambda variables, images, valid: (encode_images(variables, images), valid))
        self._prepare = jax.jit(
            partial(inference_variables, model.config, model.param_dtype), out_shardings=replicated(mesh)
        )

    def prepare(self, variables: Any) -> Variables:
        """The parameters and batch statistics of the model as the programs take them, on every device."""
        return self._prepare(variables)

    def start_images(
        self, variables: Variables, images: np.ndarray, valid: np.ndarray
    ) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Starts one batch, of which this process gives its rows.

        Returns:
            What waits for the embeddings of all rows, on every process, and gives them with all of `valid`. Embeddings
            of rows that are not valid mean nothing.
        """
        if self._lanes:
            row_bytes = 4 * largest_map(self._config.vision_config, images.shape[1], images.shape[2])
            rows = cached_rows(row_bytes, self.batch_size, self._lanes)
            finish = self._image_lanes.start(variables, [images], valid, rows)
            return lambda: (finish(), valid)
        started = self._encode_images(variables, *place_batch((images, valid), self.rows))
        return lambda: jax.device_get(started)

    def images(
        self, variables: Variables, batches: Iterable[EvaluationBatch]
    ) -> tuple[Float[np.ndarray, "N D"], Bool[np.ndarray, "N"]]:
        """Unit-length embeddings of every row, in order, and which rows hold an image.

        Args:
            variables: prepared.
            batches: this process's rows of batches of `batch_size`; rows that are not valid fill a batch.
        """
        started = (self.start_images(variables, batch.images, batch.valid) for batch in batches)
        encoded = list(in_flight(started, lambda finish: finish()))
        if not encoded:
            raise ValueError("there are no batches of images to encode; give at least one")
        embeddings, valid = zip(*encoded, strict=True)
        return np.concatenate(embeddings), np.concatenate(valid)

    def texts(self, variables: Variables, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Unit-length embeddings, in order."""
        if not texts:
            raise ValueError("there are no texts to encode; give at least one")
        return self.tokens(variables, *self.tokenize(texts))

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, "N T"]]:
        """Token ids and mask at full length."""
        return self._tokenizer.encode(texts, self.text_lengths[-1])

    def tokens(
        self, variables: Variables, input_ids: Int[np.ndarray, "N T"], attention_mask: Int[np.ndarray, "N T"]
    ) -> Float[np.ndarray, "N D"]:
        """Unit-length embeddings of tokenized texts, in order; texts of similar length share a batch."""
        lengths = attention_mask.sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        chunks = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

        def start(chunk: np.ndarray) -> Finish:
            length = next(bucket for bucket in self.text_lengths if bucket >= lengths[chunk[-1]])
            filled = np.concatenate([chunk, np.repeat(chunk[:1], self.batch_size - len(chunk))])
            rows = [array[filled, :length] for array in (input_ids, attention_mask)]
            return self._start_texts(variables, rows, len(chunk))

        encoded = np.concatenate(list(in_flight(map(start, chunks), lambda finish: finish())))
        embeddings = np.empty((len(order), encoded.shape[1]), np.float32)
        embeddings[order] = encoded[: len(order)]
        return embeddings

    def _start_texts(self, variables: Variables, rows: list[np.ndarray], count: int) -> Finish:
        """Starts one batch, which every process gives whole; the rows behind the first `count` only fill it."""
        if self._lanes:
            row_bytes = 4 * rows[0].shape[1] * self._config.text_config.intermediate_size
            piece_rows = cached_rows(row_bytes, self.batch_size, self._lanes)
            return self._text_lanes.start(variables, rows, np.arange(self.batch_size) < count, piece_rows)
        started = self._encode_texts(variables, *map(self._place_whole, rows))
        return lambda: jax.device_get(started)

    def _place_whole(self, rows: np.ndarray) -> jax.Array:
        """Every process holds the whole batch and puts its own devices' rows on them."""
        return jax.make_array_from_callback(rows.shape, self.rows, lambda index: rows[index])


def image_embeddings(
    model: Align, scale: Callable[[jax.Array], jax.Array], variables: Variables, images: jax.Array
) -> Float[jax.Array, "B D"]:
    """Unit-length embeddings of pixels, which `scale` brings to what the image tower takes."""
    folded = model.clone(batch_norm="folded")
    return unit_length(folded.apply(variables, scale(images), method=Align.encode_image)[0])


def text_embeddings(
    model: Align, variables: Variables, input_ids: jax.Array, attention_mask: jax.Array
) -> Float[jax.Array, "B D"]:
    """Unit-length embeddings of tokens."""
    folded = model.clone(batch_norm="folded")
    embeddings, _ = folded.apply(variables, input_ids, attention_mask, last_layer_tokens=1, method=Align.encode_text)
    return unit_length(embeddings)


def text_buckets(text_length: int) -> tuple[int, ...]:
    """The lengths that texts are padded to: 8, 16, 32, … and the longest; each is one program."""
    if text_length < 2:
        raise ValueError(f"text_length {text_length} has no room for [CLS] and [SEP]; use 2 or more")
    lengths = []
    while (length := _SHORTEST_BUCKET << len(lengths)) < text_length:
        lengths.append(length)
    return (*lengths, text_length)


def in_flight(started: Iterable[Any], finish: Callable[[Any], Any]) -> Iterator[Any]:
    """Finishes what was started, in order, always with the next already started."""
    waiting: deque[Any] = deque()
    for each in started:
        waiting.append(each)
        if len(waiting) >= _IN_FLIGHT:
            yield finish(waiting.popleft())
    while waiting:
        yield finish(waiting.popleft())
