"""The facade computes what the PyTorch models of `transformers` compute, from the same calls."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from align_jax import AlignModel, AlignTextModel, AlignVisionModel
from align_jax.inference import forward
from align_jax.inference.outputs import AlignOutput
from tests.inference.tiny_align import (
    CONFIG,
    assert_same,
    images,
    reference_model,
    reference_variables,
    tensors,
    texts,
)

EVERYTHING = {"output_hidden_states": True, "output_attentions": True, "return_loss": True}
TEXT, VISION = CONFIG.text_config, CONFIG.vision_config


def all_text_inputs() -> dict[str, np.ndarray]:
    """Padding, a hole in a mask, segments, and positions in reverse."""
    inputs = texts(9, 6, 1)
    inputs["attention_mask"][0, 4] = 0
    shape = inputs["input_ids"].shape
    segments = np.random.default_rng(2).integers(0, TEXT.type_vocab_size, shape)
    return inputs | {"token_type_ids": segments, "position_ids": np.arange(9)[None, ::-1].repeat(3, axis=0)}


def embedded_text_inputs() -> dict[str, np.ndarray]:
    embeddings = np.random.default_rng(3).standard_normal((3, 9, TEXT.hidden_size)).astype(np.float32)
    return {"inputs_embeds": embeddings, "attention_mask": texts(9, 6, 1)["attention_mask"]}


TEXTS = {
    "padded": lambda: texts(9, 6, 1),
    "ids_only": lambda: {"input_ids": texts(9, 9, 9)["input_ids"]},
    "all_inputs": all_text_inputs,
    "embedded": embedded_text_inputs,
}


@pytest.fixture(scope="module")
def model() -> AlignModel:
    return AlignModel(CONFIG, variables=reference_variables())


@pytest.fixture(scope="module")
def text_model() -> AlignTextModel:
    return AlignTextModel(TEXT, variables={"params": reference_variables()["params"]["text"]})


@pytest.fixture(scope="module")
def vision_model() -> AlignVisionModel:
    return AlignVisionModel(VISION, variables={name: tree["image"] for name, tree in reference_variables().items()})


@pytest.mark.parametrize("make_texts", TEXTS.values(), ids=TEXTS.keys())
def test_every_field_agrees(model: AlignModel, make_texts: Any) -> None:
    inputs = {"pixel_values": images(3), **make_texts()}
    with torch.no_grad():
        theirs = reference_model()(**tensors(inputs), **EVERYTHING)
    ours = model(**inputs, **EVERYTHING)
    assert isinstance(ours, AlignOutput)
    assert_same(ours, theirs)
    assert len(ours) == 7
    assert len(ours.text_model_output.attentions) == TEXT.num_hidden_layers


def test_tuples_agree(model: AlignModel) -> None:
    inputs = {"pixel_values": images(3), **texts(9, 6, 1)}
    for options in (EVERYTHING, {}):
        with torch.no_grad():
            theirs = reference_model()(**tensors(inputs), **options, return_dict=False)
        assert_same(model(**inputs, **options, return_dict=False), theirs)


def test_only_what_is_asked_for_is_returned(model: AlignModel) -> None:
    inputs = {"pixel_values": images(3), **texts(9, 6, 1)}
    output = model(**inputs)
    assert output.loss is None
    assert list(output.text_model_output) == list(output.vision_model_output) == ["last_hidden_state", "pooler_output"]
    assert output.text_model_output.attentions is output.vision_model_output.hidden_states is None
    with torch.no_grad():
        assert_same(output, reference_model()(**tensors(inputs)))


def test_images_and_texts_may_differ_in_number(model: AlignModel) -> None:
    inputs = {"pixel_values": images(2), **texts(9, 6, 1)}
    output = model(**inputs)
    assert (output.logits_per_image.shape, output.logits_per_text.shape) == ((2, 3), (3, 2))
    with torch.no_grad():
        assert_same(output, reference_model()(**tensors(inputs)))


def test_images_need_not_have_the_configured_size(vision_model: AlignVisionModel) -> None:
    pixels = images(2, 32)[:, :, :21]
    with torch.no_grad():
        theirs = reference_model().vision_model(torch.from_numpy(pixels.copy()))
    assert_same(vision_model(pixels), theirs)


@pytest.mark.parametrize("make_texts", [TEXTS["padded"], TEXTS["embedded"]])
def test_text_features_agree(model: AlignModel, make_texts: Any) -> None:
    inputs = make_texts()
    with torch.no_grad():
        theirs = reference_model().get_text_features(**tensors(inputs)).pooler_output
    ours = model.get_text_features(**inputs, output_attentions=True, output_hidden_states=True, return_dict=False)
    assert isinstance(ours, jax.Array)
    assert_same(ours, theirs)


def test_image_features_agree(model: AlignModel) -> None:
    with torch.no_grad():
        theirs = reference_model().get_image_features(torch.from_numpy(images(3))).pooler_output
    ours = model.get_image_features(images(3), output_hidden_states=True, return_dict=False)
    assert isinstance(ours, jax.Array)
    assert_same(ours, theirs)


@pytest.mark.parametrize("make_texts", TEXTS.values(), ids=TEXTS.keys())
def test_text_tower_agrees(text_model: AlignTextModel, make_texts: Any) -> None:
    inputs, options = make_texts(), {"output_hidden_states": True, "output_attentions": True}
    reference = reference_model().text_model
    with torch.no_grad():
        assert_same(text_model(**inputs, **options), reference(**tensors(inputs), **options))
        theirs = reference(**tensors(inputs), **options, return_dict=False)
    assert_same(text_model(**inputs, **options, return_dict=False), theirs)


def test_image_tower_agrees(vision_model: AlignVisionModel) -> None:
    reference, pixels = reference_model().vision_model, torch.from_numpy(images(3))
    with torch.no_grad():
        assert_same(vision_model(images(3), output_hidden_states=True), reference(pixels, output_hidden_states=True))
        assert_same(vision_model(images(3), return_dict=False), reference(pixels, return_dict=False))


def test_text_tower_without_pooler(text_model: AlignTextModel) -> None:
    bare = AlignTextModel(TEXT, False, variables=text_model.variables)
    inputs = texts(9, 6, 1)
    whole = text_model(**inputs, output_hidden_states=True)
    output = bare(**inputs, output_hidden_states=True)
    assert list(output) == ["last_hidden_state", "hidden_states"]
    np.testing.assert_array_equal(output.last_hidden_state, whole.last_hidden_state)
    # As in 4.37, where the pooler's place stays.
    last, pooler, states = bare(**inputs, output_hidden_states=True, return_dict=False)
    assert (last.shape, pooler, len(states)) == ((3, 9, TEXT.hidden_size), None, 1 + TEXT.num_hidden_layers)


@pytest.mark.parametrize("by_layer", [False, True])
def test_a_masked_head_contributes_nothing(text_model: AlignTextModel, by_layer: bool) -> None:
    # The columns of the output layer that read a head are set to zero; later releases of transformers have no mask.
    heads, layers, head = TEXT.num_attention_heads, TEXT.num_hidden_layers, 1
    width = TEXT.hidden_size // heads
    reference = transformers.AlignTextModel(reference_model().config.text_config).eval()
    reference.load_state_dict(reference_model().text_model.state_dict())
    with torch.no_grad():
        for index in [layers - 1] if by_layer else range(layers):
            columns = slice(head * width, (head + 1) * width)
            reference.encoder.layer[index].attention.output.dense.weight[:, columns] = 0.0
        theirs = reference(**tensors(texts(9, 6, 1)))
    mask = np.ones((layers, heads), np.float32)
    mask[layers - 1 if by_layer else slice(None), head] = 0.0
    ours = text_model(**texts(9, 6, 1), head_mask=mask if by_layer else mask[0], output_attentions=True)
    assert_same(ours.last_hidden_state, theirs.last_hidden_state)
    assert_same(ours.pooler_output, theirs.pooler_output)
    assert not np.any(ours.attentions[-1][:, head])


def test_arguments_have_the_order_of_transformers(model: AlignModel) -> None:
    def names(function: Any) -> list[str]:
        return [name for name in inspect.signature(function).parameters if name != "self"]

    text = "input_ids attention_mask token_type_ids position_ids head_mask inputs_embeds output_attentions "
    text += "output_hidden_states return_dict"
    whole = "input_ids pixel_values attention_mask token_type_ids position_ids head_mask inputs_embeds return_loss "
    whole += "output_attentions output_hidden_states return_dict"
    image = "pixel_values output_hidden_states return_dict"
    assert names(AlignModel.__call__) == whole.split()
    assert names(AlignModel.get_text_features) == names(AlignTextModel.__call__) == text.split()
    assert names(AlignModel.get_image_features) == names(AlignVisionModel.__call__) == image.split()
    assert names(AlignTextModel.__init__)[:2] == ["config", "add_pooling_layer"]


def test_torch_in_torch_out(model: AlignModel) -> None:
    inputs = {"pixel_values": images(3), **texts(9, 6, 1)}
    with torch.no_grad():
        output = model(**tensors(inputs), **EVERYTHING)
    assert all(isinstance(leaf, torch.Tensor) for leaf in jax.tree.leaves(output))
    assert_same(output, model(**inputs, **EVERYTHING))
    probabilities = output.logits_per_image.softmax(dim=1)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    output.logits_per_image.add_(1.0)  # tensors may be written to
    assert isinstance(output.loss.item(), float)
    features = model.get_image_features(torch.nn.Parameter(torch.from_numpy(images(3))).to(torch.bfloat16))
    assert (type(features), features.dtype) == (torch.Tensor, torch.float32)
    mixed = model(**texts(9, 6, 1), pixel_values=torch.from_numpy(images(3)))
    assert isinstance(mixed.text_embeds, torch.Tensor)


def test_equal_calls_compile_once(model: AlignModel) -> None:
    inputs = {"pixel_values": images(3), **texts(9, 6, 1)}
    model(**inputs)
    compiled = forward.run_align._cache_size()
    model(**texts(9, 3, 2), pixel_values=images(3))  # other values
    AlignModel(CONFIG, variables=model.variables)(**inputs)  # another model of equal kind
    assert forward.run_align._cache_size() == compiled
    model(**inputs, output_attentions=True)
    assert forward.run_align._cache_size() == compiled + 1


def test_models_work_inside_transformations(vision_model: AlignVisionModel) -> None:
    output = jax.jit(vision_model)(images(3))
    assert_same(output, vision_model(images(3)))
    reference, pixels = reference_model().vision_model, torch.from_numpy(images(3)).requires_grad_()
    (theirs,) = torch.autograd.grad(reference(pixels).pooler_output.square().sum(), pixels)
    ours = jax.grad(lambda pixels: jnp.sum(jnp.square(vision_model(pixels).pooler_output)))(jnp.asarray(images(3)))
    assert np.max(np.abs(ours - theirs.numpy())) <= 1e-4 * np.max(np.abs(theirs.numpy()))


def test_texts_may_be_traced(text_model: AlignTextModel) -> None:
    # Their values cannot be checked then; the unchecked id is moved into the vocabulary by JAX.
    inputs = texts(9, 6, 1)
    assert_same(jax.jit(text_model)(**inputs), text_model(**inputs))
    assert jax.eval_shape(text_model, inputs["input_ids"] + 1000).pooler_output.shape == (3, TEXT.hidden_size)


def test_unknown_arguments_are_named(model: AlignModel) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'images'"):
        model(images=images(3))
