"""Classification of images: a Vision Transformer or an EfficientNet, and the classes of each image."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from align_jax.configuration import ConfigurationError, EfficientNetConfig, ViTConfig
from align_jax.configuration.labels import ProblemType
from align_jax.data.labelled import LabelBatching
from align_jax.data.labels import LabelData
from align_jax.data.preprocessing import Preprocessing
from align_jax.data.training_data import TrainingData
from align_jax.losses.labels import first_is_right, sigmoid_losses, softmax_losses
from align_jax.models import image_tower
from align_jax.models.align import scale_pixels
from align_jax.models.efficientnet import EfficientNet
from align_jax.models.rematerialization import check_parts, parts_below
from align_jax.models.vit import ViT
from align_jax.ops.batch_norm import group_count
from align_jax.training.classes import names_of_classes
from align_jax.training.micro_batches import check_micro_batches, in_micro_batches
from align_jax.training.tasks.images import abstract_images, check_image_size
from align_jax.types import LabelBatch

ClassifierConfig = ViTConfig | EfficientNetConfig
"""The models that have classes."""

_PROBLEM_TYPES: dict[str, ProblemType] = {
    "softmax": "single_label_classification", "sigmoid": "multi_label_classification",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """Every image and its classes.

    Attributes:
        model: a classifier: its `id2label` names the classes.
        objective: "sigmoid" asks of each class by itself whether the image shows it, summed over the classes; "softmax"
            which one it shows, or which of several, equally.
        label_smoothing: share of the softmax's target that is spread over all classes.
        first_class_bias: what the classifier's bias starts from. -10 says that an image shows next to none of many
            classes; the released trainer's configuration has it, and its code leaves it at 0.
        accumulation: micro-batches that are taken one after the other; the gradient is that of the whole batch. Dropout
            draws differ.
        batch_norm_group_size: examples that share batch-norm statistics, the whole batch when absent; of an
            EfficientNet, as a Vision Transformer has no batch norm.
        rematerialize: parts of the tower that keep only the input of each block for the gradient and compute the rest
            again: `image/layers`, or some of `image/stem`, `image/stage_1`, …. Less memory, more FLOPs, same numbers.
        dtype: of the computation inside the tower; bfloat16 for TPU and GPU, float32 for CPU.

    Raises:
        ConfigurationError: if the model has no classes, or a number cannot be what it is.
    """

    examples: ClassVar[str] = "images"

    model: ClassifierConfig
    objective: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0
    first_class_bias: float = 0.0
    accumulation: int = 1
    batch_norm_group_size: int | None = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    rematerialize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.model.id2label:
            raise ConfigurationError("the model has no classes to learn; give it id2label, a name for each")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigurationError(f"label_smoothing {self.label_smoothing} is not between 0 and 1")
        if self.label_smoothing and self.objective == "sigmoid":
            raise ConfigurationError(
                f"label_smoothing {self.label_smoothing} is of the softmax; the sigmoid objective has none"
            )
        if self.model.problem_type not in (None, _PROBLEM_TYPES[self.objective]):
            raise ConfigurationError(
                f"the model's problem_type {self.model.problem_type!r} is not that of the objective "
                f"{self.objective!r}; leave it out, or use {_PROBLEM_TYPES[self.objective]!r}"
            )
        parts = image_tower.rematerializable_parts(self.model)
        check_parts(self.rematerialize, tuple(f"image/{part}" for part in parts))
        check_micro_batches(0, self.accumulation, self.examples_together)

    @property
    def examples_together(self) -> int | None:
        """Consecutive examples that depend on each other in training, 1 without batch norm; `None` for all of them."""
        return 1 if isinstance(self.model, ViTConfig) else self.batch_norm_group_size

    def check_batch_size(self, batch_size: int, shards: int = 1) -> None:
        """Refuses a global batch that does not divide into micro-batches and batch-norm groups.

        Args:
            batch_size: images of a step.
            shards: devices that share them; 1 while they are not known.

        Raises:
            ValueError: with the nearest sizes that would do.
        """
        group_count(batch_size, self.examples_together)
        check_micro_batches(batch_size, self.accumulation, self.examples_together, shards)

    def check_data(self, data: TrainingData) -> None:
        """Refuses data that is not what the model takes.

        Raises:
            ConfigurationError: with what does not fit.
        """
        check_image_size(data, self.model.image_size)
        if not isinstance(data, LabelData):
            raise ConfigurationError(f"classification takes labelled images (LabelData), not {type(data).__name__}")

    def batching(self, data: LabelData) -> LabelBatching:
        """How rows of labels are made: the softmax needs a class of every image."""
        least = 1 if self.objective == "softmax" else 0
        return LabelBatching(len(self.model.id2label), data.max_labels, least)

    def abstract_batch(self, data: LabelData, batch_size: int) -> LabelBatch:
        """Shapes and types of a global batch."""
        labels = jax.ShapeDtypeStruct((batch_size, data.max_labels), jnp.int32)
        return LabelBatch(abstract_images(self.model, batch_size), labels)

    def described(self, data: LabelData) -> "Classification":
        """The same task, whose model says what its outputs mean.

        That is a probability for each class, or one among all, and the names of classes that are only numbered here.

        Raises:
            ConfigurationError: if the classes of the data set are others.
        """
        model = dataclasses.replace(self.model, id2label=names_of_classes(self.model.id2label, data.train))
        if self.objective == "sigmoid":  # a classifier that says nothing is taken for the other
            model = dataclasses.replace(model, problem_type=_PROBLEM_TYPES[self.objective])
        return dataclasses.replace(self, model=model)

    def preprocessing(self, data: TrainingData) -> Preprocessing:
        """How the trained model wants its images: as it was evaluated, which resizes without antialiasing."""
        resize_px, crop_px = data.transform.resize_px, data.transform.crop_px
        if isinstance(self.model, EfficientNetConfig) or resize_px != crop_px:
            return Preprocessing("tf", resize_px, crop_px)
        return Preprocessing(
            "tf", resize_px, None, rescale_factor=1 / 255, rescale_offset=False, do_normalize=True,
            image_processor_type="ViTImageProcessor",
        )  # fmt: skip

    def module(self) -> ViT | EfficientNet:
        """The Linen module."""
        options = {
            "dtype": jnp.dtype(self.dtype),
            "rematerialize": parts_below("image", self.rematerialize),
            "first_class_bias": self.first_class_bias,
        }
        if isinstance(self.model, ViTConfig):
            return ViT(self.model, **options)
        return EfficientNet(self.model, self.batch_norm_group_size, **options)

    def init(self, key: jax.Array) -> Mapping[str, Any]:
        """Parameters and batch statistics before training."""
        return self.module().init(key, jnp.zeros(abstract_images(self.model, 1).shape, jnp.float32))

    def loss(
        self, variables: dict[str, Any], batch: LabelBatch, key: jax.Array, mesh: Mesh
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """The loss of a global batch, the moved batch statistics, and what to show."""
        module = self.module()

        def compare(rows: LabelBatch, key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Any]:
            features, moved = module.apply(
                variables, scale_pixels(rows.images), train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            losses = self._losses(features.logits, rows.labels)
            return (losses, first_is_right(features.logits, rows.labels)), moved.get("batch_stats", {})

        # A mean over examples, so the micro-batches' losses are all that the second pass needs of the first.
        (losses, right), batch_stats = in_micro_batches(compare, batch, key, count=self.accumulation, mesh=mesh)
        return jnp.mean(losses), (batch_stats, {"accuracy": jnp.mean(right.astype(jnp.float32))})

    def _losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        if self.objective == "sigmoid":
            return sigmoid_losses(logits, labels)
        return softmax_losses(logits, labels, self.label_smoothing)

    def constrain(self, params: Any) -> Any:
        """Parameters after an update: anything goes."""
        return params
