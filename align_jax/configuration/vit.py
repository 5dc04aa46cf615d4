"""The Vision Transformer's configuration (Dosovitskiy et al., arXiv 2010.11929) and its named sizes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from align_jax.configuration.hidden_act import HiddenAct
from align_jax.configuration.labels import ProblemType, label_fields, read_labels
from align_jax.json_config import COLOURS, NOT_NEGATIVE, POSITIVE, RATE, ConfigurationError, JsonConfig, Limit

PositionInterpolation = Literal["bicubic_scaled", "bicubic_sized", "linear"]

_TOWER, _CLASSIFIER = "ViTModel", "ViTForImageClassification"


@dataclasses.dataclass(frozen=True)
class ViTConfig(JsonConfig):
    """A Vision Transformer: a tower, and a classifier where there are labels.

    Parameters at 224 px in patches of 16, with a classifier of 1,000 labels and without a representation layer:

        ti 5,717,416   small 22,050,664   base 86,567,656   large 304,326,632   huge (patches of 14) 632,045,800

    Attributes:
        image_size: both sides in pixels that the position embeddings are for.
        patch_size: both sides of a patch in pixels.
        qkv_bias: whether query, key and value have a bias.
        representation_size: width of the tanh layer on the first token, which `transformers` calls pooler and
            pre-training puts in front of its classifier (arXiv 2010.11929, section 3.1); `None` where there is none.
        pooler_act: the activation of that layer.
        id2label: names of the classes, in order. Without any there is no classifier.
        problem_type: which loss, and which function of the logits, go with the classes; `None` where they tell.
        position_interpolation: of the position embeddings for images of other sizes: as in `transformers` 4
            ("bicubic_scaled", by the factor (patches + 0.1) / patches of the table), as in `transformers` 5
            ("bicubic_sized"), or as in the released trainer ("linear", between the outer patches' centres).

    `representation_size` and `position_interpolation` have no counterpart in `transformers`; they are left out of its
    files where they have the value that its classes have.
    """

    model_type: ClassVar[str] = "vit"
    # The stride is of a head for pre-training with masks.
    _derived_fields: ClassVar[frozenset[str]] = frozenset({"encoder_stride", "pooler_output_size"})

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: HiddenAct = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    representation_size: int | None = None
    pooler_act: HiddenAct = "tanh"
    id2label: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    position_interpolation: PositionInterpolation = "bicubic_scaled"

    _limits: ClassVar[Mapping[Limit, str]] = {
        COLOURS: "num_channels",
        POSITIVE: "hidden_size num_hidden_layers num_attention_heads intermediate_size layer_norm_eps image_size "
        "patch_size representation_size",
        NOT_NEGATIVE: "initializer_range",
        RATE: "hidden_dropout_prob attention_probs_dropout_prob",
    }

    def __post_init__(self) -> None:
        self._check_limits()
        for name, choices in (
            ("hidden_act", HiddenAct), ("pooler_act", HiddenAct), ("position_interpolation", PositionInterpolation)
        ):  # fmt: skip
            self._require_choice(name, choices)
        if self.problem_type is not None:
            self._require_choice("problem_type", ProblemType)
        self._require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}",
        )
        self._require(
            self.image_size >= self.patch_size,
            f"image_size {self.image_size} is smaller than a patch, patch_size {self.patch_size}; make it larger",
        )

    @property
    def grid_side(self) -> int:
        """Patches along each side of an image of `image_size`; what is left at its right and lower edge is not seen."""
        return self.image_size // self.patch_size

    @property
    def feature_size(self) -> int:
        """Width of the pooled features."""
        return self.representation_size or self.hidden_size

    @property
    def own_fields(self) -> dict[str, Any]:
        """What a classifier of `transformers` would compute without, by name; empty where it has everything."""
        pre_training = self.id2label and self.representation_size is not None
        return {"representation_size": self.representation_size} if pre_training else {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the object of a `config.json`; see `JsonConfig.from_dict`.

        There is a classifier if `architectures` says so or, where that is left out, if there are labels. A tower of
        `transformers` has a pooler, unless `representation_size` is there and null.
        """
        labels = read_labels(values, cls.__name__, _CLASSIFIER)
        given = {name: value for name, value in values.items() if name != "id2label"}
        for name in ("image_size", "patch_size"):
            given |= {name: _side(name, given[name])} if name in given else {}
        config = super().from_dict(given)
        size = config.representation_size
        if "representation_size" not in values and not labels and _has_pooler(values):
            size = values.get("pooler_output_size") or config.hidden_size
            if type(size) is not int:
                raise ConfigurationError(f"{cls.__name__}.pooler_output_size is {size!r}, which is not of type int")
        return dataclasses.replace(config, id2label=labels, representation_size=size)

    def to_dict(self) -> dict[str, Any]:
        """The object of a `config.json`."""
        values = super().to_dict()
        del values["id2label"]
        if self.problem_type is None:
            del values["problem_type"]
        if self.position_interpolation == "bicubic_scaled":
            del values["position_interpolation"]
        if (self.representation_size is None) == bool(self.id2label):  # as the classes of `transformers` have it
            del values["representation_size"]
        values |= {"pooler_output_size": self.feature_size, "architectures": [_CLASSIFIER if self.id2label else _TOWER]}
        return values | (label_fields(self.id2label) if self.id2label else {})

    @classmethod
    def _of_size(cls, width: int, depth: int, heads: int, overrides: Mapping[str, Any]) -> Self:
        sizes: dict[str, Any] = {
            "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
            "intermediate_size": 4 * width,
        }  # fmt: skip
        return cls(**(sizes | dict(overrides)))

    @classmethod
    def ti(cls, **overrides: Any) -> Self:
        """12 layers of 192 (Touvron et al., arXiv 2012.12877)."""
        return cls._of_size(192, 12, 3, overrides)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """12 layers of 384 (Touvron et al., arXiv 2012.12877)."""
        return cls._of_size(384, 12, 6, overrides)

    @classmethod
    def base(cls, **overrides: Any) -> Self:
        """12 layers of 768."""
        return cls._of_size(768, 12, 12, overrides)

    @classmethod
    def large(cls, **overrides: Any) -> Self:
        """24 layers of 1024."""
        return cls._of_size(1024, 24, 16, overrides)

    @classmethod
    def huge(cls, **overrides: Any) -> Self:
        """32 layers of 1280, in patches of 14."""
        return cls._of_size(1280, 32, 16, {"patch_size": 14} | overrides)

    @classmethod
    def coyo_large(cls, **overrides: Any) -> Self:
        """The released trainer's ViT-L/16: tanh-GELU, and 1e-6 in the norms."""
        return cls.large(**({"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6} | overrides))

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """Two layers of 32, 16 patches of an image of 32 px, for tests."""
        sizes: dict[str, Any] = {"image_size": 32, "patch_size": 8, "intermediate_size": 37}
        return cls._of_size(32, 2, 4, sizes | overrides)


def _has_pooler(values: Mapping[str, Any]) -> bool:
    """Whether `transformers` would build the class with a pooler: the tower itself, and nothing with a head."""
    return (values.get("architectures") or [_TOWER]) == [_TOWER]


def _side(name: str, value: Any) -> Any:
    """A square's side, which `transformers` also takes as a pair."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) != 2 or value[0] != value[1]:
        raise ConfigurationError(f"ViTConfig.{name} is {value!r}; only squares are supported, such as 224")
    return value[0]
