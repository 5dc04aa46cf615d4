"""A checkpoint of the released trainer in small: the names that Keras 2 and `transformers` 4 gave its variables.

The names were compared with those of a model made of real Keras layers; here they are spelled out again.
"""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, ConfigurationError
from align_jax.conversion.align import abstract_variables
from align_jax.conversion.readers import SourceError, TensorInfo, Tensors
from align_jax.conversion.readers.tensorflow import TensorflowCheckpoint
from align_jax.conversion.rules import ConversionError, to_flax
from align_jax.conversion.tensorflow_names import infer_config, rules_for
from align_jax.models.align import Align

BERT = "tf_bert_model/bert/"


class InMemory(Tensors):
    """Arrays that may share their memory, so that a full-size model costs none."""

    def __init__(self, arrays):
        self.arrays = arrays

    def info(self, name):
        return TensorInfo(self.arrays[name].shape, self.arrays[name].dtype)

    def __getitem__(self, name):
        return self.arrays[name]

    def __iter__(self):
        return iter(self.arrays)

    def __len__(self):
        return len(self.arrays)


def norm(name, channels):
    return {f"{name}/{part}": (1, 1, 1, 1, channels) for part in ("gamma", "beta", "moving_mean", "moving_variance")}


def linear(name, rows, columns):
    return {f"{name}/kernel": (rows, columns), f"{name}/bias": (columns,)}


def image_shapes(config):
    shapes = {"stem_conv/kernel": (3, 3, 3, config.round_channels(32)), **norm("stem_bn", config.round_channels(32))}
    width = config.round_channels(32)
    for stage, (repeats, out, kernel, ratio) in enumerate(
        zip(config.repeats_of_stages, config.out_channels, config.kernel_sizes, config.expand_ratios, strict=True), 1
    ):
        for place in range(repeats):
            name = f"block{stage}{chr(ord('a') + place)}_"
            inner, squeezed, after = width * ratio, max(1, width // 4), config.round_channels(out)
            if ratio != 1:
                shapes |= {f"{name}expand_conv/kernel": (1, 1, width, inner), **norm(f"{name}expand_bn", inner)}
            shapes |= {f"{name}dwconv/depthwise_kernel": (kernel, kernel, inner, 1), **norm(f"{name}bn", inner)}
            shapes |= {f"{name}se_reduce/kernel": (1, 1, inner, squeezed), f"{name}se_reduce/bias": (squeezed,)}
            shapes |= {f"{name}se_expand/kernel": (1, 1, squeezed, inner), f"{name}se_expand/bias": (inner,)}
            shapes |= {f"{name}project_conv/kernel": (1, 1, inner, after), **norm(f"{name}project_bn", after)}
            width = after
    return shapes


def text_shapes(config):
    width, inner = config.hidden_size, config.intermediate_size
    shapes = {
        f"{BERT}embeddings/word_embeddings/weight": (config.vocab_size, width),
        f"{BERT}embeddings/position_embeddings/embeddings": (config.max_position_embeddings, width),
        f"{BERT}embeddings/token_type_embeddings/embeddings": (config.type_vocab_size, width),
        **linear(f"{BERT}pooler/dense", width, width),
    }
    norms = [f"{BERT}embeddings"]
    for layer in range(config.num_hidden_layers):
        name = f"{BERT}encoder/layer_._{layer}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{name}/attention/self/{part}", width, width)
        shapes |= linear(f"{name}/attention/output/dense", width, width)
        shapes |= linear(f"{name}/intermediate/dense", width, inner) | linear(f"{name}/output/dense", inner, width)
        norms += [f"{name}/attention/output", f"{name}/output"]
    return shapes | {f"{name}/LayerNorm/{part}": (width,) for name in norms for part in ("gamma", "beta")}


