"""PyTorch models of `transformers` whose activations are of order one, and their weights for ours.

With its own initialisation nearly every activation is zero, and any two networks agree.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from flax.traverse_util import flatten_dict

from align_jax.configuration import AlignConfig
from align_jax.conversion.architectures import architecture_of
from align_jax.conversion.rules import to_flax
from align_jax.conversion.verify import TOLERANCE, Inputs, LayerDifference, format_table
from align_jax.json_config import JsonConfig


def untrained_model(config: JsonConfig) -> Any:
    """The class of `transformers` for a configuration, with its own initialisation, in evaluation mode."""
    values = config.to_dict()
    (name,) = values.get("architectures", [architecture_of(config.model_type).reference])
    build = getattr(transformers, name)
    return build(build.config_class.from_dict(values, attn_implementation="eager")).eval()


def reference_model(config: JsonConfig, images: np.ndarray | None = None, seed: int = 0) -> Any:
    """The model in evaluation mode; batch-norm statistics are near those of the images [B H W 3], shaken."""
    model = untrained_model(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.ndim > 1:
                fan_in = 1 if re.search("_embeddings(.weight)?$", name) else math.prod(parameter.shape[1:])
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)
            else:
                parameter.fill_(0.7)  # the temperature
        if images is not None:
            _measure_statistics(getattr(model, "vision_model", model), images, generator)
    return model


def _measure_statistics(tower: Any, images: np.ndarray, generator: torch.Generator) -> None:
    norms = [module for module in tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    tower(pixel_values=channels_first(images))
    for norm in norms:
        norm.eval()
        norm.running_var.clamp_(min=0.05)
        shift = torch.empty_like(norm.running_var).normal_(0.0, 0.1, generator=generator)
        norm.running_mean.add_(shift * norm.running_var.sqrt())
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2.0, generator=generator))


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def variables_of(config: JsonConfig, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    architecture = architecture_of(config.model_type)
    return to_flax(tensors, architecture.table, architecture.abstract_variables(config), casting="floating")


def random_images(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Pixels that are bytes scaled to [-1, 1]."""
    pixels = rng.integers(0, 256, (count, size, size, 3), np.uint8).astype(np.float32)
    return pixels / np.float32(127.5) - np.float32(1.0)


def make_inputs(config: AlignConfig, lengths: tuple[int, ...], *, all_inputs: bool, seed: int = 0) -> Inputs:
    """As many images as texts, which have these lengths.

    Args:
        config: of the model.
        lengths: tokens of each text; the rest is padding.
        all_inputs: adds segments, reversed positions, and a hole in the middle of a mask.
        seed: of the numbers.
    """
    rng = np.random.default_rng(seed)
    text, batch, longest = config.text_config, len(lengths), max(lengths)
    mask = (np.arange(longest)[None, :] < np.array(lengths)[:, None]).astype(np.int32)
    texts = {"input_ids": rng.integers(1, text.vocab_size, mask.shape, np.int32) * mask}
    if all_inputs:
        mask[0, longest // 2] = 0
        texts["token_type_ids"] = rng.integers(0, text.type_vocab_size, mask.shape, np.int32)
        texts["position_ids"] = np.arange(longest, dtype=np.int32)[None, ::-1].repeat(batch, axis=0)
    return Inputs(random_images(rng, batch, config.vision_config.image_size), texts | {"attention_mask": mask})


def torch_arguments(inputs: Inputs) -> dict[str, torch.Tensor]:
    """The same images and texts, under the names that they have in `transformers`."""
    assert inputs.images is not None
    texts = {name: torch.from_numpy(values) for name, values in (inputs.texts or {}).items()}
    texts = {name: values if values.is_floating_point() else values.long() for name, values in texts.items()}
    return {"pixel_values": channels_first(inputs.images)} | texts


def reference_gradients(model: Any, config: JsonConfig) -> dict[str, Any]:
    """Gradients go through the rules of the weights they belong to."""
    gradients = {
        name: np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad.numpy()
        for name, parameter in model.named_parameters()
    }
    architecture = architecture_of(config.model_type)
    target = {"params": architecture.abstract_variables(config)["params"]}
    return to_flax(gradients, architecture.table, target, casting="floating")["params"]


def assert_gradients_agree(gradients: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-4) -> None:
    """Compares with the largest gradient of each layer.

    Gradients are sums over all positions of terms that nearly cancel, so they keep a digit less than activations do.
    Some are zero but for rounding, and can only be compared with those of the kernel or scale beside them: a vector
    added to every key adds one number to a row of scores, which softmax removes; what a batch norm adds to a channel
    is removed by the next batch norm where only a 1 x 1 convolution is between them.
    """
    found, ours, theirs = {}, flatten_dict(gradients), flatten_dict(expected)
    assert ours.keys() == theirs.keys()
    for path, wanted in theirs.items():
        scale = max(np.max(np.abs(value)) for other, value in theirs.items() if other[:-1] == path[:-1])
        difference = np.max(np.abs(np.asarray(ours[path]) - wanted))
        # BERT's pooler takes no part in the loss: both gradients are zero throughout.
        found["/".join(path)] = float(difference / scale) if scale > 0 else float(difference)
    table = "\n".join(f"{difference:.2e}  {name}" for name, difference in found.items())
    print(table)
    assert all(difference <= tolerance for difference in found.values()), f"above {tolerance}:\n{table}"


def assert_agreement(differences: Sequence[LayerDifference], tolerance: float = TOLERANCE) -> None:
    table = format_table(differences, limit=None)
    print(table)  # shown by pytest -rP
    flat = [
        row.layer for row in differences if re.search("stem|block|layer|embeddings", row.layer) and row.scale < 0.05
    ]
    assert not flat, f"{flat} are too flat to compare with:\n{table}"
    assert differences[0].relative <= tolerance, table
