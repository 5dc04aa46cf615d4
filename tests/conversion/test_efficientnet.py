"""EfficientNet's weights in both directions: with and without classifier, under every spelling of their names."""

from typing import Any

import jax
import numpy as np
import pytest
import transformers

from align_jax.configuration import AlignVisionConfig, BertConfig, EfficientNetConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.architectures import ARCHITECTURES
from align_jax.conversion.efficientnet import EFFICIENTNET_TABLE, TABLE, abstract_variables
from align_jax.conversion.rules import ConversionError, from_flax, ignored_reason, to_flax

TOWER = EfficientNetConfig.tiny()
CLASSIFIER = EfficientNetConfig.tiny(id2label=numbered_labels(3))
CONFIGS = {"tower": TOWER, "classifier": CLASSIFIER}


def reference_tensors(config: EfficientNetConfig) -> dict[str, np.ndarray]:
    build = transformers.EfficientNetForImageClassification if config.id2label else transformers.EfficientNetModel
    model = build(transformers.EfficientNetConfig.from_dict(config.to_dict()))
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor.dtype, tensor.shape) == (right[name].dtype, right[name].shape), name
        assert tensor.tobytes() == right[name].tobytes(), name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_there_and_back_is_bit_equal(config: EfficientNetConfig) -> None:
    tensors, target = reference_tensors(config), abstract_variables(config)
    assert_same(from_flax(to_flax(tensors, EFFICIENTNET_TABLE, target), EFFICIENTNET_TABLE, target), tensors)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("prefix", ["", "efficientnet."])
def test_names_may_have_or_lack_the_prefix_and_the_buffers(config: EfficientNetConfig, prefix: str) -> None:
    tensors, target = reference_tensors(config), abstract_variables(config)
    expected = to_flax(tensors, EFFICIENTNET_TABLE, target)
    spelled = {}
    for name, tensor in tensors.items():
        inside_tower = not name.startswith("classifier.")
        if not name.endswith("num_batches_tracked"):
            spelled[prefix * inside_tower + name.removeprefix("efficientnet.")] = tensor
    jax.tree.map(np.testing.assert_array_equal, to_flax(spelled, EFFICIENTNET_TABLE, target), expected)
    counter = f"{prefix}encoder.top_bn.num_batches_tracked"
    assert (ignored_reason(EFFICIENTNET_TABLE, counter) or "").startswith("counts training steps")


def test_classifier_without_labels_and_labels_without_classifier_are_named() -> None:
    with pytest.raises(ConversionError) as caught:
        to_flax(reference_tensors(CLASSIFIER), EFFICIENTNET_TABLE, abstract_variables(TOWER))
    assert (caught.value.unused, caught.value.missing) == (("classifier.weight", "classifier.bias"), ())
    with pytest.raises(ConversionError) as caught:
        to_flax(reference_tensors(TOWER), EFFICIENTNET_TABLE, abstract_variables(CLASSIFIER))
    assert caught.value.unused == ()
    assert set(caught.value.missing) == {
        "params/classifier/kernel (classifier.weight)", "params/classifier/bias (classifier.bias)",
    }  # fmt: skip


def test_tower_of_align_has_no_place_for_a_top_convolution() -> None:
    config = AlignVisionConfig.tiny(width_coefficient=0.25, hidden_dim=320)
    with pytest.raises(ConversionError) as caught:
        to_flax(reference_tensors(TOWER), TABLE, abstract_variables(config))
    assert caught.value.unused == (
        "encoder.top_conv.weight", "encoder.top_bn.weight", "encoder.top_bn.bias", "encoder.top_bn.running_mean",
        "encoder.top_bn.running_var",
    )  # fmt: skip
    assert caught.value.missing == ()


def lite_tensors(*, classifier: bool) -> dict[str, np.ndarray]:
    """Two blocks under the names of the published files: one without expansion, and one with it."""
    shapes: dict[str, tuple[int, ...]] = {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3), "_blocks.0._project_conv.weight": (16, 32, 1, 1),
        "_blocks.1._expand_conv.weight": (96, 16, 1, 1), "_blocks.1._depthwise_conv.weight": (96, 1, 5, 5),
        "_blocks.1._project_conv.weight": (24, 96, 1, 1), "_conv_head.weight": (1280, 24, 1, 1),
    }  # fmt: skip
    widths = {
        "_bn0": 32, "_blocks.0._bn1": 32, "_blocks.0._bn2": 16, "_blocks.1._bn0": 96, "_blocks.1._bn1": 96,
        "_blocks.1._bn2": 24, "_bn1": 1280,
    }  # fmt: skip
    for name, width in widths.items():
        shapes |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    if classifier:
        shapes |= {"_fc.weight": (3, 1280), "_fc.bias": (3,)}
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return tensors | {f"{name}.num_batches_tracked": np.zeros((), np.int64) for name in widths}


@pytest.mark.parametrize("labels", [0, 3])
def test_lite_weights_are_read_under_their_own_names_and_written_under_those_of_transformers(labels: int) -> None:
    config = EfficientNetConfig.lite0(
        image_size=32, kernel_sizes=(3, 5), in_channels=(32, 16), out_channels=(16, 24), strides=(1, 2),
        num_block_repeats=(1, 1), expand_ratios=(1, 6), id2label=numbered_labels(labels),
    )  # fmt: skip
    tensors, target = lite_tensors(classifier=labels > 0), abstract_variables(config)
    variables = to_flax(tensors, EFFICIENTNET_TABLE, target)
    tower = variables["params"]["image"] if labels else variables["params"]
    np.testing.assert_array_equal(
        tower["blocks_1"]["depthwise"]["kernel"][:, :, 0, 7], tensors["_blocks.1._depthwise_conv.weight"][7, 0]
    )
    np.testing.assert_array_equal(tower["blocks_1"]["expand_norm"]["scale"], tensors["_blocks.1._bn0.weight"])
    np.testing.assert_array_equal(tower["top"]["norm"]["bias"], tensors["_bn1.bias"])
    written = from_flax(variables, EFFICIENTNET_TABLE, target)
    assert not any(name.startswith("_") for name in written)
    assert ("efficientnet.encoder.top_conv.weight" in written) == (labels > 0)
    jax.tree.map(np.testing.assert_array_equal, to_flax(written, EFFICIENTNET_TABLE, target), variables)
    assert len(written) == len(tensors)


@pytest.mark.parametrize(
    ("model_type", "config"), [("bert", BertConfig.tiny()), ("efficientnet", TOWER), ("efficientnet", CLASSIFIER)]
)
def test_architectures_find_the_rules_of_a_model_type(model_type: str, config: Any) -> None:
    architecture = ARCHITECTURES[model_type]
    assert isinstance(config, architecture.config)
    assert config.model_type == model_type
    target = architecture.abstract_variables(config)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), target)
    back = to_flax(from_flax(variables, architecture.table, target), architecture.table, target)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    assert hasattr(transformers, architecture.reference)