def checkpoint(config, *, text_dense="dense", image_dense="dense_1"):
    """Names, values and the paths that lead to them, of every variable of a trained model."""
    text = text_shapes(config.text_config) | linear(text_dense, config.text_config.hidden_size, config.projection_dim)
    image = image_shapes(config.vision_config)
    if config.image_projection:
        image |= linear(image_dense, config.vision_config.feature_size, config.projection_dim)
    paths = {name: f"text_encoder/layer_with_weights-0/{index}" for index, name in enumerate(text)}
    paths |= {name: f"image_encoder/layer_with_weights-0/{index}" for index, name in enumerate(image)}
    return text | image | {"temperature": ()}, paths | {"temperature": "temperature"}


def random_tensors(shapes):
    rng = np.random.default_rng(0)
    # Positive, so that they can be variances too, and small, so that a network of them computes finite numbers.
    return InMemory({name: rng.uniform(0.01, 0.2, shape).astype(np.float32) for name, shape in shapes.items()})


def zeros(shapes):
    return InMemory({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})


VISION = AlignVisionConfig.tiny(num_block_repeats=(1, 2, 2), image_size=33)
TEXT = AlignTextConfig.tiny()
SMALL = AlignConfig.of_towers(VISION, TEXT, projection_dim=32)
PROJECTED = AlignConfig.of_towers(VISION, TEXT, projection_dim=24)


def assert_converted(tensors, variables):
    """Compares with the variables spelled out, besides the projections."""
    params, statistics = variables["params"], variables["batch_stats"]
    equal = np.testing.assert_array_equal

    def assert_norm(name, *path):
        ours, running = params["image"], statistics["image"]
        for part in path:
            ours, running = ours[part], running[part]
        equal(ours["scale"], tensors[f"{name}/gamma"].ravel())
        equal(ours["bias"], tensors[f"{name}/beta"].ravel())
        equal(running["mean"], tensors[f"{name}/moving_mean"].ravel())
        equal(running["var"], tensors[f"{name}/moving_variance"].ravel())

    equal(params["image"]["stem"]["conv"]["kernel"], tensors["stem_conv/kernel"])
    assert_norm("stem_bn", "stem", "norm")
    for index, block in enumerate(["1a", "2a", "2b", "3a", "3b"]):
        ours, name = params["image"][f"blocks_{index}"], f"block{block}_"
        equal(ours["depthwise"]["kernel"][:, :, 0, :], tensors[f"{name}dwconv/depthwise_kernel"][..., 0])
        equal(ours["project"]["kernel"], tensors[f"{name}project_conv/kernel"])
        for part in ("reduce", "expand"):
            equal(ours["squeeze_excite"][part]["kernel"], tensors[f"{name}se_{part}/kernel"][0, 0])
            equal(ours["squeeze_excite"][part]["bias"], tensors[f"{name}se_{part}/bias"])
        assert_norm(f"{name}bn", f"blocks_{index}", "depthwise_norm")
        assert_norm(f"{name}project_bn", f"blocks_{index}", "project_norm")
        if block != "1a":
            equal(ours["expand"]["kernel"], tensors[f"{name}expand_conv/kernel"])
            assert_norm(f"{name}expand_bn", f"blocks_{index}", "expand_norm")

    text = params["text"]
    layer, name = text["layers_1"], f"{BERT}encoder/layer_._1/"
    for ours, theirs in {
        "query": "self/query", "key": "self/key", "value": "self/value", "output": "output/dense",
    }.items():  # fmt: skip
        equal(layer["attention"][ours]["kernel"], tensors[f"{name}attention/{theirs}/kernel"])
        equal(layer["attention"][ours]["bias"], tensors[f"{name}attention/{theirs}/bias"])
    equal(layer["attention_norm"]["scale"], tensors[f"{name}attention/output/LayerNorm/gamma"])
    equal(layer["feed_forward_in"]["kernel"], tensors[f"{name}intermediate/dense/kernel"])
    equal(layer["feed_forward_out"]["kernel"], tensors[f"{name}output/dense/kernel"])
    equal(layer["feed_forward_norm"]["bias"], tensors[f"{name}output/LayerNorm/beta"])
    embeddings, name = text["embeddings"], f"{BERT}embeddings/"
    equal(embeddings["word"]["embedding"], tensors[f"{name}word_embeddings/weight"])
    equal(embeddings["position"]["embedding"], tensors[f"{name}position_embeddings/embeddings"])
    equal(embeddings["token_type"]["embedding"], tensors[f"{name}token_type_embeddings/embeddings"])
    equal(embeddings["norm"]["scale"], tensors[f"{name}LayerNorm/gamma"])
    equal(params["temperature"], tensors["temperature"])


