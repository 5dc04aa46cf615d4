"""The weights of the released TensorFlow trainer (kakaobrain/coyo-align): its variables and ours.

Blocks of the image tower are named by stage and place, `block1a` … `block7d`; ours count through. The rules are
therefore made for a checkpoint, and then run by the engine of all conversions:

    checkpoint = TensorflowCheckpoint(path)
    config = infer_config(checkpoint, checkpoint.paths)
    variables = to_flax(checkpoint, rules_for(checkpoint, checkpoint.paths), abstract_variables(config))

Convolutions and linear layers are laid out as ours. Keras keeps a depthwise kernel as (k, k, C, 1), squeeze-excite as
1 x 1 convolutions, and batch norm over virtual batches as (1, 1, 1, 1, C).
"""

import re
from collections.abc import Mapping
from typing import get_args

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, ConfigurationError
from align_jax.configuration.vision import EfficientNetSize
from align_jax.conversion.readers import SourceError, Tensors
from align_jax.conversion.readers.tensors import listing
from align_jax.conversion.rules import Rule, RuleTable

_DEPTHWISE = "h w c 1 -> h w 1 c"
_POINTWISE = "1 1 i o -> i o"
_VIRTUAL_BATCHES = "1 1 1 1 c -> c"

_NORM = {
    "gamma": "params/{}/scale", "beta": "params/{}/bias",
    "moving_mean": "batch_stats/{}/mean", "moving_variance": "batch_stats/{}/var",
}  # fmt: skip
_BLOCK_NORMS = {"expand_bn": "expand_norm", "bn": "depthwise_norm", "project_bn": "project_norm"}

_TEXT_LINEAR = {
    "encoder/layer_._{n}/attention/self/query": "layers_{n}/attention/query",
    "encoder/layer_._{n}/attention/self/key": "layers_{n}/attention/key",
    "encoder/layer_._{n}/attention/self/value": "layers_{n}/attention/value",
    "encoder/layer_._{n}/attention/output/dense": "layers_{n}/attention/output",
    "encoder/layer_._{n}/intermediate/dense": "layers_{n}/feed_forward_in",
    "encoder/layer_._{n}/output/dense": "layers_{n}/feed_forward_out",
    "pooler/dense": "pooler",
}
_TEXT_NORMS = {
    "embeddings/LayerNorm": "embeddings/norm",
    "encoder/layer_._{n}/attention/output/LayerNorm": "layers_{n}/attention_norm",
    "encoder/layer_._{n}/output/LayerNorm": "layers_{n}/feed_forward_norm",
}
_TEXT_EMBEDDINGS = {
    "embeddings/word_embeddings/weight": "embeddings/word",
    "embeddings/position_embeddings/embeddings": "embeddings/position",
    "embeddings/token_type_embeddings/embeddings": "embeddings/token_type",
}

_BLOCK = re.compile(r"block([1-9]\d?)([a-z])_project_conv/kernel")
_WORDS = re.compile(r"((?:[\w.-]+/)*bert/)embeddings/word_embeddings/weight")
_DENSE = re.compile(r"(dense(?:_\d+)?)/kernel")
_HEAD_SIZE = 64


def rules_for(tensors: Tensors, paths: Mapping[str, str]) -> RuleTable:
    """The rules for the variables of one checkpoint.

    Args:
        tensors: of the checkpoint; no values are read.
        paths: see `TensorflowCheckpoint`; they tell the two projections apart.

    Raises:
        SourceError: if it is not a checkpoint of that trainer, or the projections cannot be told apart.
    """
    # Over virtual batches Keras keeps axes that are one long, over the whole batch it does not.
    norm = None if len(_shape(tensors, "stem_bn/gamma")) == 1 else _VIRTUAL_BATCHES
    rules = [
        Rule("stem_conv/kernel", "params/image/stem/conv/kernel"),
        *_norm("stem_bn", "image/stem/norm", norm),
        Rule("temperature", "params/temperature"),
    ]
    blocks = [block for stage in _stages(tensors) for block in stage]
    for index, block in enumerate(blocks):
        rules += _block(f"{block}_", f"image/blocks_{index}/", norm)
    rules += _text(_text_prefix(tensors))
    for target, source in _projections(tensors, paths).items():
        rules += _linear(source, target)
    return RuleTable(tuple(rules))


def infer_config(tensors: Tensors, paths: Mapping[str, str]) -> AlignConfig:
    """The configuration of a checkpoint, which carries none: that trainer's towers, recognised by their shapes.

    Args:
        tensors: of the checkpoint; no values are read.
        paths: as for `rules_for`.

    Raises:
        SourceError: as `rules_for`.
        ConfigurationError: if a tower is not one of that trainer's.
    """
    projections = _projections(tensors, paths)
    return AlignConfig(
        text_config=_text_config(tensors),
        vision_config=_vision_config(tensors),
        projection_dim=_shape(tensors, f"{projections['text_projection']}/kernel", 2)[-1],
        image_projection="image_projection" in projections,
    )


def _block(source: str, target: str, norm: str | None) -> list[Rule]:
    return [
        Rule(f"{source}expand_conv/kernel", f"params/{target}expand/kernel"),
        Rule(f"{source}dwconv/depthwise_kernel", f"params/{target}depthwise/kernel", _DEPTHWISE),
        *_linear(f"{source}se_reduce", f"{target}squeeze_excite/reduce", _POINTWISE),
        *_linear(f"{source}se_expand", f"{target}squeeze_excite/expand", _POINTWISE),
        Rule(f"{source}project_conv/kernel", f"params/{target}project/kernel"),
        *(rule for name, ours in _BLOCK_NORMS.items() for rule in _norm(source + name, target + ours, norm)),
    ]


