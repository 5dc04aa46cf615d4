"""The Vision Transformer against `transformers`: layers, other sizes of images, gradients; and what is ours alone."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from align_jax.configuration import ConfigurationError, ViTConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.verify import Inputs, compare_layers
from align_jax.models.position_embeddings import interpolate_positions
from align_jax.models.vit import ViT
from tests.models.reference import (
    assert_agreement,
    assert_gradients_agree,
    channels_first,
    random_images,
    reference_gradients,
    reference_model,
    tensors_of,
    variables_of,
)

LABELS = ("cat", "dog", "mat")
CONFIG = ViTConfig.tiny(id2label=LABELS)
QUICK = {"xla_backend_optimization_level": 0}  # to compile; each program runs once


@pytest.fixture(scope="module")
def reference() -> Any:
    return reference_model(CONFIG)


@pytest.fixture(scope="module")
def variables(reference: Any) -> dict[str, Any]:
    return variables_of(CONFIG, tensors_of(reference))


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        ViTConfig.tiny(id2label=LABELS, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, qkv_bias=False),
        ViTConfig.tiny(id2label=LABELS, image_size=38, patch_size=14, hidden_size=48, num_attention_heads=3),
        ViTConfig.tiny(representation_size=32),
        ViTConfig.tiny(representation_size=16, pooler_act="relu"),
        ViTConfig.tiny(),
    ],
    ids=["classifier", "tanh_gelu", "ragged_patches", "pooler", "narrow_pooler", "bare"],
)
def test_every_layer_agrees(config: ViTConfig) -> None:
    values = {"add_pooling_layer": False} if not config.id2label and config.representation_size is None else {}
    model = reference_model(config if not values else dataclasses.replace(config, representation_size=32))
    tensors = {name: tensor for name, tensor in tensors_of(model).items() if not values or "pooler" not in name}
    assert_agreement(compare_layers(config, tensors, variables_of(config, tensors)))


@pytest.mark.optimized
def test_large_at_384_px_agrees_layer_by_layer() -> None:
    config = ViTConfig.large(id2label=numbered_labels(1000), image_size=384)
    model = reference_model(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 304_715_752
    tensors = tensors_of(model)
    variables = variables_of(config, tensors)
    tensors = ReadOnce(tensors)
    del model
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 304_715_752
    images = random_images(np.random.default_rng(0), 1, 384)
    differences = compare_layers(config, tensors, variables, Inputs(images, None))
    assert len(differences) == 1 + 2 * 24 + 2
    assert_agreement(differences)


class ReadOnce(dict[str, np.ndarray]):
    """Tensors that nobody holds any more when our model starts."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.keys()))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.pop(name)


@pytest.mark.parametrize("size", ["ti"])
def test_named_sizes_agree(size: str) -> None:
    config = getattr(ViTConfig, size)(id2label=LABELS, image_size=96)
    tensors = tensors_of(reference_model(config))
    assert_agreement(compare_layers(config, tensors, variables_of(config, tensors)))


@pytest.mark.parametrize("shape", [(32, 48), (24, 24), (16, 64), (67, 41)])
def test_images_of_other_sizes_agree_with_release_5(
    reference: Any, variables: dict[str, Any], shape: tuple[int, int]
) -> None:
    config = dataclasses.replace(CONFIG, position_interpolation="bicubic_sized")
    images = random_images(np.random.default_rng(0), 2, 67)[:, : shape[0], : shape[1]]
    with torch.no_grad():
        theirs = reference(channels_first(images), interpolate_pos_encoding=True, output_hidden_states=True)
    ours: Any = jax.jit(ViT(config).apply)(variables, images)
    expected = [*(state.numpy() for state in theirs.hidden_states), theirs.logits.numpy()]
    for found, wanted in zip([*ours.hidden_states, ours.logits], expected, strict=True):
        assert np.max(np.abs(found - wanted)) <= 1e-5 * np.max(np.abs(wanted))


@pytest.mark.parametrize("grid", [(14, 14), (24, 24), (9, 20), (1, 3)])
def test_positions_are_interpolated_as_release_4_does(grid: tuple[int, int]) -> None:
    """Its formula: a tenth of a patch is added to the grid, and the ratio to the table is the scale of the resize."""
    side, width = 12, 5
    table = np.random.default_rng(0).standard_normal((side**2 + 1, width)).astype(np.float32)
    squares = torch.from_numpy(table[1:]).reshape(1, side, side, width).permute(0, 3, 1, 2)
    factors = tuple((count + 0.1) / side for count in grid)
    resized = torch.nn.functional.interpolate(squares, scale_factor=factors, mode="bicubic", align_corners=False)
    assert resized.shape[2:] == grid
    expected = np.concatenate([table[:1], resized.permute(0, 2, 3, 1).reshape(-1, width).numpy()])
    found = interpolate_positions(jnp.asarray(table), grid, "bicubic_scaled")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if grid != (side, side):
        other = interpolate_positions(jnp.asarray(table), grid, "bicubic_sized")
        assert np.max(np.abs(other - expected)) > 1e-4  # the two formulas differ