@pytest.mark.parametrize("config", [SMALL, PROJECTED], ids=["as_wide_as_the_image_features", "image_projection"])
def test_every_variable_lands_where_it_belongs(config):
    shapes, paths = checkpoint(config)
    tensors = random_tensors(shapes)
    variables = to_flax(tensors, rules_for(tensors, paths), abstract_variables(config))
    assert_converted(tensors, variables)
    np.testing.assert_array_equal(variables["params"]["text_projection"]["kernel"], tensors["dense/kernel"])
    if config.image_projection:
        np.testing.assert_array_equal(variables["params"]["image_projection"]["bias"], tensors["dense_1/bias"])


def test_projections_are_told_apart_by_their_towers_whatever_their_numbers():
    config = AlignConfig.of_towers(VISION, dataclasses.replace(TEXT, hidden_size=32), projection_dim=24)
    shapes, paths = checkpoint(config, text_dense="dense_3", image_dense="dense")  # equally wide
    tensors = random_tensors(shapes)
    params = to_flax(tensors, rules_for(tensors, paths), abstract_variables(config))["params"]
    np.testing.assert_array_equal(params["text_projection"]["kernel"], tensors["dense_3/kernel"])
    np.testing.assert_array_equal(params["image_projection"]["kernel"], tensors["dense/kernel"])


def test_projections_are_told_apart_by_their_widths_where_nothing_leads_to_them():
    config = AlignConfig.of_towers(VISION, dataclasses.replace(TEXT, hidden_size=48), projection_dim=24)
    tensors = random_tensors(checkpoint(config, text_dense="dense_1", image_dense="dense")[0])
    params = to_flax(tensors, rules_for(tensors, {}), abstract_variables(config))["params"]
    np.testing.assert_array_equal(params["text_projection"]["kernel"], tensors["dense_1/kernel"])


def test_projections_that_cannot_be_told_apart_are_an_error():
    config = AlignConfig.of_towers(VISION, dataclasses.replace(TEXT, hidden_size=32), projection_dim=24)
    tensors = random_tensors(checkpoint(config)[0])
    with pytest.raises(SourceError, match=r"dense, dense_1 belongs to which tower cannot be told"):
        rules_for(tensors, {})


def test_batch_norm_over_the_whole_batch_has_no_axes_of_length_one():
    shapes, paths = checkpoint(SMALL)
    tensors = random_tensors({name: shape[-1:] if len(shape) == 5 else shape for name, shape in shapes.items()})
    assert_converted(tensors, to_flax(tensors, rules_for(tensors, paths), abstract_variables(SMALL)))


def test_second_bert_of_a_process_is_read():
    shapes, paths = checkpoint(SMALL)
    tensors = random_tensors(
        {name.replace("tf_bert_model/", "tf_bert_model_1/"): shape for name, shape in shapes.items()}
    )
    variables = to_flax(tensors, rules_for(tensors, paths), abstract_variables(SMALL))
    pooler = tensors["tf_bert_model_1/bert/pooler/dense/kernel"]
    np.testing.assert_array_equal(variables["params"]["text"]["pooler"]["kernel"], pooler)


