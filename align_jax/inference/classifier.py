"""`Classifier`: images in, logits of classes out, in batches of one shape over all devices of this process."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from PIL import Image

from align_jax.checkpoints import Weights
from align_jax.configuration import EfficientNetConfig, ViTConfig
from align_jax.conversion.architectures import architecture_of
from align_jax.conversion.model_folder import read_model
from align_jax.data.preprocessing import Preprocessing
from align_jax.inference.folding import fold_batch_norm
from align_jax.json_config import ConfigurationError, JsonConfig
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.vit import ViT
from align_jax.parallel.mesh import MeshShape, batch_sharding, check_batch_size, replicated

Dtype = Literal["float32", "bfloat16"]


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
        if dtype not in get_args(Dtype):
            raise ValueError(f"dtype {dtype!r} is not supported; use one of {', '.join(get_args(Dtype))}")
        if not isinstance(config, ViTConfig | EfficientNetConfig) or not config.id2label:
            raise ConfigurationError(
                f"this model of type {config.model_type!r} has no classes of its own; use a ViT or an EfficientNet "
                "whose config.json names them, or an ALIGN model with labels"
            )
        mesh = MeshShape().build() if mesh is None else mesh
        check_batch_size(batch_size, mesh)
        self.config, self.preprocessing, self.batch_size = config, preprocessing, batch_size
        self._rows = batch_sharding(mesh)
        types = {"dtype": dtype, "param_dtype": dtype}
        if isinstance(config, ViTConfig):
            apply, epsilon = ViT(config, **types).apply, 0.0  # which has no batch norm to fold
        else:
            apply, epsilon = EfficientNet(config, batch_norm="folded", **types).apply, config.batch_norm_eps
        self._program = jax.jit(partial(_logits, apply), out_shardings=replicated(mesh))
        fold = partial(fold_batch_norm, epsilon=epsilon)
        targets = jax.eval_shape(fold, architecture_of(config.model_type).abstract_variables(config, dtype))
        prepare = jax.jit(
            lambda tree: jax.tree.map(lambda leaf, target: leaf.astype(target.dtype), fold(tree), targets),
            out_shardings=replicated(mesh),
        )
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

    def logits(self, images: Sequence[bytes | Image.Image | np.ndarray]) -> Float[np.ndarray, "N K"]:
        """One row for each image file, image of Pillow or uint8 RGB pixels [H W 3], in order.

        Raises:
            ImageDecodeError: if an image cannot be decoded.
        """
        started = [
            self._start(images[start : start + self.batch_size]) for start in range(0, len(images), self.batch_size)
        ]
        empty = np.zeros((0, len(self.config.id2label)), np.float32)
        return np.concatenate([empty, *map(np.asarray, started)])[: len(images)]

    def _start(self, images: Sequence[bytes | Image.Image | np.ndarray]) -> jax.Array:
        """Starts a batch; rows of zeros fill it up."""
        pixels = self.preprocessing.batch(images)
        missing = self.batch_size - len(pixels)
        whole = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0)))
        return self._program(self._variables, jax.device_put(whole, self._rows))


def _logits(apply: Callable[..., Any], variables: Any, images: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("float32"):
        return apply(variables, images).logits
