"""FLOPs of a pair, or of a classified image, by hand count: of the products of towers and loss, two a multiply-add.

What is left out (norms, activations, softmax, pooling, the optimizer) does not run on the matrix unit that a chip's
peak is quoted for. Rematerialisation and the second pass of gradient accumulation are left out of the training count
too: it is what the model needs, so that a utilisation computed from it cannot be raised by computing things twice
(Chowdhery et al., arXiv 2204.02311, appendix B).
"""

from typing import NamedTuple

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, ImageTowerConfig, ViTConfig
from align_jax.data.pairs import PairData
from align_jax.models.efficientnet import block_specs
from align_jax.models.efficientnet_blocks import BlockSpec
from align_jax.training.experiment import Experiment
from align_jax.training.tasks import Classification
from align_jax.training.tasks.classification import ClassifierConfig


class Cost(NamedTuple):
    """What one part of the model costs for one pair."""

    forward_flops: float
    inner_activations: float  # numbers that the gradient needs, besides the inputs of the part's blocks

    def __add__(self, other: "Cost") -> "Cost":  # pyrefly: ignore  (a sum, where a tuple would be longer)
        return Cost(self.forward_flops + other.forward_flops, self.inner_activations + other.inner_activations)


def training_flops_per_example(experiment: Experiment) -> float:
    """FLOPs of forward and backward pass for one pair, or image, of the global batch."""
    # The gradient of a product is two products of the same size; the input of the first layer, the images, has none.
    return 3 * forward_flops_per_example(experiment) - _first_layer_flops(_image_tower(experiment))


def forward_flops_per_example(experiment: Experiment) -> float:
    """FLOPs of the forward pass for one pair, or image, of the global batch."""
    task, data = experiment.task, experiment.data
    if isinstance(task, Classification):
        return classification_flops(task.model)
    assert isinstance(data, PairData)  # the experiment has checked it
    return forward_flops_per_pair(task.model, text_length=data.text_length, batch_size=experiment.batch_size)


def classification_flops(model: ClassifierConfig) -> float:
    """FLOPs of classifying one image."""
    return _image_flops(model) + 2 * model.feature_size * len(model.id2label)


def forward_flops_per_pair(model: AlignConfig, *, text_length: int, batch_size: int) -> float:
    """FLOPs of embedding one pair and of comparing it with the others.

    Args:
        model: both towers.
        text_length: tokens per caption, padding included.
        batch_size: pairs of the global batch, each of which an image and a text are compared with.
    """
    width = model.projection_dim
    projections = 2 * model.text_config.hidden_size * width
    if model.image_projection:
        projections += 2 * model.vision_config.feature_size * width
    comparisons = 2 * 2 * batch_size * width
    text = _text_layers(model.text_config, text_length).forward_flops
    return _image_flops(model.vision_config) + text + projections + comparisons


def costs_of_parts(experiment: Experiment) -> dict[str, Cost]:
    """The cost of every part of an experiment's model that can be rematerialised."""
    task, data = experiment.task, experiment.data
    if isinstance(task, Classification):
        return _tower_parts(task.model)
    assert isinstance(data, PairData)  # the experiment has checked it
    return part_costs(task.model, data.text_length)


def part_costs(model: AlignConfig, text_length: int) -> dict[str, Cost]:
    """The cost of every part that can be rematerialised, in the order of `rematerializable_parts`."""
    return {**_tower_parts(model.vision_config), "text/layers": _text_layers(model.text_config, text_length)}


def recomputed_flops_per_example(experiment: Experiment) -> float:
    """FLOPs that rematerialisation adds to a step, at most: the compiler drops what nothing needs."""
    costs = costs_of_parts(experiment)
    return sum(costs[part].forward_flops for part in set(experiment.task.rematerialize))


def _image_tower(experiment: Experiment) -> ImageTowerConfig:
    task = experiment.task
    return task.model if isinstance(task, Classification) else task.model.vision_config


def _image_flops(config: ImageTowerConfig) -> float:
    """FLOPs of an image tower."""
    layers = sum(cost.forward_flops for cost in _tower_parts(config).values())
    if isinstance(config, ViTConfig):  # what lies before and behind its layers
        return layers + _patch_flops(config) + _representation_flops(config)
    return layers + _top_flops(config)


def _tower_parts(config: ImageTowerConfig) -> dict[str, Cost]:
    return {"image/layers": _patch_layers(config)} if isinstance(config, ViTConfig) else _image_parts(config)


def _top_flops(config: AlignVisionConfig) -> float:
    """Of the convolution behind the last block, where there is one."""
    return 2 * config.round_channels(config.out_channels[-1]) * (config.top_channels or 0) * config.map_side**2


def _image_parts(config: AlignVisionConfig) -> dict[str, Cost]:
    side = config.image_size // 2 if config.stem_padding == "asymmetric" else (config.image_size + 1) // 2
    outputs = side**2 * config.stem_channels
    # The input of the activation, besides the bytes of the image.
    parts = {"image/stem": Cost(2 * 9 * config.num_channels * outputs, 2 * outputs)}
    for spec in block_specs(config):
        cost, side = _block(spec, side)
        name = f"image/stage_{spec.stage}"
        parts[name] = parts.get(name, Cost(0, 0)) + cost
    return parts


def _block(spec: BlockSpec, side: int) -> tuple[Cost, int]:
    """The cost of a block and the side of the map that it gives."""
    before, after = spec.padding[0]
    new_side = (side + before + after - spec.kernel_size) // spec.stride + 1
    positions, new_positions = side**2, new_side**2
    inner = spec.in_channels * spec.expand_ratio
    flops, activations = 2 * spec.kernel_size**2 * inner * new_positions, 3 * inner * new_positions
    if spec.expand_ratio != 1:
        flops += 2 * spec.in_channels * inner * positions
        activations += 2 * inner * positions
    if spec.squeezed_channels is not None:
        flops += 2 * 2 * inner * spec.squeezed_channels
    flops += 2 * inner * spec.out_channels * new_positions
    return Cost(flops, activations + spec.out_channels * new_positions), new_side


def _first_layer_flops(config: ImageTowerConfig) -> float:
    return _patch_flops(config) if isinstance(config, ViTConfig) else _image_parts(config)["image/stem"].forward_flops


def _patch_flops(config: ViTConfig) -> float:
    return 2 * config.grid_side**2 * config.patch_size**2 * config.num_channels * config.hidden_size


def _representation_flops(config: ViTConfig) -> float:
    return 2 * config.hidden_size * (config.representation_size or 0)


def _patch_layers(config: ViTConfig) -> Cost:
    return _transformer_layers(config, 1 + config.grid_side**2, 2)


def _text_layers(config: AlignTextConfig, length: int) -> Cost:
    products = {"absolute": 2, "relative_key": 3, "relative_key_query": 4}[config.position_embedding_type]
    return _transformer_layers(config, length, products)


def _transformer_layers(config: AlignTextConfig | ViTConfig, length: int, products: int) -> Cost:
    """Layers of attention, with some products of every two tokens, and of the two products behind it."""
    width, hidden = config.hidden_size, config.intermediate_size
    flops = 2 * length * (4 * width**2 + 2 * width * hidden) + 2 * products * length**2 * width
    activations = length * (7 * width + 2 * hidden) + 2 * config.num_attention_heads * length**2
    return Cost(config.num_hidden_layers * flops, config.num_hidden_layers * activations)
