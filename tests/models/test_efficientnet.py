"""The image tower where it differs from other EfficientNets: padding, drop-connect, grouped batch norm, types.

What a configuration adds to it: the top convolution, the classifier, and the choices of EfficientNet-Lite.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, EfficientNetConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.models.align import Align
from align_jax.models.efficientnet import EfficientNet, block_specs
from align_jax.models.efficientnet_blocks import BatchNorm, DepthwiseConv
from align_jax.parallel.sharding import logical_axes, path_name


def one_stage(**overrides: Any) -> AlignVisionConfig:
    """Two blocks of equal width without expansion; only the second adds its input."""
    fields = {
        "image_size": 8, "kernel_sizes": (3,), "in_channels": (32,), "out_channels": (32,), "strides": (1,),
        "num_block_repeats": (2,), "expand_ratios": (1,), "width_coefficient": 1.0, "depth_coefficient": 1.0,
    }  # fmt: skip
    return AlignVisionConfig(**(fields | overrides))


def random_variables(module: nn.Module, *inputs: Any) -> Any:
    """Drawn outside JAX: compiling the truncated normals of an initialisation takes longer than these tests."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim > 1:
            return (rng.normal(size=leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5).astype(leaf.dtype)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(module.init, jax.random.key(0), *inputs))


def test_289px_gives_maps_of_144_72_36_18_and_9() -> None:
    tower = EfficientNet(AlignVisionConfig.efficientnet("b7"))
    images = jax.ShapeDtypeStruct((1, 289, 289, 3), jnp.float32)
    features, _ = jax.eval_shape(tower.init_with_output, jax.random.key(0), images)
    sizes = [state.shape[1:3] for state in features.hidden_states]
    assert len(sizes) == 56
    assert list(dict.fromkeys(sizes)) == [(144, 144), (72, 72), (36, 36), (18, 18), (9, 9)]
    assert features.pooled.shape == (1, 640)


def test_first_block_of_a_stage_never_adds_its_input() -> None:
    specs = block_specs(one_stage(num_block_repeats=(3,)))
    assert [spec.residual for spec in specs] == [False, True, True]
    assert {(spec.in_channels, spec.out_channels, spec.stride) for spec in specs} == {(32, 32, 1)}


def test_listed_blocks_have_symmetric_padding() -> None:
    specs = block_specs(one_stage(kernel_sizes=(5,), strides=(2,), num_block_repeats=(1,)))
    assert specs[0].padding == ((1, 2), (1, 2))
    specs = block_specs(one_stage(kernel_sizes=(5,), strides=(2,), num_block_repeats=(1,), depthwise_padding=(0,)))
    assert specs[0].padding == ((2, 2), (2, 2))


def test_drop_rates_rise_linearly_over_all_blocks() -> None:
    rates = [spec.drop_rate for spec in block_specs(AlignVisionConfig.efficientnet("b7"))]
    np.testing.assert_allclose(rates, 0.2 * np.arange(55) / 55)


def test_drop_connect_drops_whole_examples_and_scales_the_others() -> None:
    images = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)
    states = {}
    for rate in (0.0, 1.0):  # the second of two blocks drops half of it
        tower = EfficientNet(one_stage(drop_connect_rate=rate))
        variables = random_variables(tower, images)
        apply = jax.jit(partial(tower.apply, train=True, mutable=["batch_stats"]))
        features, _ = apply(variables, images, rngs={"dropout": jax.random.key(2)})
        states[rate] = [np.asarray(state) for state in features.hidden_states]
    before, after = states[1.0][1:]
    branch = states[0.0][2] - states[0.0][1]
    dropped = np.array([np.array_equal(before[i], after[i]) for i in range(64)])
    assert 16 < dropped.sum() < 48
    np.testing.assert_allclose((after - before)[~dropped], 2.0 * branch[~dropped], rtol=1e-4, atol=1e-5)


def test_nothing_is_random_in_evaluation() -> None:
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    tower = EfficientNet(one_stage(drop_connect_rate=1.0))
    variables = random_variables(tower, images)
    features = jax.jit(tower.apply)(variables, images)
    alone = jax.jit(tower.apply)(variables, images[:1])
    np.testing.assert_allclose(features.pooled[:1], alone.pooled, rtol=1e-5, atol=1e-6)


