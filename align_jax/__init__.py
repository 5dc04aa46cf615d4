"""ALIGN in JAX and Flax; see the README for what is where. Names are imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, EfficientNetConfig, ViTConfig
    from align_jax.inference.classifier_facade import EfficientNetForImageClassification, ViTForImageClassification
    from align_jax.inference.facade import AlignModel, AlignTextModel, AlignVisionModel
    from align_jax.inference.model_folder import load_model
    from align_jax.inference.pipelines.pipeline import pipeline
    from align_jax.inference.processor import AlignProcessor
    from align_jax.models.align import Align

_HOMES = {
    "Align": "align_jax.models.align",
    "AlignConfig": "align_jax.configuration",
    "AlignModel": "align_jax.inference.facade",
    "AlignProcessor": "align_jax.inference.processor",
    "AlignTextConfig": "align_jax.configuration",
    "AlignTextModel": "align_jax.inference.facade",
    "AlignVisionConfig": "align_jax.configuration",
    "AlignVisionModel": "align_jax.inference.facade",
    "EfficientNetConfig": "align_jax.configuration",
    "EfficientNetForImageClassification": "align_jax.inference.classifier_facade",
    "ViTConfig": "align_jax.configuration",
    "ViTForImageClassification": "align_jax.inference.classifier_facade",
    "load_model": "align_jax.inference.model_folder",
    "pipeline": "align_jax.inference.pipelines.pipeline",
}

__all__ = [
    "Align", "AlignConfig", "AlignModel", "AlignProcessor", "AlignTextConfig", "AlignTextModel", "AlignVisionConfig",
    "AlignVisionModel", "EfficientNetConfig", "EfficientNetForImageClassification", "ViTConfig",
    "ViTForImageClassification", "load_model", "pipeline",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'align_jax' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
