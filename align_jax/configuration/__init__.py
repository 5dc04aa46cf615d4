"""Model configurations: frozen dataclasses that read and write the `config.json` of `transformers`.

Field names, defaults and meaning are those of `transformers` 4.37 (`AlignConfig`, `AlignTextConfig`,
`AlignVisionConfig`, `BertConfig`, `EfficientNetConfig`, `ViTConfig`); a file that leaves a field out therefore means
what it means there.
"""

from align_jax.configuration.align import AlignConfig, ImageTowerConfig
from align_jax.configuration.efficientnet import EfficientNetConfig
from align_jax.configuration.text import AlignTextConfig, BertConfig
from align_jax.configuration.vision import AlignVisionConfig
from align_jax.configuration.vit import ViTConfig
from align_jax.json_config import ConfigurationError

__all__ = [
    "AlignConfig",
    "AlignTextConfig",
    "AlignVisionConfig",
    "BertConfig",
    "ConfigurationError",
    "EfficientNetConfig",
    "ImageTowerConfig",
    "ViTConfig",
]
