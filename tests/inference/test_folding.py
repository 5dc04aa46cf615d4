"""Folded networks compute what the networks themselves compute."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.configuration import AlignConfig, AlignVisionConfig
from align_jax.inference.folding import fold_batch_norm
from align_jax.models.efficientnet import EfficientNet

TOLERANCE = 1e-5  # of the largest feature


def drawn(config: AlignVisionConfig, pixels: int) -> tuple[dict[str, Any], np.ndarray]:
    """Variables that keep activations of order one through any depth, with statistics of every size; two images."""
    images = np.random.default_rng(0).uniform(-1, 1, (2, pixels, pixels, 3)).astype(np.float32)
    shapes = jax.eval_shape(EfficientNet(config).init, jax.random.key(0), images)
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        if "'project_norm'" in name and "'scale'" in name:  # else each of many blocks would amplify what rounding left
            return rng.uniform(0.2, 0.6, leaf.shape).astype(np.float32)
        if "'var'" in name or "'scale'" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = (2 / math.prod(leaf.shape[:-1])) ** 0.5 if "'kernel'" in name else 0.1
        spread *= 2 if "'project'" in name else 1  # for the gates, which are about a half
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(spread)

    return jax.tree_util.tree_map_with_path(draw, shapes), images


@pytest.mark.parametrize(("name", "pixels"), [("tiny", 32), ("b7", 41)])
def test_folded_batch_norm_changes_nothing(name: str, pixels: int) -> None:
    config = AlignVisionConfig.tiny() if name == "tiny" else AlignConfig.b7_base().vision_config
    variables, images = drawn(config, pixels)
    model = EfficientNet(config)
    separate = jax.jit(lambda v, x: model.apply(v, x).pooled)(variables, images)
    folded_variables = fold_batch_norm(variables, config.batch_norm_eps)
    folded = jax.jit(lambda v, x: model.clone(batch_norm="folded").apply(v, x).pooled)(folded_variables, images)
    scale = np.abs(separate).max()
    assert 1e-2 < scale < 1e4
    np.testing.assert_allclose(folded, separate, rtol=0, atol=TOLERANCE * scale)
    assert np.abs(separate[0] - separate[1]).max() > 100 * TOLERANCE * scale


def test_gates_of_one_image_go_into_the_kernel_and_change_nothing() -> None:
    config = AlignVisionConfig.tiny()
    variables, images = drawn(config, 32)
    model, folded = EfficientNet(config, batch_norm="folded"), fold_batch_norm(variables, config.batch_norm_eps)
    encode = jax.jit(lambda x: model.apply(folded, x).pooled)
    both, one = encode(images), encode(images[:1])
    np.testing.assert_allclose(one, both[:1], rtol=0, atol=TOLERANCE * np.abs(both).max())


def test_types_of_the_kernels_stay_and_offsets_are_float32() -> None:
    variables, _ = drawn(AlignVisionConfig.tiny(), 32)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables["params"])
    folded = fold_batch_norm({**variables, "params": low}, 1e-3)["params"]
    assert folded["stem"]["conv"]["kernel"].dtype == jnp.bfloat16
    assert folded["stem"]["norm"]["bias"].dtype == jnp.float32
    assert list(folded["stem"]["norm"]) == ["bias"]


def test_norm_without_a_convolution_is_refused() -> None:
    variables, _ = drawn(AlignVisionConfig.tiny(), 32)
    del variables["params"]["stem"]["conv"]
    with pytest.raises(ValueError, match="batch norm stem/norm follows no convolution"):
        fold_batch_norm(variables, 1e-3)


def test_a_folded_network_is_not_trained() -> None:
    variables, images = drawn(AlignVisionConfig.tiny(), 32)
    model = EfficientNet(AlignVisionConfig.tiny(), batch_norm="folded")
    with pytest.raises(ValueError, match="train it separate"):
        model.apply(fold_batch_norm(variables, 1e-3), images, train=True, rngs={"dropout": jax.random.key(0)})