def _text(prefix: str) -> list[Rule]:
    rules = [Rule(prefix + name, f"params/text/{ours}/embedding") for name, ours in _TEXT_EMBEDDINGS.items()]
    for name, ours in _TEXT_LINEAR.items():
        rules += _linear(prefix + name, f"text/{ours}")
    for name, ours in _TEXT_NORMS.items():
        rules.append(Rule(f"{prefix}{name}/gamma", f"params/text/{ours}/scale"))
        rules.append(Rule(f"{prefix}{name}/beta", f"params/text/{ours}/bias"))
    return rules


def _linear(source: str, target: str, layout: str | None = None) -> list[Rule]:
    return [
        Rule(f"{source}/kernel", f"params/{target}/kernel", layout),
        Rule(f"{source}/bias", f"params/{target}/bias"),
    ]


def _norm(source: str, target: str, layout: str | None) -> list[Rule]:
    return [Rule(f"{source}/{name}", path.format(target), layout) for name, path in _NORM.items()]


def _projections(tensors: Tensors, paths: Mapping[str, str]) -> dict[str, str]:
    """Names of the linear layers behind the towers; Keras calls both "dense", and numbers them as they are made."""
    layers = [match[1] for name in tensors if (match := _DENSE.fullmatch(name))]
    sides = {layer: paths.get(f"{layer}/kernel", "").split("/") for layer in layers}
    text = [layer for layer in layers if "text_encoder" in sides[layer]]
    image = [layer for layer in layers if "image_encoder" in sides[layer]]
    if not text:  # objects of other names, or a checkpoint without objects: the widths of the towers decide
        _, text_width = _shape(tensors, f"{_text_prefix(tensors)}embeddings/word_embeddings/weight", 2)
        text = [layer for layer in layers if _shape(tensors, f"{layer}/kernel", 2)[0] == text_width]
        image = [layer for layer in layers if layer not in text]
    if len(text) != 1 or len(image) > 1 or len(text) + len(image) != len(layers):
        raise SourceError(
            f"which of the linear layers {listing(layers) or '(there is none)'} belongs to which tower cannot be told: "
            "one must follow the text tower, and at most one the image tower"
        )
    return {"text_projection": text[0]} | ({"image_projection": image[0]} if image else {})


def _text_config(tensors: Tensors) -> AlignTextConfig:
    prefix = _text_prefix(tensors)
    (vocab_size, width), (positions, _), (types, _) = (_shape(tensors, prefix + name, 2) for name in _TEXT_EMBEDDINGS)
    layer = re.compile(re.escape(prefix) + r"encoder/layer_\._(\d+)/.*")
    layers = {match[1] for name in tensors if (match := layer.fullmatch(name))}
    if width % _HEAD_SIZE:
        raise ConfigurationError(
            f"how many heads the text tower has does not follow from its width {width}, which is not a multiple of "
            f"{_HEAD_SIZE}; put a config.json beside the checkpoint"
        )
    return AlignTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // _HEAD_SIZE,
        intermediate_size=_shape(tensors, f"{prefix}encoder/layer_._0/intermediate/dense/kernel", 2)[-1],
        max_position_embeddings=positions,
        type_vocab_size=types,
    )


def _vision_config(tensors: Tensors) -> AlignVisionConfig:
    stages = _stages(tensors)
    found = [(len(stage), _shape(tensors, f"{stage[-1]}_project_conv/kernel", 4)[-1]) for stage in stages if stage]
    for size in get_args(EfficientNetSize):
        config = AlignVisionConfig.efficientnet(size)
        if found == list(zip(config.repeats_of_stages, map(config.round_channels, config.out_channels), strict=True)):
            return config
    raise ConfigurationError(
        f"the image tower's stages, {', '.join(f'{count} blocks of {width} channels' for count, width in found)}, are "
        f"not those of EfficientNet {', '.join(get_args(EfficientNetSize))}; put a config.json beside the checkpoint"
    )


def _stages(tensors: Tensors) -> list[list[str]]:
    """Names of the blocks, such as block1a, of each stage."""
    found = {(int(match[1]), match[2]) for name in tensors if (match := _BLOCK.fullmatch(name))}
    counts = [0] * max((stage for stage, _ in found), default=0)
    for stage, _ in found:
        counts[stage - 1] += 1
    places = "abcdefghijklmnopqrstuvwxyz"
    return [[f"block{stage}{place}" for place in places[:count]] for stage, count in enumerate(counts, 1)]


def _text_prefix(tensors: Tensors) -> str:
    """What the names of the text tower open with: Keras numbers a second BERT of one process."""
    prefixes = [match[1] for name in tensors if (match := _WORDS.fullmatch(name))]
    return prefixes[0] if len(prefixes) == 1 else "tf_bert_model/bert/"


def _shape(tensors: Tensors, name: str, axes: int | None = None) -> tuple[int, ...]:
    if name not in tensors:
        raise SourceError(
            f"the checkpoint is not one of the released ALIGN trainer: it has no {name}, only {listing(tensors)}"
        )
    shape = tensors.info(name).shape
    if axes is not None and len(shape) != axes:
        raise SourceError(
            f"{name} of the checkpoint has shape {shape}, not {axes} axes as in the released ALIGN trainer"
        )
    return shape