def loop_batch_norm(x: np.ndarray, group_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised features, and the means over groups of the groups' means and biased variances."""
    normalized, means, variances = [], [], []
    for start in range(0, len(x), group_size):
        group = x[start : start + group_size].astype(np.float64)
        means.append(group.mean((0, 1, 2)))
        variances.append(((group - means[-1]) ** 2).mean((0, 1, 2)))
        normalized.append((group - means[-1]) / np.sqrt(variances[-1] + 1e-3))
    return np.concatenate(normalized), np.mean(means, axis=0), np.mean(variances, axis=0)


def batch_norm(group_size: int | None, *, train: bool = True) -> BatchNorm:
    return BatchNorm(train=train, group_size=group_size, momentum=0.9, epsilon=1e-3)


def start_variables() -> dict[str, Any]:
    params = {"scale": np.float32([1.0, 2.0, 0.5]), "bias": np.float32([0.0, -1.0, 3.0])}
    stats = {"mean": np.float32([0.5, 0.0, -2.0]), "var": np.float32([1.0, 4.0, 0.25])}
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("group_size", [2, 4, 12, None])
def test_batch_norm_equals_a_loop_over_groups(group_size: int | None) -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (12, 5, 4, 3)).astype(np.float32)
    variables = start_variables()
    out, moved = batch_norm(group_size).apply(variables, jnp.asarray(x), mutable=["batch_stats"])
    normalized, mean, variance = loop_batch_norm(x, group_size or 12)
    params, stats = variables["params"], variables["batch_stats"]
    np.testing.assert_allclose(out, normalized * params["scale"] + params["bias"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.9 * stats["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["var"], 0.9 * stats["var"] + 0.1 * variance, rtol=1e-5)


@pytest.mark.parametrize("group_size", [2, 4])
def test_batch_norm_does_not_depend_on_the_number_of_devices(group_size: int) -> None:
    x = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
    normalized, mean, _ = loop_batch_norm(x, group_size)
    for devices in (1, 2, 8):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        apply = jax.jit(lambda x: batch_norm(group_size).apply(start_variables(), x, mutable=["batch_stats"]))
        out, moved = apply(sharded)
        np.testing.assert_allclose(out[..., 0], normalized[..., 0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(moved["batch_stats"]["mean"][0], 0.45 + 0.1 * mean[0], rtol=1e-5)


def test_batch_norm_in_evaluation_uses_the_running_statistics() -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 3)).astype(np.float32)
    variables = start_variables()
    out = batch_norm(2, train=False).apply(variables, jnp.asarray(x))
    stats, params = variables["batch_stats"], variables["params"]
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * params["scale"] + params["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_initialisation_leaves_the_running_statistics_alone() -> None:
    variables = batch_norm(2).init(jax.random.key(0), jnp.full((4, 2, 2, 3), 7.0))
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(3))


def test_batch_that_does_not_divide_into_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match="batch size 10 is not a multiple of the batch-norm group size 4; use 8 or 12"):
        batch_norm(4).init(jax.random.key(0), jnp.zeros((10, 2, 2, 3)))


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_depthwise_filters_start_with_variance_two_over_their_size(kernel_size: int) -> None:
    side = kernel_size // 2
    layer = DepthwiseConv(kernel_size, 1, ((side, side), (side, side)), jnp.float32, jnp.float32)
    shape = jax.ShapeDtypeStruct((1, 5, 5, 4096), jnp.float32)
    kernel = jax.jit(layer.lazy_init)(jax.random.key(0), shape)["params"]["kernel"]
    assert kernel.shape == (kernel_size, kernel_size, 1, 4096)
    assert float(jnp.var(kernel)) == pytest.approx(2.0 / kernel_size**2, rel=0.02)
    assert float(jnp.mean(kernel)) == pytest.approx(0.0, abs=0.01)


def test_bytes_are_scaled_to_minus_one_and_one() -> None:
    config = AlignConfig.of_towers(one_stage(), AlignTextConfig.tiny(num_hidden_layers=1))
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    floats = images.astype(np.float32) / 127.5 - 1.0
    assert (floats.min(), floats.max()) == (-1.0, 1.0)
    model = Align(config)
    variables = random_variables(model, images, np.zeros((2, 3), np.int32))
    encode = jax.jit(lambda images: model.apply(variables, images, method="encode_image")[0])
    np.testing.assert_allclose(encode(images), encode(floats), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_keeps_pooling_parameters_and_statistics_in_float32(train: bool) -> None:
    config = one_stage(expand_ratios=(2,), drop_connect_rate=0.0)
    images = np.random.default_rng(0).uniform(-1.0, 1.0, (4, 8, 8, 3)).astype(np.float32)
    outputs = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        tower = EfficientNet(config, dtype=dtype)
        variables = random_variables(tower, images)
        apply = jax.jit(partial(tower.apply, train=train, mutable=["batch_stats"]))
        features, moved = apply(variables, images)
        assert {leaf.dtype for leaf in jax.tree.leaves((variables, moved))} == {jnp.dtype("float32")}
        assert features.last_hidden_state.dtype == dtype
        assert features.pooled.dtype == jnp.float32
        outputs[dtype] = np.asarray(features.pooled)
    difference = np.abs(outputs[jnp.bfloat16] - outputs[jnp.float32]).max()
    assert 0 < difference < 0.05 * np.abs(outputs[jnp.float32]).max()


def abstract_leaves(config: AlignVisionConfig) -> dict[str, jax.ShapeDtypeStruct]:
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    variables = jax.eval_shape(EfficientNet(config).init, jax.random.key(0), images)
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def test_top_and_classifier_are_all_that_a_classifier_adds_to_the_tower_of_align() -> None:
    sizes = {"width_coefficient": 0.25, "hidden_dim": 320}
    align = abstract_leaves(AlignVisionConfig.tiny(**sizes))
    tower = abstract_leaves(EfficientNetConfig.tiny(**sizes))
    classifier = abstract_leaves(EfficientNetConfig.tiny(**sizes, id2label=numbered_labels(7)))
    top = {name: leaf.shape for name, leaf in tower.items() if name not in align}
    assert top == {
        "params/top/conv/kernel": (1, 1, 8, 320), "params/top/norm/scale": (320,), "params/top/norm/bias": (320,),
        "batch_stats/top/norm/mean": (320,), "batch_stats/top/norm/var": (320,),
    }  # fmt: skip
    assert {name: tower[name] for name in align} == align
    inside = {name.replace("/", "/image/", 1): leaf for name, leaf in tower.items()}
    assert {name: classifier[name] for name in inside} == inside
    assert {name: leaf.shape for name, leaf in classifier.items() if name not in inside} == {
        "params/classifier/kernel": (320, 7), "params/classifier/bias": (7,),
    }  # fmt: skip


def test_every_parameter_of_a_classifier_has_a_row_in_the_sharding_table() -> None:
    for path, leaf in abstract_leaves(EfficientNetConfig.tiny(id2label=numbered_labels(7))).items():
        assert len(logical_axes(path) or ()) == leaf.ndim, path
    assert logical_axes("params/image/top/conv/kernel") == (None, None, None, "features")
    assert logical_axes("params/classifier/kernel") == ("features", None)


def test_lite_keeps_its_ends_and_has_no_squeeze_excite() -> None:
    config = EfficientNetConfig.lite4()  # 1.4 times as wide, 1.8 times as deep
    specs = block_specs(config)
    plain = block_specs(EfficientNetConfig.b4())
    assert {spec.squeezed_channels for spec in specs} == {None}
    assert (config.stem_channels, config.top_channels) == (32, 1280)
    assert [spec.out_channels for spec in specs if not spec.residual] == [24, 32, 56, 112, 160, 272, 448]
    assert [spec.out_channels for spec in plain if not spec.residual] == [24, 32, 56, 112, 160, 272, 448]
    assert (len(specs), len(plain)) == (30, 32)  # one block less in the first stage and in the last


@pytest.mark.parametrize(("size_px", "side"), [(16, 8), (17, 9)])
def test_symmetric_stem_gives_odd_images_another_position(size_px: int, side: int) -> None:
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    sides = []
    for padding in ("asymmetric", "symmetric"):
        tower = EfficientNet(EfficientNetConfig.tiny(stem_padding=padding))
        features, _ = jax.eval_shape(tower.init_with_output, jax.random.key(0), images)
        sides.append(features.hidden_states[0].shape[1])
    assert sides == [8, side]


@pytest.mark.parametrize("size_px", [8, 9, 32, 33, 34, 35])
@pytest.mark.parametrize(
    "padding",
    [
        {},
        {"depthwise_padding": (1,)},
        {"depthwise_padding": (0, 3)},
        {"depthwise_padding": (1,), "stem_padding": "symmetric"},
    ],
)
def test_configuration_knows_the_side_of_the_last_map(size_px: int, padding: dict[str, Any]) -> None:
    stages = {"strides": (2, 2, 1), "kernel_sizes": (1, 5, 3), "num_block_repeats": (1, 2, 1)}
    config = EfficientNetConfig.tiny(image_size=size_px, **stages, **padding)
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    features, _ = jax.eval_shape(EfficientNet(config).init_with_output, jax.random.key(0), images)
    assert features.last_hidden_state.shape[1:3] == (config.map_side, config.map_side)


def test_dropout_in_front_of_the_classifier_works_in_training_only() -> None:
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    config = EfficientNetConfig.tiny(image_size=8, dropout_rate=1.0, id2label=numbered_labels(3))
    tower = EfficientNet(config)
    variables = random_variables(tower, images)
    bias = np.broadcast_to(variables["params"]["classifier"]["bias"], (2, 3))
    train = jax.jit(partial(tower.apply, train=True, mutable=["batch_stats"]))
    features, _ = train(variables, images, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(features.logits, bias)
    evaluated = jax.jit(tower.apply)(variables, images)
    expected = evaluated.pooled @ variables["params"]["classifier"]["kernel"] + bias
    np.testing.assert_allclose(evaluated.logits, expected, rtol=1e-5)
    assert np.abs(evaluated.logits - bias).max() > 0.1


def test_bfloat16_gives_logits_in_float32() -> None:
    config = EfficientNetConfig.tiny(image_size=8, id2label=numbered_labels(3))
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    for param_dtype in (jnp.float32, jnp.bfloat16):
        tower = EfficientNet(config, dtype=jnp.bfloat16, param_dtype=param_dtype)
        features, _ = jax.eval_shape(tower.init_with_output, jax.random.key(0), images)
        assert features.last_hidden_state.dtype == jnp.bfloat16
        assert features.logits is not None
        assert features.logits.dtype == jnp.float32