NAMED = {
    "b7_base": AlignConfig.b7_base(), "b3_mini": AlignConfig.b3_mini(), "l2_large": AlignConfig.l2_large(),
    "b0_mini": AlignConfig.of_towers(AlignVisionConfig.efficientnet("b0"), AlignTextConfig.mini()),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_released_sizes_are_recognised_by_their_shapes(name):
    tensors = zeros(checkpoint(NAMED[name])[0])
    assert infer_config(tensors, {}) == NAMED[name]


def test_released_checkpoint_fills_the_released_model():
    shapes, paths = checkpoint(NAMED["b7_base"])
    tensors = zeros(shapes)
    variables = to_flax(tensors, rules_for(tensors, paths), abstract_variables(infer_config(tensors, paths)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 172_117_841


def test_tower_of_another_size_needs_a_configuration():
    tensors = zeros(checkpoint(dataclasses.replace(SMALL, text_config=AlignTextConfig.mini()))[0])
    with pytest.raises(ConfigurationError, match=r"2 blocks of 24 channels.*put a config\.json beside"):
        infer_config(tensors, {})


def test_width_that_says_nothing_about_heads_needs_a_configuration():
    config = AlignConfig.of_towers(AlignVisionConfig.efficientnet("b0"), TEXT)
    assert TEXT.hidden_size % 64
    with pytest.raises(ConfigurationError, match="how many heads"):
        infer_config(zeros(checkpoint(config)[0]), {})


def test_block_that_is_not_there_is_missed():
    shapes, paths = checkpoint(SMALL)
    tensors = zeros({name: shape for name, shape in shapes.items() if not name.startswith("block2a_")})
    with pytest.raises(ConversionError) as raised:
        to_flax(tensors, rules_for(tensors, paths), abstract_variables(SMALL))
    assert "block2b_project_conv/kernel" in raised.value.unused
    assert any("block2a_project_conv/kernel" in problem for problem in raised.value.missing)


@pytest.mark.parametrize("absent", ["stem_bn/gamma", f"{BERT}embeddings/word_embeddings/weight", "dense/kernel"])
def test_checkpoint_of_something_else_is_an_error(absent):
    tensors = zeros({name: shape for name, shape in checkpoint(SMALL)[0].items() if name != absent})
    with pytest.raises(SourceError, match=absent if absent != "dense/kernel" else "there is none"):
        rules_for(tensors, {})


def test_tensorflow_checkpoint_lands_bit_equal_and_runs(tmp_path):
    tensorflow = pytest.importorskip("tensorflow", reason="writes a checkpoint with TensorFlow, which is not installed")
    shapes, paths = checkpoint(PROJECTED)
    expected = random_tensors(shapes)
    slots = write_checkpoint(tensorflow, tmp_path / "model-weights", expected, paths)

    found = TensorflowCheckpoint(tmp_path / "model-weights.index")
    assert set(found) == set(expected)
    assert Counter(found.ignored.values()).most_common(1) == [
        ("optimizer state, which the model does not have", slots + 2)  # and powers of Adam's two rates
    ]
    variables = to_flax(found, rules_for(found, found.paths), abstract_variables(PROJECTED))
    assert_converted(expected, variables)
    params = variables["params"]
    np.testing.assert_array_equal(params["text_projection"]["kernel"], expected["dense/kernel"])
    np.testing.assert_array_equal(params["image_projection"]["kernel"], expected["dense_1/kernel"])
    images, input_ids = jnp.ones((2, 33, 33, 3)), jnp.ones((2, 5), jnp.int32)
    outputs = jax.jit(Align(PROJECTED).apply)(variables, images, input_ids)
    assert all(np.isfinite(output).all() for output in outputs)


def write_checkpoint(tensorflow, prefix, tensors, paths):
    """Saves a model as Keras does: it is the root, and its optimizer a part of it. Returns how many slots there are."""
    model = tensorflow.Module()
    model.text_encoder, model.image_encoder = tensorflow.Module(), tensorflow.Module()
    trained = []
    for name, array in tensors.arrays.items():
        variable = tensorflow.Variable(array, name=name, trainable="/moving_" not in name)
        encoder, _, attribute = paths[name].rpartition("/")
        setattr(getattr(model, encoder.split("/")[0], model), f"variable_{attribute}", variable)
        trained += [variable] if variable.trainable else []
    model.optimizer = tensorflow.compat.v1.train.AdamOptimizer(0.0)
    model.optimizer.apply_gradients((tensorflow.ones_like(variable), variable) for variable in trained)
    tensorflow.train.Checkpoint(root=model).write(str(prefix))
    return 2 * len(trained)
