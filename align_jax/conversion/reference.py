"""What the model of `transformers` computes from given tensors and inputs, layer by layer.

torch is an extra, and is imported when it is needed.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from align_jax.configuration import AlignConfig, AlignTextConfig, EfficientNetConfig, ViTConfig
from align_jax.conversion.architectures import architecture_of
from align_jax.conversion.rules import ignored_reason
from align_jax.conversion.vit import release_5_name
from align_jax.json_config import JsonConfig


class VerificationError(ValueError):
    """There is nothing to compare with: no torch, no such model in `transformers`, or tensors that it does not take."""


class Inputs(NamedTuple):
    """What both models read."""

    images: Float[np.ndarray, "B H W 3"] | None = None  # pixels in [-1, 1]
    texts: dict[str, Shaped[np.ndarray, "..."]] | None = None  # by the argument names of the text towers


def run_reference(config: JsonConfig, tensors: Mapping[str, Any], inputs: Inputs) -> dict[str, np.ndarray]:
    """The outputs of all layers, by name, in the order in which they are computed.

    Args:
        config: of a model or a tower.
        tensors: its weights under the names of `transformers`; each is read once, and computed with in float32.
        inputs: images, texts, or both, as the model takes them.

    Returns:
        Float32 arrays, maps of images as [B H W C]; the unit-length embeddings and the logits of pairs are float64.

    Raises:
        VerificationError: see there.
    """
    _require_same_model(config)
    try:
        import torch  # noqa: PLC0415  (an extra, and slow to import)
    except ImportError:
        raise VerificationError(
            "torch computes the reference, and is not installed; pip install 'align_jax[torch]'"
        ) from None
    model = _load(config, tensors, torch)
    arguments: dict[str, Any] = {"output_hidden_states": True}
    if inputs.images is not None:
        arguments["pixel_values"] = torch.from_numpy(inputs.images).permute(0, 3, 1, 2)
    if inputs.texts is not None:
        arguments["output_attentions"] = True
        for name, values in inputs.texts.items():
            values = torch.from_numpy(values)
            arguments[name] = values if values.is_floating_point() else values.long()
    with torch.no_grad():
        layers = _layers(config, model, arguments)
    return {name: values.detach().numpy() for name, values in layers.items()}


def _require_same_model(config: JsonConfig) -> None:
    """Refuses what the installed `transformers` reads without a word, and computes differently."""
    if isinstance(config, AlignConfig) and config.image_projection:
        raise VerificationError(
            "a model with an image projection cannot be verified, because transformers has none; verify its towers"
        )
    if isinstance(config, AlignConfig) and isinstance(config.vision_config, ViTConfig):
        raise VerificationError(
            "a model with a Vision Transformer as image tower cannot be verified, because transformers has none; "
            "verify its towers"
        )
    for tower in _towers(config):
        if isinstance(tower, AlignTextConfig) and tower.position_embedding_type != "absolute":
            raise VerificationError(
                f"position_embedding_type {tower.position_embedding_type!r} cannot be verified, because transformers 5 "
                "has dropped it and would compute absolute positions; only 'absolute' can be compared"
            )
    if isinstance(config, EfficientNetConfig | ViTConfig) and config.own_fields:
        values = ", ".join(f"{name} {value!r}" for name, value in config.own_fields.items())
        raise VerificationError(
            f"{values} cannot be verified, because transformers does not know it and would compute another network; "
            "compare with the published predictions instead"
        )


def _load(config: JsonConfig, tensors: Mapping[str, Any], torch: ModuleType) -> Any:
    """The model in evaluation mode; the tensors themselves are its parameters where nothing has to be converted."""
    import transformers  # noqa: PLC0415  (imports torch where it is installed)

    architecture, values = architecture_of(config.model_type), config.to_dict()
    (name,) = values.get("architectures", [architecture.reference])
    build = getattr(transformers, name)
    for tower in _towers(config):
        if tower.hidden_act not in transformers.activations.ACT2FN:
            raise VerificationError(
                f"hidden_act {tower.hidden_act!r} cannot be verified; transformers does not know it"
            )
    # The other forms of attention keep its weights to themselves.
    without = {"add_pooling_layer": False} if isinstance(config, ViTConfig) and _is_bare(config) else {}
    model = build(build.config_class.from_dict(values, attn_implementation="eager"), **without)
    expected = model.state_dict().keys()
    weights = {}
    for given in tensors:
        if ignored_reason(architecture.table, given) is None:
            # Torch takes neither bfloat16 nor read-only arrays.
            array = np.require(np.asarray(tensors[given], np.float32), requirements=["C", "W"])
            weights[_known_name(given, f"{model.base_model_prefix}.", expected)] = torch.from_numpy(array)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        problems = " ".join(str(error).split())
        raise VerificationError(f"transformers' {name} does not take the reference tensors: {problems}") from None
    return model.eval()


def _is_bare(config: ViTConfig) -> bool:
    """Whether it is a tower without the layer that `transformers` builds unless it is told not to."""
    return not config.id2label and config.representation_size is None


def _towers(config: Any) -> tuple[Any, ...]:
    return (config.vision_config, config.text_config) if isinstance(config, AlignConfig) else (config,)


def _known_name(name: str, prefix: str, expected: Any) -> str:
    """What the model calls a tensor: files may have, or lack, the name of the model in front."""
    # The first BERT files keep the names that TensorFlow gave these two.
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    forms = (
        form for known in (name, release_5_name(name)) for form in (known, known.removeprefix(prefix), prefix + known)
    )
    return next((form for form in forms if form in expected), name)


def _layers(config: JsonConfig, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    if isinstance(config, AlignConfig):
        return _align_layers(model, arguments)
    if isinstance(config, AlignTextConfig):
        return _text_layers(model(**arguments))
    if isinstance(config, EfficientNetConfig):
        return _efficientnet_layers(config, model, arguments)
    if isinstance(config, ViTConfig):
        return _vit_layers(config, model, arguments)
    return _image_layers(model(**arguments))


def _align_layers(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Both towers, and the model's own head in double precision.

    The features of an untrained network can be so small that their squares vanish in float32, and with them the norm
    that the head divides by.
    """
    features = {}

    def widen_image(module: Any, inputs: Any, output: Any) -> None:
        features["image pooled"] = output.pooler_output
        output.pooler_output = output.pooler_output.double()

    def widen_text(module: Any, inputs: Any, output: Any) -> Any:
        features["text projection"] = output
        return output.double()

    model.vision_model.register_forward_hook(widen_image)
    model.text_projection.register_forward_hook(widen_text)
    outputs = model(**arguments)
    return {
        **_image_layers(outputs.vision_model_output),
        **_text_layers(outputs.text_model_output),
        **features,
        "temperature": model.temperature,
        "image embedding": outputs.image_embeds,
        "text embedding": outputs.text_embeds,
        "logits": outputs.logits_per_image,
    }


