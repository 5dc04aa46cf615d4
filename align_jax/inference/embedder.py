"""`Embedder`: image files and texts in, unit-length embeddings out, on all devices of all processes.

    embedder = Embedder.from_pretrained("kakaobrain/align-base")
    images = embedder.images([Path("cat.jpg"), Path("dog.png")])
    texts = embedder.texts(["a cat", "a dog"])
    cosines = images @ texts.T

Where the mesh spreads over several processes, each makes the same calls with the same inputs; each decodes a part of
the images, and each gets all embeddings. With a mesh of its own devices, a process works for itself.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from PIL import Image

from align_jax.checkpoints import Weights
from align_jax.configuration import AlignConfig
from align_jax.conversion.model_folder import read_model
from align_jax.data.images import ImageDecodeError
from align_jax.data.preprocessing import Preprocessing
from align_jax.data.text import Tokenizer
from align_jax.inference.digest import model_digest
from align_jax.inference.dtype import Dtype, require_dtype
from align_jax.inference.encoder import Encoder
from align_jax.inference.image_stream import measured, stream
from align_jax.inference.prefetch import Timings, prefetched, timed
from align_jax.inference.text_length import RELEASED_TEXT_LENGTH, text_length_of
from align_jax.models.align import Align
from align_jax.parallel.mesh import MeshShape, process_rows

Key = TypeVar("Key")

_WINDOW_BATCHES = 16  # of texts, which are sorted by length within it


class Embedder:
    """A model, its preprocessing, and the programs that run it.

    Args:
        config: of the model.
        variables: `{"params": …, "batch_stats": …}`, float32.
        tokenizer: of the texts.
        preprocessing: of the images.
        batch_size: rows per batch over all devices.
        dtype: of the parameters and the computation.
        mesh: the devices; all of them where absent.
        text_length: the most tokens per text; longer texts are cut.

    Attributes:
        config: of the model.
        embedding_size: width of the embeddings.
        batch_size: rows per batch.
        preprocessing: of the images.
        dtype: of the parameters and the computation.
        text_length: the most tokens per text.
        digest: of configuration and weights (those of the source, so the same for every `dtype`).
        temperature: what cosines are divided by, to be logits.
    """

    def __init__(
        self,
        config: AlignConfig,
        variables: dict[str, Any],
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        *,
        batch_size: int = 32,
        dtype: Dtype = "float32",
        mesh: Mesh | None = None,
        text_length: int = RELEASED_TEXT_LENGTH,
    ):
        require_dtype(dtype)
        if text_length > config.text_config.max_position_embeddings:
            raise ValueError(
                f"text_length {text_length} is more than the model's {config.text_config.max_position_embeddings} "
                "positions; use at most as many"
            )
        self.config, self.preprocessing, self.dtype = config, preprocessing, dtype
        self.batch_size, self.text_length = batch_size, text_length
        self.embedding_size: int = config.projection_dim
        self.temperature = float(variables["params"]["temperature"])
        self.digest = model_digest(config, variables)
        self._encoder = Encoder(
            Align(config, dtype=dtype, param_dtype=dtype),
            MeshShape().build() if mesh is None else mesh,
            tokenizer,
            text_length=text_length,
            batch_size=batch_size,
            scale=preprocessing.scale_batch,
        )
        # On the host, from where they go to all devices; what is on one device is refused there.
        self._variables = self._encoder.prepare(jax.device_get(variables))
        self._rows = process_rows(self._encoder.rows, batch_size)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        batch_size: int = 32,
        dtype: Dtype = "float32",
        weights: Weights = "ema",
        mesh: Mesh | None = None,
        text_length: int | None = None,
        revision: str | None = None,
    ) -> Self:
        """Loads a model.

        Args:
            source: a model folder in our form or in that of `transformers`, the workdir of a training run, or an id of
                the Hub.
            batch_size: as for the class.
            dtype: as for the class.
            weights: of a workdir: "ema" for the averaged parameters where there are any, "raw" for the last ones.
            mesh: as for the class.
            text_length: as for the class; that of the training where absent and known, else 64.
            revision: branch, tag or commit on the Hub.

        Raises:
            FileNotFoundError: if there is no such model, or it lacks its tokenizer or preprocessor files.
            ValueError: if it is not an ALIGN model, damaged or incomplete, or the batch does not divide over the
                devices.
        """
        model = read_model(source, model_type="align", revision=revision, weights=weights)
        config: Any = model.config  # an AlignConfig, as asked for
        return cls(
            config,
            model.variables,
            Tokenizer(model.folder),
            Preprocessing.from_folder(model.folder),
            batch_size=batch_size,
            dtype=dtype,
            mesh=mesh,
            text_length=text_length_of(model.folder, config) if text_length is None else text_length,
        )

    def images(self, images: Iterable[bytes | Path | Image.Image | np.ndarray]) -> Float[np.ndarray, "N D"]:
        """Unit-length embeddings, in order, of image files, Pillow's images or uint8 RGB pixels [H W 3].

        Raises:
            ImageDecodeError: if an image cannot be decoded; it names the position.
        """
        items = ((position, _content(image)) for position, image in enumerate(images))
        parts = [np.zeros((0, self.embedding_size), np.float32)]
        for _, embeddings, refused in self.stream_images(items):
            if refused:
                position, reason = refused[0]
                raise ImageDecodeError(f"image {position}: {reason}")
            parts.append(embeddings)
        return np.concatenate(parts)

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Unit-length embeddings, in order."""
        if isinstance(texts, str):
            raise ValueError(f"texts is one string, {texts[:40]!r}; give a list of them")
        if not texts:
            return np.zeros((0, self.embedding_size), np.float32)
        return self._encoder.texts(self._variables, texts)

    def stream_images(
        self, items: Iterable[tuple[Key, Any]], timings: Timings | None = None
    ) -> Generator[tuple[list[Key], Float[np.ndarray, "n D"], list[tuple[Key, str]]], None, None]:
        """Embeds images as they come, a batch at a time, in order; close it before the program ends.

        Args:
            items: a key and the bytes of an image file (or Pillow's image, or pixels); taken by a thread, ahead.
            timings: is told how much of the time went into waiting for images.

        Yields:
            Keys of the rows, their unit-length embeddings, and the key and the reason of each image that could not be
            decoded.
        """
        timings = Timings() if timings is None else timings
        start = partial(self._encoder.start_images, self._variables)
        return stream(start, items, self.preprocessing, self._rows, self.batch_size, timings)

    def stream_texts(
        self, items: Iterable[tuple[Key, str]], timings: Timings | None = None
    ) -> Generator[tuple[list[Key], Float[np.ndarray, "n D"]], None, None]:
        """Embeds texts as they come, some batches at a time, in order; close it before the program ends.

        Args:
            items: a key and a text; taken by a thread, ahead.
            timings: is told how much of the time went into waiting for texts.

        Yields:
            Keys and their unit-length embeddings.
        """
        timings = Timings() if timings is None else timings

        def tokenized() -> Iterator[Any]:
            source = iter(items)
            while window := list(islice(source, _WINDOW_BATCHES * self.batch_size)):
                keys, texts = zip(*window, strict=True)
                yield list(keys), self._encoder.tokenize(texts)

        def results() -> Generator[Any, None, None]:
            with closing(prefetched(tokenized(), 1)) as windows:
                for keys, tokens in timed(windows, timings):
                    yield keys, self._encoder.tokens(self._variables, *tokens)

        with closing(measured(results(), timings)) as found:
            for keys, embeddings in found:
                timings.inputs += len(keys)
                yield keys, embeddings


def _content(image: bytes | Path | Image.Image | np.ndarray) -> bytes | Image.Image | np.ndarray:
    return image.read_bytes() if isinstance(image, Path) else image
