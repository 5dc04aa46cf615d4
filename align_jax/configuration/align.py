"""Both towers and the space they share; named pairs follow ALIGN (Jia et al., arXiv 2102.05918, section 5)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from align_jax.configuration.text import AlignTextConfig
from align_jax.configuration.vision import AlignVisionConfig
from align_jax.configuration.vit import ViTConfig
from align_jax.json_config import NOT_NEGATIVE, POSITIVE, JsonConfig, Limit

ImageTowerConfig = AlignVisionConfig | ViTConfig
"""The image towers that ALIGN can have."""


@dataclasses.dataclass(frozen=True)
class AlignConfig(JsonConfig):
    """Both towers and the space they share.

    Attributes:
        text_config: of the text tower.
        vision_config: of the image tower: an EfficientNet or, where its `model_type` is "vit", a Vision Transformer
            without a classifier, which `transformers` has no class for.
        projection_dim: width D of the shared space.
        temperature_init_value: the temperature at the start of training; logits are cosines divided by it.
        image_projection: a linear layer from the image features to the shared space. The released model has none,
            because B7's features are 640 wide already; every other pair that shares 640 dimensions needs it
            (arXiv 2102.05918, section 5). `transformers` has no such field, and leaves it out of its files.
    """

    model_type: ClassVar[str] = "align"

    text_config: AlignTextConfig = dataclasses.field(default_factory=AlignTextConfig)
    vision_config: ImageTowerConfig = dataclasses.field(default_factory=AlignVisionConfig)
    projection_dim: int = 640
    temperature_init_value: float = 1.0
    initializer_range: float = 0.02
    image_projection: bool = False

    _limits: ClassVar[Mapping[Limit, str]] = {
        POSITIVE: "projection_dim temperature_init_value",
        NOT_NEGATIVE: "initializer_range",
    }

    def __post_init__(self) -> None:
        self._check_limits()
        self._require(
            type(self.vision_config) in (AlignVisionConfig, ViTConfig)
            and not getattr(self.vision_config, "id2label", ()),
            f"vision_config is that of a classifier, {type(self.vision_config).__name__}; an image tower's is an "
            "AlignVisionConfig, or a ViTConfig without id2label",
        )
        width = self.vision_config.feature_size
        self._require(
            self.image_projection or width == self.projection_dim,
            f"the image features are {width} wide and projection_dim is {self.projection_dim}; set "
            f"image_projection=True, or projection_dim={width}",
        )

    def to_dict(self) -> dict[str, Any]:
        """The object of a `config.json`; `image_projection` appears only where there is one."""
        values = super().to_dict()
        if not self.image_projection:
            del values["image_projection"]
        return values

    @classmethod
    def from_text_vision_configs(
        cls, text_config: AlignTextConfig, vision_config: ImageTowerConfig, **overrides: Any
    ) -> Self:
        """The class method of `transformers` 4; unlike `of_towers` it adds no image projection of its own accord."""
        return cls(text_config=text_config, vision_config=vision_config, **overrides)

    @classmethod
    def of_towers(cls, vision: ImageTowerConfig, text: AlignTextConfig, **overrides: Any) -> Self:
        """Any pair of towers (or those given as overrides), with the image projection if their widths need one."""
        values: dict[str, Any] = {"vision_config": vision, "text_config": text, "projection_dim": 640} | overrides
        needed = values["vision_config"].feature_size != values["projection_dim"]
        return cls(**({"image_projection": needed} | values))

    @classmethod
    def b7_base(cls, **overrides: Any) -> Self:
        """The released pair, 172,117,841 parameters."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b7"), AlignTextConfig.base(), **overrides)

    @classmethod
    def b7_large(cls, **overrides: Any) -> Self:
        """B7 with the largest BERT, a row of the paper's ablation."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b7"), AlignTextConfig.large(), **overrides)

    @classmethod
    def b5_base(cls, **overrides: Any) -> Self:
        """The pair of the paper's ablations of loss and width (table 8)."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b5"), AlignTextConfig.base(), **overrides)

    @classmethod
    def b3_mini(cls, **overrides: Any) -> Self:
        """The small pair of the paper's table 9, and of the COYO release on CC3M."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b3"), AlignTextConfig.mini(), **overrides)

    @classmethod
    def b1_mini(cls, **overrides: Any) -> Self:
        """The smallest pair of the paper's grid (figure 3)."""
        return cls.of_towers(AlignVisionConfig.efficientnet("b1"), AlignTextConfig.mini(), **overrides)

    @classmethod
    def l2_large(cls, **overrides: Any) -> Self:
        """The paper's largest pair; the space is as wide as L2's features, 1376."""
        return cls.of_towers(
            AlignVisionConfig.efficientnet("l2"), AlignTextConfig.large(), **({"projection_dim": 1376} | overrides)
        )

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """Towers small enough for tests."""
        return cls.of_towers(AlignVisionConfig.tiny(), AlignTextConfig.tiny(), **({"projection_dim": 32} | overrides))
