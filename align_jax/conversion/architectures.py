"""The architectures whose weights convert, by the `model_type` of their `config.json`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from align_jax.configuration import (
    AlignConfig,
    AlignTextConfig,
    AlignVisionConfig,
    BertConfig,
    EfficientNetConfig,
    ViTConfig,
)
from align_jax.conversion import align, bert, efficientnet, vit
from align_jax.conversion.rules import RuleTable
from align_jax.json_config import ConfigurationError, JsonConfig


class Architecture(NamedTuple):
    """What the conversion of one kind of model needs."""

    config: type[JsonConfig]
    table: RuleTable
    abstract_variables: Callable[..., dict[str, Any]]  # of a configuration and a param_dtype
    reference: str  # the class of `transformers` that computes the same


ARCHITECTURES: Mapping[str, Architecture] = {
    "align": Architecture(AlignConfig, align.TABLE, align.abstract_variables, "AlignModel"),
    "align_text_model": Architecture(AlignTextConfig, bert.TABLE, bert.abstract_variables, "AlignTextModel"),
    "align_vision_model": Architecture(
        AlignVisionConfig, efficientnet.TABLE, efficientnet.abstract_variables, "AlignVisionModel"
    ),
    "bert": Architecture(BertConfig, bert.BERT_TABLE, bert.abstract_variables, "BertModel"),
    "efficientnet": Architecture(
        EfficientNetConfig, efficientnet.EFFICIENTNET_TABLE, efficientnet.abstract_variables, "EfficientNetModel"
    ),
    "vit": Architecture(ViTConfig, vit.VIT_TABLE, vit.abstract_variables, "ViTModel"),
}


def architecture_of(model_type: str) -> Architecture:
    """The architecture of a `model_type`.

    Raises:
        ConfigurationError: if it is none of ours.
    """
    if model_type not in ARCHITECTURES:
        raise ConfigurationError(
            f"model_type {model_type!r} is not supported; it must be one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[model_type]
