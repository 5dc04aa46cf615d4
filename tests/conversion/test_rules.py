"""The conversion engine on a table of its own, and the tables of the towers in both directions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.conversion import align, bert, efficientnet
from align_jax.conversion.rules import ConversionError, Ignored, Rule, RuleTable, from_flax, ignored_reason, to_flax

TABLE = RuleTable(
    rules=(
        Rule("layer.{n}.weight", "params/layers_{n}/kernel", "o i -> i o"),
        Rule("layer.{n}.bias", "params/layers_{n}/bias"),
        Rule("layer.{n}.beta", "params/layers_{n}/bias"),
        Rule("gate.weight", "params/gate/kernel", "o i 1 1 -> i o"),
        Rule("mean", "batch_stats/mean"),
        Rule("temperature", "params/temperature"),
    ),
    ignored=(
        Ignored("position_ids", "counted by the model"),
        Ignored("steps", "counts steps", beside="batch_stats/mean", value=np.zeros((), np.int64)),
    ),
    optional_prefix="model.",
)


def abstract(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


TARGET = {
    "params": {
        "layers_0": {"kernel": abstract(3, 2), "bias": abstract(2)},
        "layers_11": {"kernel": abstract(3, 2), "bias": abstract(2)},
        "gate": {"kernel": abstract(4, 5)},
        "temperature": abstract(),
    },
    "batch_stats": {"mean": abstract(7)},
}


def source_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "layer.0.weight": (2, 3), "layer.0.bias": (2,), "layer.11.weight": (2, 3), "layer.11.bias": (2,),
        "gate.weight": (5, 4, 1, 1), "mean": (7,), "temperature": (),
    }  # fmt: skip
    tensors = {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}
    return tensors | {"steps": np.zeros((), np.int64)}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor.dtype, tensor.shape) == (right[name].dtype, right[name].shape), name
        assert tensor.tobytes() == right[name].tobytes(), name


def test_tensors_arrive_under_their_path_in_our_layout() -> None:
    tensors = source_tensors()
    variables = to_flax(tensors, TABLE, TARGET)
    np.testing.assert_array_equal(variables["params"]["layers_11"]["kernel"], tensors["layer.11.weight"].T)
    np.testing.assert_array_equal(variables["params"]["gate"]["kernel"], tensors["gate.weight"][:, :, 0, 0].T)
    assert variables["params"]["temperature"].shape == ()
    assert jax.tree.structure(variables) == jax.tree.structure(TARGET)


def test_there_and_back_is_bit_equal() -> None:
    tensors = source_tensors()
    assert_same(from_flax(to_flax(tensors, TABLE, TARGET), TABLE, TARGET), tensors)


def test_device_arrays_convert_back() -> None:
    tensors = source_tensors()
    variables = jax.tree.map(jnp.asarray, to_flax(tensors, TABLE, TARGET))
    assert_same(from_flax(variables, TABLE, TARGET), tensors)


def test_prefix_other_spellings_and_buffers_are_accepted() -> None:
    tensors = source_tensors()
    variables = to_flax(tensors, TABLE, TARGET)
    tensors["layer.0.beta"] = tensors.pop("layer.0.bias")
    tensors["position_ids"] = np.arange(3)
    del tensors["steps"]
    prefixed = {f"model.{name}": tensor for name, tensor in tensors.items()}
    jax.tree.map(np.testing.assert_array_equal, to_flax(prefixed, TABLE, TARGET), variables)
    assert ignored_reason(TABLE, "model.position_ids") == "counted by the model"
    assert ignored_reason(TABLE, "layer.0.bias") is None


def test_all_problems_are_reported_together() -> None:
    tensors = source_tensors()
    tensors["layer.12.weight"] = tensors["layer.0.weight"]
    tensors["classifier.weight"] = tensors["mean"]
    tensors["layer.0.beta"] = tensors["layer.0.bias"]
    tensors["layer.0.weight"] = tensors["layer.0.weight"].T
    tensors["gate.weight"] = tensors["gate.weight"][:, :, 0, 0]
    tensors["mean"] = tensors["mean"].astype(np.float16)
    del tensors["layer.11.bias"], tensors["temperature"]
    with pytest.raises(ConversionError) as caught:
        to_flax(tensors, TABLE, TARGET)
    error = caught.value
    assert error.unused == ("layer.12.weight", "classifier.weight")
    assert error.missing == (
        "params/layers_11/bias (layer.11.bias)",
        "params/temperature (temperature)",
    )
    assert error.duplicate == ("params/layers_0/bias, the second time by layer.0.beta",)
    assert sorted(error.mismatched) == [
        "gate.weight -> params/gate/kernel (4, 5): has shape (5, 4), which is not of the form (o i 1 1)",
        "layer.0.weight -> params/layers_0/kernel (3, 2): has shape (2, 3) in the model's layout",
        "mean -> batch_stats/mean (7,): has type float16, not float32",
    ]
    for problem in error.unused + error.missing + error.duplicate + error.mismatched:
        assert problem in str(error)


def test_all_problems_are_reported_together_on_the_way_back() -> None:
    variables = to_flax(source_tensors(), TABLE, TARGET)
    params = variables["params"]
    params["head"] = {"kernel": np.zeros(3, np.float32)}
    params["gate"]["kernel"] = params["gate"]["kernel"].T
    del params["layers_0"]["bias"]
    with pytest.raises(ConversionError) as caught:
        from_flax(variables, TABLE, TARGET)
    assert caught.value.unused == ("params/head/kernel",)
    assert caught.value.missing == ("params/layers_0/bias",)
    assert caught.value.mismatched == ("params/gate/kernel (4, 5): has shape (5, 4) in the model's layout",)


def test_variable_without_a_rule_is_reported_in_both_directions() -> None:
    target = {"params": {**TARGET["params"], "head": abstract(3)}, "batch_stats": TARGET["batch_stats"]}
    with pytest.raises(ConversionError, match=r"params/head \(no rule names it\)"):
        to_flax(source_tensors(), TABLE, target)
    variables = to_flax(source_tensors(), TABLE, TARGET)
    variables["params"]["head"] = np.zeros(3, np.float32)
    with pytest.raises(ConversionError, match=r"1 unused .*\n    params/head"):
        from_flax(variables, TABLE, target)


def test_two_variables_of_one_name_are_reported() -> None:
    table = RuleTable(rules=(Rule("weight", "params/a"), Rule("weight", "params/b")))
    target = {"params": {"a": abstract(1), "b": abstract(1)}}
    with pytest.raises(ConversionError, match="missing"):
        to_flax({"weight": np.zeros(1, np.float32)}, table, target)
    with pytest.raises(ConversionError, match="weight, the name of params/a, is taken"):
        from_flax({"params": {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}}, table, target)


def test_long_lists_are_cut_in_the_message_only() -> None:
    with pytest.raises(ConversionError, match="and 480 more") as caught:
        to_flax({f"extra.{index}": np.zeros(1) for index in range(500)}, TABLE, TARGET)
    assert len(caught.value.unused) == 500


def test_floating_point_types_convert_only_when_asked() -> None:
    tensors = source_tensors()
    half = {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()}
    with pytest.raises(ConversionError, match="has type bfloat16, not float32"):
        to_flax(half, TABLE, TARGET)
    variables = to_flax(half, TABLE, TARGET, casting="floating")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    integers = tensors | {"mean": np.arange(7)}
    with pytest.raises(ConversionError, match="has type int64, not float32"):
        to_flax(integers, TABLE, TARGET, casting="floating")


def random_like(tree: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


def reference_tensors(model: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def reference_model(config: AlignConfig) -> transformers.AlignModel:
    return transformers.AlignModel(transformers.AlignConfig.from_dict(config.to_dict()))


def test_align_there_and_back_is_bit_equal() -> None:
    config = AlignConfig.tiny()
    tensors = reference_tensors(reference_model(config))
    target = align.abstract_variables(config)
    variables = to_flax({f"align.{name}": tensor for name, tensor in tensors.items()}, align.TABLE, target)
    assert_same(from_flax(variables, align.TABLE, target), tensors)


@pytest.mark.parametrize("old_buffers", [False, True])
def test_towers_alone_there_and_back_are_bit_equal(old_buffers: bool) -> None:
    reference = reference_model(AlignConfig.tiny())
    text, image = reference_tensors(reference.text_model), reference_tensors(reference.vision_model)
    target = bert.abstract_variables(AlignTextConfig.tiny())
    buffers = {name: np.zeros((1, 64), np.int64) for name in ("embeddings.position_ids", "embeddings.token_type_ids")}
    given = {f"bert.{name}": tensor for name, tensor in (text | (buffers if old_buffers else {})).items()}
    assert_same(from_flax(to_flax(given, bert.TABLE, target), bert.TABLE, target), text)
    target = efficientnet.abstract_variables(AlignVisionConfig.tiny())
    given = {name: tensor for name, tensor in image.items() if old_buffers or "num_batches_tracked" not in name}
    assert_same(from_flax(to_flax(given, efficientnet.TABLE, target), efficientnet.TABLE, target), image)


def test_image_projection_has_a_name_of_its_own() -> None:
    config = AlignConfig.tiny(projection_dim=48)
    assert config.image_projection
    target = align.abstract_variables(config)
    variables = random_like(target)
    tensors = from_flax(variables, align.TABLE, target)
    assert tensors["image_projection.weight"].shape == (48, 32)
    jax.tree.map(np.testing.assert_array_equal, to_flax(tensors, align.TABLE, target), variables)
    with pytest.raises(ConversionError, match=r"image_projection\.bias"):
        to_flax(tensors, align.TABLE, align.abstract_variables(AlignConfig.tiny()))


def test_released_size_has_the_tensors_of_the_released_file() -> None:
    config = AlignConfig.b7_base()
    target = align.abstract_variables(config)
    zero = np.zeros((), np.float32)
    tensors = from_flax(jax.tree.map(lambda leaf: np.broadcast_to(zero, leaf.shape), target), align.TABLE, target)
    with torch.device("meta"):
        reference = reference_model(config).state_dict()
    assert len(tensors) == 1394
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in reference.items()
    }


def test_weights_of_another_size_name_what_differs() -> None:
    tensors = reference_tensors(reference_model(AlignConfig.tiny()))
    text = AlignTextConfig.tiny(intermediate_size=64, num_hidden_layers=3)
    wider = AlignConfig.of_towers(AlignVisionConfig.tiny(), text, projection_dim=32)
    with pytest.raises(ConversionError) as caught:
        to_flax(tensors, align.TABLE, align.abstract_variables(wider))
    assert len(caught.value.missing) == 16
    assert not caught.value.unused
    assert any("intermediate.dense.weight" in problem for problem in caught.value.mismatched)
