"""What is trained: a task makes the model, its first variables, and the loss of a batch.

The loop and the step know tasks only through these methods, so one loop serves every task.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from align_jax.configuration import AlignConfig
from align_jax.losses import contrastive_loss
from align_jax.models.align import Align, rematerializable_parts
from align_jax.models.rematerialization import check_parts
from align_jax.parallel.mesh import BATCH_AXES
from align_jax.types import PairBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive:
    """ALIGN: every image of the global batch against every text of it.

    Attributes:
        model: both towers.
        label_smoothing: share of the target spread over the whole batch.
        batch_norm_group_size: examples that share batch-norm statistics; the whole batch when absent.
        temperature_floor: the temperature is set back to this where a step takes it lower; no floor when absent.
        rematerialize: parts of the towers that keep only the input of each block for the gradient and compute the rest
            again: some of `image/stem`, `image/stage_1`, …, `text/layers`. Less memory, more FLOPs, the same numbers.
        dtype: of the computation inside the towers; bfloat16 for TPU and GPU, float32 for CPU.
    """

    model: AlignConfig
    label_smoothing: float = 0.1
    batch_norm_group_size: int | None = 16
    temperature_floor: float | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    rematerialize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_parts(self.rematerialize, rematerializable_parts(self.model))

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
        size = self.model.vision_config.image_size
        images = jnp.zeros((1, size, size, self.model.vision_config.num_channels), jnp.uint8)
        return self.module().init(key, images, jnp.zeros((1, 2), jnp.int32))

    def loss(
        self, variables: dict[str, Any], batch: PairBatch, key: jax.Array, mesh: Mesh
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """The loss of a global batch, the moved batch statistics, and what to show."""
        embeddings, moved = self.module().apply(
            variables,
            batch.images,
            batch.input_ids,
            batch.attention_mask,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        rows, everywhere = PartitionSpec(BATCH_AXES), PartitionSpec()
        compare = jax.shard_map(
            partial(contrastive_loss, label_smoothing=self.label_smoothing, axis_names=BATCH_AXES),
            mesh=mesh,
            in_specs=(rows, rows, everywhere),
            out_specs=everywhere,
        )
        result = compare(*embeddings)
        shown = {
            "temperature": embeddings.temperature,
            "image_to_text_accuracy": result.image_to_text_accuracy,
            "text_to_image_accuracy": result.text_to_image_accuracy,
        }
        return result.loss, (moved["batch_stats"], shown)

    def constrain(self, params: Any) -> Any:
        """Parameters after an update, put back where they may be.

        The floor is not part of the loss: under a maximum, a temperature that has fallen below it has no gradient and
        never returns.
        """
        if self.temperature_floor is None:
            return params
        return {**params, "temperature": jnp.maximum(params["temperature"], self.temperature_floor)}
