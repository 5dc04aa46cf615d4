"""Proof that converted weights compute what they did: our model beside that of `transformers`, layer by layer.

Both get the same fixed images and texts, in float32 on the CPU, and every layer's output is compared: stem, blocks and
pooled features of the image tower, or embeddings, layers and attentions of a Vision Transformer; embeddings, layers,
attentions and pooler of the text tower; projections, embeddings and logits.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float, Int

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, EfficientNetConfig, ViTConfig
from align_jax.conversion.reference import Inputs, VerificationError, run_reference
from align_jax.json_config import JsonConfig
from align_jax.models.align import Align, unit_length_at_any_scale
from align_jax.models.bert import Bert, TextFeatures
from align_jax.models.efficientnet import EfficientNet, ImageFeatures
from align_jax.models.image_tower import TowerFeatures
from align_jax.models.vit import PatchFeatures, ViT

__all__ = ["TOLERANCE", "LayerDifference", "VerificationError", "compare_layers", "format_table"]

TOLERANCE = 1e-5  # of a layer's largest absolute value


@dataclasses.dataclass(frozen=True)
class LayerDifference:
    """How far apart the two models are after one layer.

    Attributes:
        layer: such as "image block 17"; blocks and layers count from zero, as in the paths of the parameters.
        absolute: the largest difference; infinite where either model gives a number that is not finite.
        relative: the same, divided by `scale`.
        scale: the largest absolute value of the reference; of logits, the largest that its temperature allows, since
            the cosines of untrained towers all but cancel.
        order: place of the layer in the computation.
    """

    layer: str
    absolute: float
    relative: float
    scale: float
    order: int = 0


def compare_layers(
    config: JsonConfig, reference: Mapping[str, Any], variables: Mapping[str, Any], inputs: Inputs | None = None
) -> list[LayerDifference]:
    """Runs both models on the same inputs.

    Args:
        config: of a model or a tower that `transformers` has too.
        reference: its tensors under the names of `transformers`, each read once. Rounded ones (bfloat16) are computed
            with in float32.
        variables: ours, `params` and, with an image tower, `batch_stats`; rounded ones likewise.
        inputs: what both read; `fixed_inputs` when absent.

    Returns:
        One difference a layer, the largest relative one first; the models agree if that is at most `TOLERANCE`.

    Raises:
        VerificationError: without torch, where `transformers` has no such model, or if the model there does not take
            exactly these tensors.
    """
    model, layers = _model(config)
    inputs = fixed_inputs(config) if inputs is None else inputs
    # The reference is gone before our model starts: only one of them at a time holds its weights and maps.
    theirs = run_reference(config, reference, inputs)
    ours = _run(model, layers, variables, inputs)
    differences = [_difference(order, layer, ours, theirs) for order, layer in enumerate(theirs)]
    return sorted(differences, key=lambda difference: difference.relative, reverse=True)


def format_table(differences: Sequence[LayerDifference], limit: int | None = 20) -> str:
    """The first `limit` differences as a table, and a line that says whether all are within `TOLERANCE`.

    If not, it names the first layer of the computation that is above, which is where to look for the reason.
    """
    shown = differences[:limit]
    width = max(map(len, ["layer", *(row.layer for row in shown)]))
    lines = [f"{'layer':{width}}  {'relative':>9}  {'absolute':>9}  {'scale':>9}"]
    lines += [f"{row.layer:{width}}  {row.relative:9.2e}  {row.absolute:9.2e}  {row.scale:9.2e}" for row in shown]
    if len(shown) < len(differences):
        lines.append(f"and {len(differences) - len(shown)} layers that differ less")
    above = [row for row in differences if row.relative > TOLERANCE]
    if above:
        first = min(above, key=lambda row: row.order)
        verdict = f"{len(above)} of them, {first.layer} before the others, differ by more than"
    else:
        verdict = "all agree to"
    return "\n".join([*lines, f"{len(differences)} layers compared: {verdict} {TOLERANCE:g} of their largest value"])


def fixed_inputs(config: JsonConfig) -> Inputs:
    """Two images and three texts: with unequal numbers, logits the wrong way round cannot agree."""
    vision = config.vision_config if isinstance(config, AlignConfig) else config
    text = config.text_config if isinstance(config, AlignConfig) else config
    return Inputs(
        _images(vision) if isinstance(vision, AlignVisionConfig | ViTConfig) else None,
        _texts(text) if isinstance(text, AlignTextConfig) else None,
    )


def _images(config: AlignVisionConfig | ViTConfig) -> Float[np.ndarray, "2 H W 3"]:
    """One image of independent pixels and one of 16 px squares, since pooling averages fine noise away."""
    rng = np.random.default_rng(0)
    size, squares = config.image_size, config.image_size // 16 + 1
    fine = rng.integers(0, 256, (size, size, 3), np.uint8)
    coarse = rng.integers(0, 256, (squares, squares, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    return np.stack([fine, coarse[:size, :size]]).astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def _texts(config: AlignTextConfig) -> dict[str, Int[np.ndarray, "3 T"]]:
    """A text of full length, one with padding and one of a single token, each in two segments."""
    rng = np.random.default_rng(1)
    longest = min(64, config.max_position_embeddings)
    positions = np.arange(longest, dtype=np.int32)[None, :].repeat(3, axis=0)
    mask = positions < np.array([[longest], [longest * 2 // 3 + 1], [1]])
    return {
        "input_ids": np.where(mask, rng.integers(0, config.vocab_size, mask.shape, np.int32), config.pad_token_id or 0),
        "attention_mask": mask.astype(np.int32),
        "token_type_ids": np.where(positions < longest // 2, 0, config.type_vocab_size - 1).astype(np.int32),
        "position_ids": positions,
    }


Layers = dict[str, jax.Array]


def _model(config: JsonConfig) -> tuple[nn.Module, Callable[..., Layers]]:
    """Our model, and what gives its layers, under the names of `run_reference`, for a model, images and texts."""
    if isinstance(config, AlignConfig):
        return Align(config), _align_layers
    if isinstance(config, AlignTextConfig):
        return Bert(config), lambda model, _, texts: _text_layers(model(**texts))
    if isinstance(config, EfficientNetConfig):
        return EfficientNet(config), lambda model, images, _: _efficientnet_layers(model(images))
    if isinstance(config, AlignVisionConfig):
        return EfficientNet(config), lambda model, images, _: _image_layers(model(images))
    if isinstance(config, ViTConfig):
        return ViT(config), lambda model, images, _: _vit_layers(config, model(images))
    raise VerificationError(f"a model of type {config.model_type!r} cannot be verified; ALIGN and its towers can")


def _run(
    model: nn.Module, layers: Callable[..., Layers], variables: Mapping[str, Any], inputs: Inputs
) -> dict[str, np.ndarray]:
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(variables))
    with jax.default_device(jax.devices("cpu")[0]), jax.default_matmul_precision("float32"):
        outputs = jax.jit(nn.apply(layers, model))(arrays, inputs.images, inputs.texts)
    return jax.tree.map(np.asarray, outputs)


def _align_layers(model: Align, images: jax.Array, texts: dict[str, Any]) -> Layers:
    image, image_features = model.encode_image(images)
    text, text_features = model.encode_text(**texts)
    layers = _image_layers(image_features) | _text_layers(text_features)
    layers |= {"text projection": text, "temperature": model.temperature}
    image, text = unit_length_at_any_scale(image), unit_length_at_any_scale(text)
    return layers | {"image embedding": image, "text embedding": text, "logits": image @ text.T / model.temperature}


def _efficientnet_layers(features: ImageFeatures) -> Layers:
    layers = _image_layers(features) | {"image top": features.last_hidden_state}
    return layers if features.logits is None else layers | {"class logits": features.logits}


def _vit_layers(config: ViTConfig, features: PatchFeatures) -> Layers:
    embeddings, *states = features.hidden_states
    layers = {"image embeddings": embeddings}
    for index, (state, attention) in enumerate(zip(states, features.attentions, strict=True)):
        layers |= {f"image attention {index}": attention, f"image layer {index}": state}
    layers["image norm"] = features.last_hidden_state
    if config.representation_size is not None:
        layers["image representation"] = features.pooled
    return layers if features.logits is None else layers | {"class logits": features.logits}


def _image_layers(features: TowerFeatures) -> Layers:
    stem, *blocks = features.hidden_states
    return {
        "image stem": stem,
        **{f"image block {index}": block for index, block in enumerate(blocks)},
        "image pooled": features.pooled,
    }


def _text_layers(features: TextFeatures) -> Layers:
    embeddings, *states = features.hidden_states
    layers = {"text embeddings": embeddings}
    for index, (state, attention) in enumerate(zip(states, features.attentions, strict=True)):
        layers |= {f"text attention {index}": attention, f"text layer {index}": state}
    return layers | {"text pooler": features.pooled}


def _difference(
    order: int, layer: str, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> LayerDifference:
    mine, expected = ours[layer], theirs[layer]
    if mine.shape != expected.shape:
        raise VerificationError(f"{layer} has shape {mine.shape} here and {expected.shape} in transformers")
    scale = float(np.max(np.abs(expected)))
    if layer == "logits":
        scale = 1.0 / max(abs(float(theirs["temperature"])), float(np.finfo(np.float32).tiny))
    with np.errstate(invalid="ignore"):  # infinity on both sides
        absolute = float(np.max(np.abs(mine - expected)))
    relative = absolute / scale if scale else (math.inf if absolute else 0.0)
    if not (math.isfinite(absolute) and math.isfinite(scale)):
        absolute = relative = math.inf
    return LayerDifference(layer, absolute, relative, scale, order)
