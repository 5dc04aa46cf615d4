"""Folders of tiny classifiers as `transformers` writes them: weights, and image settings of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import transformers

from align_jax.configuration import EfficientNetConfig, ViTConfig
from tests.models.reference import random_images, reference_model

LABELS = ("tabby", "tiger cat", "espresso", "remote control", "lynx", "red apple", "tabby")


def write_vit(folder: Path, **options: Any) -> Any:
    """32 px, as `ViTImageProcessor` prepares them."""
    model = reference_model(ViTConfig.tiny(**({"id2label": LABELS} | options)))
    model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def write_efficientnet(folder: Path, **options: Any) -> Any:
    """36 px, of which the middle 32, normalised as for ImageNet."""
    config = EfficientNetConfig.tiny(**({"id2label": LABELS} | options))
    model = reference_model(config, random_images(np.random.default_rng(0), 8, 32))
    model.save_pretrained(folder)
    transformers.EfficientNetImageProcessorPil(
        size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32}, do_center_crop=True, resample=2,
    ).save_pretrained(folder)  # fmt: skip
    return model
