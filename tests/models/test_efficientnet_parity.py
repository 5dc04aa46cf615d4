"""Agreement of EfficientNet with `transformers`: hidden states, features, logits, gradients, and running statistics.

The reference has random weights scaled so that activations stay of order one, and batch-norm statistics near those of
its input, shaken.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.configuration import EfficientNetConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.efficientnet import EFFICIENTNET_TABLE, abstract_variables
from align_jax.conversion.rules import to_flax
from align_jax.models.efficientnet import EfficientNet, ImageFeatures

TOLERANCE = 1e-5  # of the largest absolute value of each compared array
GRADIENT_TOLERANCE = 1e-4

CASES = {
    "b0_in_small_at_33px": EfficientNetConfig.b0(
        image_size=33, width_coefficient=0.25, depth_coefficient=0.5, id2label=numbered_labels(5), hidden_dim=320
    ),
    "classifier_at_37px": EfficientNetConfig.tiny(
        image_size=37, kernel_sizes=(1, 5, 3), strides=(2, 2, 1), num_block_repeats=(1, 2, 2), depthwise_padding=(1,),
        hidden_act="gelu", batch_norm_eps=1e-5, squeeze_expansion_ratio=0.5, id2label=numbered_labels(3),
    ),
    "tower_with_max_pooling_at_24px": EfficientNetConfig.tiny(
        image_size=24, out_channels=(16, 40, 56), in_channels=(32, 16, 40), width_coefficient=0.5, hidden_dim=640,
        pooling_type="max", hidden_act="relu6", depth_coefficient=1.4,
    ),
}  # fmt: skip


def make_images(config: EfficientNetConfig, batch: int = 3) -> np.ndarray:
    shape = (batch, config.image_size, config.image_size, 3)
    return np.random.default_rng(0).uniform(-1.0, 1.0, shape).astype(np.float32)


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def reference_model(config: EfficientNetConfig, images: np.ndarray, seed: int = 0) -> Any:
    """The reference in evaluation mode: the tower, or the whole classifier."""
    build = transformers.EfficientNetForImageClassification if config.id2label else transformers.EfficientNetModel
    model = build(transformers.EfficientNetConfig.from_dict(config.to_dict()))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, math.prod(parameter.shape[1:]) ** -0.5, generator=generator)
        set_momentum(model, 1.0)
        model.train()(channels_first(images))
        for norm in norms_of(model):
            norm.running_var.clamp_(min=0.05)
            shift = torch.empty_like(norm.running_var).normal_(0.0, 0.1, generator=generator)
            norm.running_mean.add_(shift * norm.running_var.sqrt())
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2.0, generator=generator))
    return model.eval()


def norms_of(model: Any) -> list[torch.nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def set_momentum(model: Any, momentum: float) -> None:
    for norm in norms_of(model):
        norm.momentum = momentum


def convert(tensors: dict[str, torch.Tensor], config: EfficientNetConfig) -> dict[str, Any]:
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}  # torch moves statistics in place
    return to_flax(arrays, EFFICIENTNET_TABLE, abstract_variables(config))


def reference_layers(model: Any, config: EfficientNetConfig, images: np.ndarray) -> dict[str, torch.Tensor]:
    pixels = channels_first(images)
    with torch.no_grad():
        tower = (model.efficientnet if config.id2label else model)(pixels, output_hidden_states=True)
        logits = {"logits": model(pixels).logits} if config.id2label else {}
    states = [*tower.hidden_states, tower.last_hidden_state]
    named = {f"hidden state {index}": state.permute(0, 2, 3, 1) for index, state in enumerate(states)}
    return named | {"pooled": tower.pooler_output} | logits


def our_layers(features: ImageFeatures) -> dict[str, jax.Array]:
    states = [*features.hidden_states, features.last_hidden_state]
    named = {f"hidden state {index}": state for index, state in enumerate(states)}
    return named | {"pooled": features.pooled} | ({} if features.logits is None else {"logits": features.logits})


def assert_close(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    found = {}
    for name, expected in theirs.items():
        mine, expected = np.asarray(ours[name]), np.asarray(expected)
        assert mine.shape == expected.shape, name
        found[name] = np.max(np.abs(mine - expected)) / np.max(np.abs(expected))
    table = "\n".join(f"{difference:.2e}  {name}" for name, difference in found.items())
    print(table)  # shown by pytest -rP
    assert max(found.values()) <= tolerance, f"relative differences above {tolerance}:\n{table}"


def assert_every_layer_agrees(config: EfficientNetConfig) -> None:
    images = make_images(config)
    model = reference_model(config, images)
    theirs = reference_layers(model, config, images)
    spreads = {name: float(state.std()) for name, state in theirs.items() if name.startswith("hidden state")}
    assert min(spreads.values()) > 0.05, f"{spreads}; the reference is too flat to compare with"
    with jax.default_matmul_precision("float32"):
        features = jax.jit(EfficientNet(config).apply)(convert(model.state_dict(), config), images)
    assert_close(our_layers(features), theirs, TOLERANCE)


@pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
def test_every_layer_agrees(config: EfficientNetConfig) -> None:
    assert_every_layer_agrees(config)


@st.composite
def configurations(draw: Any) -> EfficientNetConfig:
    """Networks of one to three stages on images that leave something to pool, most of them of an odd size."""
    stages = draw(st.integers(1, 3))

    def of_stages(values: list[int]) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.sampled_from(values), min_size=stages, max_size=stages)))

    out_channels = of_stages([16, 24, 32, 48])
    width = draw(st.sampled_from([0.2, 0.25, 0.4]))
    return EfficientNetConfig.b0(
        image_size=draw(st.integers(8, 41).map(lambda half: 2 * half - 1) | st.sampled_from([16, 34, 50])),
        width_coefficient=width,
        depth_coefficient=draw(st.sampled_from([0.5, 1.0, 1.1])),
        depth_divisor=8,
        kernel_sizes=of_stages([1, 3, 5, 7]),
        in_channels=(32, *out_channels[:-1]),
        out_channels=out_channels,
        strides=of_stages([1, 2]),
        num_block_repeats=of_stages([1, 2]),
        expand_ratios=of_stages([1, 2, 6]),
        squeeze_expansion_ratio=draw(st.sampled_from([0.1, 0.25, 1.0])),
        hidden_act=draw(st.sampled_from(["swish", "gelu", "relu6", "tanh"])),
        pooling_type=draw(st.sampled_from(["mean", "max"])),
        batch_norm_eps=draw(st.sampled_from([1e-3, 1e-5])),
        id2label=numbered_labels(draw(st.integers(0, 4))),
        # Else those of Keras, which follow from the image size.
        **draw(st.sampled_from([{}, {}, {"depthwise_padding": (0, 2)}, {"depthwise_padding": ()}])),
    )


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(config=configurations())
def test_every_layer_of_random_networks_agrees(config: EfficientNetConfig) -> None:
    assert_every_layer_agrees(config)


def test_every_gradient_agrees() -> None:
    config = EfficientNetConfig.tiny(image_size=17, depthwise_padding=(2,), id2label=numbered_labels(3))
    images = make_images(config)
    model = reference_model(config, images)
    weights = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    (model(channels_first(images)).logits * torch.from_numpy(weights)).sum().backward()

    def weighted_sum(params: dict[str, Any], batch_stats: dict[str, Any]) -> jax.Array:
        features = EfficientNet(config).apply({"params": params, "batch_stats": batch_stats}, jnp.asarray(images))
        return jnp.sum(features.logits * weights)

    variables = convert(model.state_dict(), config)
    with jax.default_matmul_precision("float32"):
        gradients = jax.jit(jax.grad(weighted_sum))(variables["params"], variables["batch_stats"])
    # Gradients go through the rules of the weights they belong to.
    expected = to_flax(
        {name: parameter.grad.numpy() for name, parameter in model.named_parameters()},
        EFFICIENTNET_TABLE,
        {"params": abstract_variables(config)["params"]},
    )["params"]
    assert_close(by_path(gradients), by_path(expected), GRADIENT_TOLERANCE)


def by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_running_statistics_after_a_training_step_agree() -> None:
    """With the reference's momentum set right.

    `transformers` gives 0.99, which TensorFlow means as the weight of the old value, to torch, which takes it for that
    of the new one (and torch's own 0.1 to the batch norm of expansions). Torch's variance is unbiased, ours as in
    TensorFlow is not.
    """
    config = EfficientNetConfig.tiny(
        image_size=17, batch_norm_momentum=0.7, drop_connect_rate=0.0, dropout_rate=0.0, id2label=numbered_labels(3)
    )
    images = make_images(config)
    model = reference_model(config, images)
    variables = convert(model.state_dict(), config)
    counts: dict[int, int] = {}
    before = {}
    for norm in norms_of(model):
        norm.register_forward_pre_hook(lambda norm, inputs: counts.update({id(norm): inputs[0][:, 0].numel()}))
        before[id(norm)] = norm.running_var.clone()
    set_momentum(model, 0.3)
    with torch.no_grad():
        logits = model.train()(channels_first(images)).logits
    for norm in norms_of(model):
        unbiased = (norm.running_var - 0.7 * before[id(norm)]) / 0.3
        biased = unbiased * (counts[id(norm)] - 1) / counts[id(norm)]
        norm.running_var.copy_(0.7 * before[id(norm)] + 0.3 * biased)
    expected = convert(model.state_dict(), config)["batch_stats"]
    train = jax.jit(nn.apply(lambda tower, images: tower(images, train=True), EfficientNet(config), ["batch_stats"]))
    with jax.default_matmul_precision("float32"):
        features, moved = train(variables, images)
    assert_close(by_path(moved["batch_stats"]), by_path(expected), TOLERANCE)
    assert_close({"logits": features.logits}, {"logits": logits}, TOLERANCE)


def test_reference_has_the_momentum_inverted() -> None:
    config = transformers.EfficientNetConfig.from_dict(EfficientNetConfig.tiny().to_dict())
    with torch.device("meta"):
        momenta = {norm.momentum for norm in norms_of(transformers.EfficientNetModel(config))}
    assert momenta == {0.99, 0.1}
