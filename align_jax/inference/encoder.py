"""Embeddings of many images and texts: jitted, sharded over the mesh, in batches of one fixed shape."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from align_jax.data.loader import EvaluationBatch
from align_jax.data.text import Tokenizer
from align_jax.models.align import Align, unit_length
from align_jax.parallel.mesh import batch_sharding, check_batch_size, place_batch, replicated


class Encoder:
    """Both towers in evaluation mode.

    Args:
        model: the module; its parameters are passed to each call, so a running training can evaluate them.
        mesh: rows of a batch are spread over it.
        tokenizer: of the texts.
        text_length: tokens per text.
        batch_size: rows of every batch; must divide over the devices.
    """

    def __init__(self, model: Align, mesh: Mesh, tokenizer: Tokenizer, *, text_length: int, batch_size: int):
        check_batch_size(batch_size, mesh)
        self._tokenizer, self._text_length, self.batch_size = tokenizer, text_length, batch_size
        self._rows = batch_sharding(mesh)
        jit = partial(jax.jit, out_shardings=replicated(mesh))

        @jit
        def encode_images(variables: Any, images: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
            return unit_length(model.apply(variables, images, method=Align.encode_image)[0]), valid

        @jit
        def encode_texts(variables: Any, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
            return unit_length(model.apply(variables, input_ids, attention_mask, method=Align.encode_text)[0])

        self._encode_images, self._encode_texts = encode_images, encode_texts

    def images(
        self, variables: Any, batches: Iterable[EvaluationBatch]
    ) -> tuple[Float[np.ndarray, "N D"], Bool[np.ndarray, "N"]]:
        """Unit-length embeddings of every row, in order, and which rows hold an image.

        Args:
            variables: parameters and batch statistics.
            batches: this process's rows of batches of `batch_size`; rows that are not valid fill a batch.
        """
        encoded = []
        for batch in batches:
            placed = place_batch((batch.images, batch.valid), self._rows)
            encoded.append(jax.device_get(self._encode_images(variables, *placed)))
        if not encoded:
            raise ValueError("there are no batches of images to encode; give at least one")
        embeddings, valid = zip(*encoded, strict=True)
        return np.concatenate(embeddings), np.concatenate(valid)

    def texts(self, variables: Any, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Unit-length embeddings, in order."""
        if not texts:
            raise ValueError("there are no texts to encode; give at least one")
        embeddings = []
        for start in range(0, len(texts), self.batch_size):
            chunk = list(texts[start : start + self.batch_size])
            filled = chunk + [""] * (self.batch_size - len(chunk))
            tokens = self._tokenizer.encode(filled, self._text_length)
            encoded = self._encode_texts(variables, *map(self._place_whole, tokens))
            embeddings.append(np.asarray(encoded)[: len(chunk)])
        return np.concatenate(embeddings)

    def _place_whole(self, rows: np.ndarray) -> jax.Array:
        """Every process holds the whole batch and puts its own devices' rows on them."""
        return jax.make_array_from_callback(rows.shape, self._rows, lambda index: rows[index])
