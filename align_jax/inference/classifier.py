"""`Classifier`: images in, logits of classes out, in batches of one shape over all devices of all processes.

Processes share the work as those of an `Embedder` do.
"""

from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from PIL import Image

from align_jax.checkpoints import Weights
from align_jax.configuration import EfficientNetConfig, ViTConfig
from align_jax.conversion.model_folder import read_model
from align_jax.data.images import ImageDecodeError
from align_jax.data.preprocessing import Preprocessing
from align_jax.inference.digest import model_digest
from align_jax.inference.dtype import Dtype, require_dtype
from align_jax.inference.folding import inference_variables
from align_jax.inference.image_stream import stream
from align_jax.inference.prefetch import Timings
from align_jax.json_config import ConfigurationError, JsonConfig
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.vit import ViT
from align_jax.parallel.mesh import MeshShape, batch_sharding, check_batch_size, place_batch, process_rows, replicated

Key = TypeVar("Key")


class Classifier:
    """An image classifier, its preprocessing, and the program that runs it.

        classifier = Classifier.from_pretrained("kakaobrain/vit-large-patch16-384")
        logits = classifier.logits([Path("cat.jpg").read_bytes()])
        print(classifier.config.id2label[logits[0].argmax()])

    Args:
        config: of a model with classes.
        variables: `{"params": …}`, with `batch_stats` for an EfficientNet, float32.
        preprocessing: of the images.
        batch_size: rows per batch over all devices.
        dtype: of the parameters and the computation; logits are float32 in any case.
        mesh: the devices; all of them where absent.

    Attributes:
        config: of the model.
        preprocessing: of the images.
        batch_size: rows per batch.
        digest: of configuration and weights (those of the source, so the same for every `dtype`).
    """

    def __init__(
        self,
        config: JsonConfig,
        variables: dict[str, Any],
        preprocessing: Preprocessing,
        *,
        batch_size: int = 32,
        dtype: Dtype = "float32",
        mesh: Mesh | None = None,
    ):
        require_dtype(dtype)
        if not isinstance(config, ViTConfig | EfficientNetConfig) or not config.id2label:
            raise ConfigurationError(
                f"this model of type {config.model_type!r} has no classes of its own; use a ViT or an EfficientNet "
                "whose config.json names them, or an ALIGN model with labels"
            )
        self.digest = model_digest(config, variables)
        mesh = MeshShape().build() if mesh is None else mesh
        check_batch_size(batch_size, mesh)
        self.config, self.preprocessing, self.batch_size = config, preprocessing, batch_size
        self._sharding = batch_sharding(mesh)
        self._rows = process_rows(self._sharding, batch_size)
        types = {"dtype": dtype, "param_dtype": dtype}
        if isinstance(config, ViTConfig):
            apply = ViT(config, **types).apply
        else:
            apply = EfficientNet(config, batch_norm="folded", **types).apply

        def scaled_logits(variables: Any, levels: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
            with jax.default_matmul_precision("float32"):
                features: Any = apply(variables, preprocessing.scale_batch(levels))
            return features.logits, valid

        self._program = jax.jit(scaled_logits, out_shardings=replicated(mesh))
        prepare = jax.jit(partial(inference_variables, config, dtype), out_shardings=replicated(mesh))
        self._variables = prepare(jax.device_get(variables))

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, weights: Weights = "ema", revision: str | None = None, **options: Any
    ) -> Self:
        """Loads a model.

        Args:
            source: a model folder in our form or in that of `transformers`, or an id of the Hub.
            weights: of a workdir: "ema" for the averaged parameters where there are any, "raw" for the last ones.
            revision: branch, tag or commit on the Hub.
            options: of the class.

        Raises:
            FileNotFoundError: if there is no such model, or it lacks its preprocessor file.
            ValueError: if it is no classifier, damaged or incomplete, or the batch does not divide over the devices.
        """
        model = read_model(source, revision=revision, weights=weights)
        return cls(model.config, model.variables, Preprocessing.from_folder(model.folder), **options)

    def logits(self, images: Iterable[bytes | Image.Image | np.ndarray]) -> Float[np.ndarray, "N K"]:
        """One row for each image file, image of Pillow or uint8 RGB pixels [H W 3], in order.

        Raises:
            ImageDecodeError: if an image cannot be decoded; it names the position.
        """
        parts = [np.zeros((0, len(self.config.id2label)), np.float32)]
        for _, logits, refused in self.stream_images(enumerate(images)):
            if refused:
                position, reason = refused[0]
                raise ImageDecodeError(f"image {position}: {reason}")
            parts.append(logits)
        return np.concatenate(parts)

    def stream_images(
        self, items: Iterable[tuple[Key, Any]], timings: Timings | None = None
    ) -> Generator[tuple[list[Key], Float[np.ndarray, "n K"], list[tuple[Key, str]]], None, None]:
        """Classifies images as they come, a batch at a time, in order; close it before the program ends.

        Args:
            items: a key and the bytes of an image file (or Pillow's image, or pixels); taken by a thread, ahead.
            timings: is told how much of the time went into waiting for images.

        Yields:
            Keys of the rows, their logits, and the key and the reason of each image that could not be decoded.
        """
        timings = Timings() if timings is None else timings
        return stream(self._start, items, self.preprocessing, self._rows, self.batch_size, timings)

    def _start(self, levels: np.ndarray, valid: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        started = self._program(self._variables, *place_batch((levels, valid), self._sharding))
        return lambda: jax.device_get(started)
