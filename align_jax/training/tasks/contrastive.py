"""ALIGN's task: images and texts that belong together, told from all others of the batch."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from align_jax.configuration import AlignConfig, ConfigurationError
from align_jax.data.pairs import PairBatching, PairData
from align_jax.data.preprocessing import Preprocessing
from align_jax.data.text import Tokenizer
from align_jax.data.training_data import TrainingData
from align_jax.losses import ContrastiveLoss, LossForm, contrastive_loss, sigmoid_loss
from align_jax.models.align import Align, rematerializable_parts
from align_jax.models.rematerialization import check_parts
from align_jax.ops.batch_norm import group_count
from align_jax.parallel.mesh import BATCH_AXES
from align_jax.training.micro_batches import check_micro_batches, in_micro_batches
from align_jax.training.tasks.images import abstract_images, check_image_size
from align_jax.types import PairBatch

FIRST_LOGIT_BIAS = -10.0
"""Of the sigmoid loss (arXiv 2303.15343, section 3.2): at first, nothing belongs together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive:
    """ALIGN: every image of the global batch against every text of it.

    Attributes:
        model: both towers.
        objective: ALIGN's softmax, or SigLIP's sigmoid, which adds the parameter `logit_bias`.
        label_smoothing: share of the target spread over the whole batch, in the softmax.
        loss_form: how devices share the comparison; the result is the same. See `align_jax.losses`.
        chunk_size: columns that the chunked form holds at once; its default when absent.
        accumulation: micro-batches that the towers take one after the other. The gradient is that of the whole batch;
            memory for activations is divided, at the price of computing the towers once more. Dropout draws differ.
        batch_norm_group_size: examples that share batch-norm statistics; the whole batch when absent.
        temperature_floor: the temperature is set back to this where a step takes it lower; no floor when absent.
        rematerialize: parts of the towers that keep only the input of each block for the gradient and compute the rest
            again: some of `image/stem`, `image/stage_1`, … (or `image/layers`), `text/layers`. Less memory, more FLOPs,
            the same numbers.
        dtype: of the computation inside the towers; bfloat16 for TPU and GPU, float32 for CPU.

    Raises:
        ConfigurationError: if `accumulation` or `chunk_size` cannot be what they are.
    """

    examples: ClassVar[str] = "pairs"

    model: AlignConfig
    objective: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.1
    loss_form: LossForm = "all_gather"
    chunk_size: int | None = None
    accumulation: int = 1
    batch_norm_group_size: int | None = 16
    temperature_floor: float | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    rematerialize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_parts(self.rematerialize, rematerializable_parts(self.model))
        if self.chunk_size is not None and self.loss_form != "chunked":
            raise ConfigurationError(
                f"chunk_size {self.chunk_size} has no meaning in the {self.loss_form} form of the loss; leave it out, "
                'or set loss_form to "chunked"'
            )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ConfigurationError(f"chunk_size {self.chunk_size} is not positive; use 1 or more")
        check_micro_batches(0, self.accumulation, self.batch_norm_group_size)

    @property
    def examples_together(self) -> int | None:
        """Consecutive examples that share batch-norm statistics in training; `None` for all of them."""
        return self.batch_norm_group_size

    def check_batch_size(self, batch_size: int, shards: int = 1) -> None:
        """Refuses a global batch that does not divide into micro-batches and batch-norm groups.

        Args:
            batch_size: pairs of a step.
            shards: devices that share them; 1 while they are not known.

        Raises:
            ValueError: with the nearest sizes that would do.
        """
        group_count(batch_size, self.batch_norm_group_size)
        check_micro_batches(batch_size, self.accumulation, self.batch_norm_group_size, shards)

    def check_data(self, data: TrainingData) -> None:
        """Refuses data that is not what the model takes.

        Raises:
            ConfigurationError: with what does not fit.
        """
        check_image_size(data, self.model.vision_config.image_size)
        if not isinstance(data, PairData):
            raise ConfigurationError(f"contrastive training takes pairs (PairData), not {type(data).__name__}")
        positions = self.model.text_config.max_position_embeddings
        if data.text_length > positions:
            raise ConfigurationError(
                f"text_length {data.text_length} is more than the text tower's {positions} positions"
            )

    def batching(self, data: PairData) -> PairBatching:
        """Opens the tokenizer.

        Raises:
            ConfigurationError: if it has more tokens than the text tower.
        """
        tokenizer, vocab_size = Tokenizer(data.tokenizer), self.model.text_config.vocab_size
        if tokenizer.vocab_size > vocab_size:
            raise ConfigurationError(
                f"the tokenizer in {data.tokenizer} has {tokenizer.vocab_size} tokens but the text tower has "
                f"vocab_size {vocab_size}; train a smaller vocabulary or raise vocab_size"
            )
        return PairBatching(tokenizer, data.text_length)

    def abstract_batch(self, data: PairData, batch_size: int) -> PairBatch:
        """Shapes and types of a global batch."""
        tokens = jax.ShapeDtypeStruct((batch_size, data.text_length), jnp.int32)
        return PairBatch(abstract_images(self.model.vision_config, batch_size), tokens, tokens)

    def described(self, data: PairData) -> "Contrastive":
        """As `Classification.described`; here nothing is to be said."""
        del data
        return self

    def preprocessing(self, data: TrainingData) -> Preprocessing:
        """How the trained model wants its images: training resizes without antialiasing."""
        return Preprocessing("tf", data.transform.resize_px, data.transform.crop_px)

    def module(self) -> Align:
        """The Linen module."""
        return Align(
            self.model,
            batch_norm_group_size=self.batch_norm_group_size,
            dtype=jnp.dtype(self.dtype),
            rematerialize=self.rematerialize,
        )

    def init(self, key: jax.Array) -> Mapping[str, Any]:
        """Parameters and batch statistics before training."""
        images = jnp.zeros(abstract_images(self.model.vision_config, 1).shape, jnp.uint8)
        variables = self.module().init(key, images, jnp.zeros((1, 2), jnp.int32))
        if self.objective == "softmax":
            return variables
        return {**variables, "params": {**variables["params"], "logit_bias": jnp.float32(FIRST_LOGIT_BIAS)}}

    def loss(
        self, variables: dict[str, Any], batch: PairBatch, key: jax.Array, mesh: Mesh
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """The loss of a global batch, the moved batch statistics, and what to show."""
        module, params = self.module(), variables["params"]

        def embed(rows: PairBatch, key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Any]:
            embeddings, moved = module.apply(
                variables,
                rows.images,
                rows.input_ids,
                rows.attention_mask,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            return (embeddings.image, embeddings.text), moved.get("batch_stats", {})  # only batch norm has any

        (image, text), batch_stats = in_micro_batches(embed, batch, key, count=self.accumulation, mesh=mesh)
        scalars = {name: params[name] for name in ("temperature", "logit_bias") if name in params}
        result = self._compare(mesh, len(scalars))(image, text, *scalars.values())
        shown = {
            **scalars,
            "image_to_text_accuracy": result.image_to_text_accuracy,
            "text_to_image_accuracy": result.text_to_image_accuracy,
        }
        return result.loss, (batch_stats, shown)

    def _compare(self, mesh: Mesh, scalars: int) -> Callable[..., ContrastiveLoss]:
        """The loss as a function of global embeddings and the objective's scalars."""
        smoothed = partial(contrastive_loss, label_smoothing=self.label_smoothing)
        function = smoothed if self.objective == "softmax" else sigmoid_loss
        if self.loss_form == "dense":
            return partial(function, form="dense")
        rows, everywhere = PartitionSpec(BATCH_AXES), PartitionSpec()
        return jax.shard_map(
            partial(function, axis_names=BATCH_AXES, form=self.loss_form, chunk_size=self.chunk_size),
            mesh=mesh,
            in_specs=(rows, rows, *[everywhere] * scalars),
            out_specs=everywhere,
        )

    def constrain(self, params: Any) -> Any:
        """Parameters after an update, put back where they may be.

        The floor is not part of the loss: under a maximum, a temperature that has fallen below it has no gradient and
        never returns.
        """
        if self.temperature_floor is None:
            return params
        return {**params, "temperature": jnp.maximum(params["temperature"], self.temperature_floor)}