def _efficientnet_layers(config: EfficientNetConfig, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The tower, and the classifier where there is one."""
    towers = []
    tower = model.efficientnet if config.id2label else model
    tower.register_forward_hook(lambda module, inputs, output: towers.append(output))
    outputs = model(**arguments)
    layers = _image_layers(towers[0]) | {"image top": towers[0].last_hidden_state.permute(0, 2, 3, 1)}
    return layers | ({"class logits": outputs.logits} if config.id2label else {})


def _vit_layers(config: ViTConfig, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The tower, and the classifier where there is one."""
    towers = []
    tower = model.vit if config.id2label else model
    tower.register_forward_hook(lambda module, inputs, output: towers.append(output))
    outputs = model(**arguments, output_attentions=True)
    embeddings, *states = outputs.hidden_states
    layers = {"image embeddings": embeddings}
    for index, (state, attention) in enumerate(zip(states, outputs.attentions, strict=True)):
        layers |= {f"image attention {index}": attention, f"image layer {index}": state}
    layers["image norm"] = towers[0].last_hidden_state
    if config.representation_size is not None:
        layers["image representation"] = towers[0].pooler_output
    return layers | ({"class logits": outputs.logits} if config.id2label else {})


def _image_layers(outputs: Any) -> dict[str, Any]:
    stem, *blocks = (state.permute(0, 2, 3, 1) for state in outputs.hidden_states)
    return {
        "image stem": stem,
        **{f"image block {index}": block for index, block in enumerate(blocks)},
        "image pooled": outputs.pooler_output,
    }


def _text_layers(outputs: Any) -> dict[str, Any]:
    embeddings, *states = outputs.hidden_states
    layers = {"text embeddings": embeddings}
    for index, (state, attention) in enumerate(zip(states, outputs.attentions, strict=True)):
        layers |= {f"text attention {index}": attention, f"text layer {index}": state}
    return layers | {"text pooler": outputs.pooler_output}