def test_linear_interpolation_keeps_the_corners() -> None:
    """As `scipy.ndimage.zoom` of order 1: the outer patches stay where they are, those between lie on lines."""
    table = jnp.arange(1.0 + 9)[:, None]
    expected = [
        [1, 1.5, 2, 2.5, 3],
        [2.5, 3, 3.5, 4, 4.5],
        [4, 4.5, 5, 5.5, 6],
        [5.5, 6, 6.5, 7, 7.5],
        [7, 7.5, 8, 8.5, 9],
    ]
    found = interpolate_positions(table, (5, 5), "linear")
    assert found[0, 0] == 0
    np.testing.assert_allclose(found[1:, 0].reshape(5, 5), expected, rtol=0, atol=1e-6)


def test_gradients_agree(reference: Any, variables: dict[str, Any]) -> None:
    images, classes = random_images(np.random.default_rng(0), 4, 32), np.array([0, 2, 1, 1])

    def loss(params: Any) -> jax.Array:
        logits = ViT(CONFIG).apply({"params": params}, images).logits  # pyrefly: ignore
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(4), classes])

    reference.zero_grad()
    reference(channels_first(images), labels=torch.from_numpy(classes)).loss.backward()
    assert_gradients_agree(jax.jit(jax.grad(loss))(variables["params"]), reference_gradients(reference, CONFIG))


def test_rematerialised_layers_have_the_same_gradient(variables: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    images = random_images(np.random.default_rng(0), 2, 32)

    def gradient(parts: tuple[str, ...]) -> Any:
        model = ViT(config, rematerialize=parts)

        def loss(params: Any) -> jax.Array:
            features: Any = model.apply({"params": params}, images, train=True, rngs={"dropout": jax.random.key(1)})
            return jnp.sum(jnp.square(features.logits))

        return jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(variables["params"])

    plain, again = gradient(()), gradient(("layers",))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), plain, again)
    value, _ = plain
    assert value != jnp.sum(jnp.square(ViT(config).apply(variables, images).logits))  # pyrefly: ignore
    with pytest.raises(ConfigurationError, match="'stem'"):
        ViT(CONFIG, rematerialize=("stem",)).apply(variables, images)


def test_the_pre_training_head_classifies_by_the_representation(reference: Any) -> None:
    """Which `transformers` has apart: a tanh layer in its tower, and a classifier without it."""
    config = ViTConfig.tiny(id2label=LABELS, representation_size=24)
    tower = reference_model(dataclasses.replace(config, id2label=()))
    names = {name: f"vit.{name}" for name in tensors_of(tower)}
    head = {name: tensor for name, tensor in tensors_of(reference).items() if name.startswith("classifier")}
    head["classifier.weight"] = np.random.default_rng(1).standard_normal((3, 24)).astype(np.float32)
    variables = variables_of(config, {names[name]: tensor for name, tensor in tensors_of(tower).items()} | head)
    images = random_images(np.random.default_rng(0), 2, 32)
    with torch.no_grad():
        representation = tower(channels_first(images)).pooler_output.numpy()
    expected = representation @ head["classifier.weight"].T + head["classifier.bias"]
    found: Any = jax.jit(ViT(config).apply)(variables, images)
    assert np.max(np.abs(found.logits - expected)) <= 1e-5 * np.max(np.abs(expected))
    assert np.max(np.abs(found.pooled - representation)) <= 1e-5


def test_first_variables_are_those_of_the_released_training() -> None:
    config = ViTConfig.tiny(id2label=LABELS, representation_size=24, hidden_size=64, num_hidden_layers=1)
    params = jax.jit(ViT(config, first_class_bias=-10.0).init, compiler_options=QUICK)(
        jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)
    )["params"]
    assert not np.any(params["classifier"]["kernel"])
    np.testing.assert_array_equal(params["classifier"]["bias"], -10.0)
    image = params["image"]
    assert not np.any(image["embeddings"]["class_token"])
    assert np.std(image["embeddings"]["position"]) == pytest.approx(0.02, rel=0.1)
    glorot = {"query": (2 / 128) ** 0.5}
    for name, expected in glorot.items():
        assert np.std(image["layers_0"]["attention"][name]["kernel"]) == pytest.approx(expected, rel=0.1)
    assert image["representation"]["kernel"].shape == (64, 24)


def test_bfloat16_is_close_and_classifies_in_float32(variables: dict[str, Any]) -> None:
    images = random_images(np.random.default_rng(0), 2, 32)
    exact: Any = ViT(CONFIG).apply(variables, images)
    rough: Any = jax.jit(ViT(CONFIG, dtype=jnp.bfloat16).apply)(variables, images)
    assert (rough.last_hidden_state.dtype, rough.logits.dtype) == (jnp.bfloat16, jnp.float32)
    assert 0 < np.max(np.abs(rough.logits - exact.logits)) < 0.1 * np.max(np.abs(exact.logits))
