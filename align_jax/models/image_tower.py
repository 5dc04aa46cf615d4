"""The image towers that ALIGN can have: what depends on which of them it is."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn

from align_jax.configuration import ImageTowerConfig, ViTConfig
from align_jax.models import efficientnet, vit
from align_jax.models.efficientnet import EfficientNet, ImageFeatures
from align_jax.models.vit import PatchFeatures, ViT

TowerFeatures = ImageFeatures | PatchFeatures
"""Both have `pooled`, `last_hidden_state` and `hidden_states`."""


def image_tower(
    config: ImageTowerConfig,
    *,
    batch_norm_group_size: int | None,
    batch_norm: Literal["separate", "folded"],
    rematerialize: tuple[str, ...],
    types: Mapping[str, Any],
) -> nn.Module:
    """The Linen module of a configuration; what is said of batch norm has no meaning for a Vision Transformer.

    Args:
        config: of the tower.
        batch_norm_group_size: see `EfficientNet`.
        batch_norm: see `EfficientNet`.
        rematerialize: some of `rematerializable_parts`.
        types: `dtype` and `param_dtype`.
    """
    if isinstance(config, ViTConfig):
        return ViT(config, rematerialize=rematerialize, **types)
    return EfficientNet(config, batch_norm_group_size, rematerialize=rematerialize, batch_norm=batch_norm, **types)


def rematerializable_parts(config: ImageTowerConfig) -> tuple[str, ...]:
    """What the tower's `rematerialize` can name."""
    if isinstance(config, ViTConfig):
        return vit.REMATERIALIZABLE_PARTS
    return efficientnet.rematerializable_parts(config)


def largest_map(config: ImageTowerConfig, height_px: int, width_px: int) -> int:
    """The most numbers that the tower has between two layers, for one image of this size."""
    if not isinstance(config, ViTConfig):
        return efficientnet.largest_map(config, height_px, width_px)
    tokens = 1 + (height_px // config.patch_size) * (width_px // config.patch_size)
    return tokens * max(config.intermediate_size, config.num_attention_heads * tokens)
