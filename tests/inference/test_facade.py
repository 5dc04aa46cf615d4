"""The facade computes what the PyTorch models of `transformers` compute, from the same calls."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from align_jax import AlignConfig, AlignModel, AlignTextModel, AlignVisionModel
from align_jax.conversion import align
from align_jax.conversion.rules import to_flax
from align_jax.inference import forward
from align_jax.inference.initialization import random_variables
from align_jax.inference.outputs import AlignOutput
from align_jax.models.align import Align
from tests.inference.tiny_align import CONFIG, assert_same, images, reference_model, texts

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


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values.copy()) for name, values in inputs.items()}


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    weights = {name: tensor.numpy() for name, tensor in reference_model().state_dict().items()}
    return to_flax(weights, align.TABLE, align.abstract_variables(CONFIG))


@pytest.fixture(scope="module")
def model(variables: dict[str, Any]) -> AlignModel:
    return AlignModel(CONFIG, variables=variables)


@pytest.fixture(scope="module")
def text_model(variables: dict[str, Any]) -> AlignTextModel:
    return AlignTextModel(TEXT, variables={"params": variables["params"]["text"]})


@pytest.fixture(scope="module")
def vision_model(variables: dict[str, Any]) -> AlignVisionModel:
    return AlignVisionModel(VISION, variables={name: tree["image"] for name, tree in variables.items()})


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


@pytest.mark.parametrize("make_texts", TEXTS.values(), ids=TEXTS.keys())
def test_text_features_agree(model: AlignModel, make_texts: Any) -> None:
    inputs = make_texts()
    with torch.no_grad():
        theirs = reference_model().get_text_features(**tensors(inputs)).pooler_output
    ours = model.get_text_features(**inputs, output_attentions=True, output_hidden_states=True, return_dict=False)
    assert isinstance(ours, jax.Array)
    assert_same(ours, theirs)


def test_image_features_agree(model: AlignModel) -> None:
    with torch.no_grad():
        theirs = reference_model().get_image_features(torch.from_numpy(images(2))).pooler_output
    ours = model.get_image_features(images(2), output_hidden_states=True, return_dict=False)
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
    reference, pixels = reference_model().vision_model, torch.from_numpy(images(2))
    with torch.no_grad():
        assert_same(vision_model(images(2), output_hidden_states=True), reference(pixels, output_hidden_states=True))
        assert_same(vision_model(images(2), return_dict=False), reference(pixels, return_dict=False))


def test_text_tower_without_pooler(variables: dict[str, Any], text_model: AlignTextModel) -> None:
    bare = AlignTextModel(TEXT, False, variables={"params": variables["params"]["text"]})
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
    with torch.inference_mode():
        output = model(**tensors(inputs), **EVERYTHING)
    assert all(isinstance(leaf, torch.Tensor) for leaf in jax.tree.leaves(output))
    assert_same(output, model(**inputs, **EVERYTHING))
    probabilities = output.logits_per_image.softmax(dim=1)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    output.logits_per_image += 1  # tensors may be written to
    assert isinstance(output.loss.item(), float)
    features = model.get_image_features(torch.nn.Parameter(torch.from_numpy(images(2))).to(torch.bfloat16))
    assert (type(features), features.dtype) == (torch.Tensor, torch.float32)
    mixed = model(texts(9, 6, 1)["input_ids"], torch.from_numpy(images(3)))
    assert isinstance(mixed.text_embeds, torch.Tensor)


def test_every_kind_of_array_is_taken(model: AlignModel) -> None:
    pixels, ids = images(2), texts(5, 3)["input_ids"]
    expected = model(ids, pixels).logits_per_image
    for other in (
        model(jnp.asarray(ids, jnp.int32), jnp.asarray(pixels)),
        model(ids.tolist(), list(pixels)),
        model(ids.astype(np.uint8), pixels.astype(np.float64)),
        model(ids, pixels, np.ones(ids.shape, bool)),
        model(ids, pixels, np.ones(ids.shape, np.float32), np.zeros(5, np.int64), np.arange(5)[None]),
    ):
        np.testing.assert_array_equal(other.logits_per_image, expected)


def test_inputs_may_be_overwritten_after_the_call() -> None:
    # JAX computes while Python goes on, and would otherwise read NumPy's own memory where it is aligned.
    from align_jax.inference.model_inputs import read_images

    memory = np.zeros(2 * 3 * 32 * 32 + 16, np.float32)
    start = -(memory.ctypes.data // 4) % 16
    pixels = memory[start : start + 2 * 3 * 32 * 32].reshape(2, 3, 32, 32)
    read = read_images(pixels, VISION)
    pixels[:] = 1.0
    assert not np.any(read)


def test_equal_calls_compile_once(model: AlignModel, variables: dict[str, Any]) -> None:
    model(**texts(4, 2), pixel_values=images(2))
    compiled = forward.run_align._cache_size()
    model(**texts(4, 3), pixel_values=images(2))
    AlignModel(CONFIG, variables=variables)(**texts(4, 2), pixel_values=images(2))  # another model of equal kind
    assert forward.run_align._cache_size() == compiled
    model(**texts(4, 2), pixel_values=images(2), output_attentions=True)
    assert forward.run_align._cache_size() == compiled + 1


def test_models_work_inside_transformations(vision_model: AlignVisionModel) -> None:
    output = jax.jit(vision_model)(images(2))
    assert_same(output, vision_model(images(2)))
    reference, pixels = reference_model().vision_model, torch.from_numpy(images(2)).requires_grad_()
    (theirs,) = torch.autograd.grad(reference(pixels).pooler_output.square().sum(), pixels)
    ours = jax.grad(lambda pixels: jnp.sum(jnp.square(vision_model(pixels).pooler_output)))(jnp.asarray(images(2)))
    assert np.max(np.abs(ours - theirs.numpy())) <= 1e-4 * np.max(np.abs(theirs.numpy()))


def test_ids_are_not_checked_inside_jit(model: AlignModel) -> None:
    mask = texts(4, 2)["attention_mask"]
    features = jax.jit(model.get_text_features)(texts(4, 2)["input_ids"], mask)
    assert_same(features, model.get_text_features(**texts(4, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": None}, "pixel_values are missing; pass images through AlignProcessor"),
        ({"input_ids": None}, "either input_ids or inputs_embeds, and both are missing"),
        ({"inputs_embeds": np.zeros((2, 5, 32), np.float32)}, "either input_ids or inputs_embeds, and both are given"),
        ({"pixel_values": images(2)[0]}, r"have shape \(3, 32, 32\); they must be \[images, 3, height, width\]"),
        ({"pixel_values": images(2).transpose(0, 2, 3, 1)}, r"32 channels instead of 3; .*transpose\(0, 3, 1, 2\)"),
        ({"pixel_values": images(2)[:, :1]}, "1 channels instead of 3; convert the images to RGB"),
        ({"pixel_values": np.zeros((2, 3, 32, 32), np.uint8)}, "of type uint8; they must be floating-point"),
        ({"pixel_values": images(2)[:, :, :3]}, "are 3 x 32 px; this image tower needs at least 4 x 4, .* 32 x 32"),
        ({"pixel_values": [images(1)[0], images(1)[0][:, :20]]}, "the rows of pixel_values differ in shape"),
        ({"input_ids": [[1, 2, 3], [1, 2]]}, "the rows of input_ids differ in shape; tokenize with padding=True"),
        ({"input_ids": "a cat"}, "input_ids is a str and not an array of numbers; use AlignProcessor"),
        ({"input_ids": np.array([1, 2, 3])}, r"input_ids have shape \(3,\); they must be \[texts, tokens\]"),
        ({"input_ids": np.ones((2, 5))}, "input_ids are of type float64; they must be integers"),
        ({"input_ids": np.full((2, 5), 99)}, "input_ids contain 99, but must lie between 0 and 98; use the tokenizer"),
        ({"input_ids": torch.full((2, 5), -100)}, "input_ids contain -100, but must lie between 0 and 98"),
        ({"input_ids": jnp.full((2, 5), 99)}, "input_ids contain 99"),
        ({"input_ids": np.full((2, 5), 2**40)}, "input_ids contain 1099511627776"),
        (
            {"input_ids": np.ones((2, 65), int)},
            "have 65 tokens, but the text tower has 64 positions; .*truncation=True",
        ),
        ({"input_ids": np.ones((2, 0), int)}, "the texts have no tokens"),
        (
            {"attention_mask": np.ones((3, 5), int)},
            r"attention_mask has shape \(3, 5\), but there are 2 texts of 5 tok",
        ),
        ({"attention_mask": np.ones((2, 1), int)}, r"attention_mask has shape \(2, 1\), .*; make it \(2, 5\)"),
        ({"attention_mask": np.full((2, 5), 0.5)}, "attention_mask contains 0.5; it must be 1 on tokens and 0 on pad"),
        ({"attention_mask": np.full((2, 5), -10000)}, "attention_mask contains -10000"),
        ({"token_type_ids": np.full((2, 5), 2)}, "token_type_ids contain 2, but must lie between 0 and 1"),
        ({"position_ids": np.full((2, 5), 64)}, "position_ids contain 64, but must lie between 0 and 63"),
        ({"position_ids": np.ones((2, 4), int)}, r"position_ids has shape \(2, 4\)"),
        ({"head_mask": np.ones(3)}, r"head_mask has shape \(3,\); it must be \(4,\), .*, or \(2, 4\)"),
        ({"input_ids": None, "inputs_embeds": np.ones((2, 5, 8))}, r"inputs_embeds have shape \(2, 5, 8\); .* 32\]"),
        ({"input_ids": None, "inputs_embeds": np.ones((2, 5, 32), int)}, "inputs_embeds are of type int64"),
        ({"pixel_values": images(3), "return_loss": True}, "pairs, but there are 3 images and 2 texts"),
    ],
)
def test_what_does_not_fit_is_named(model: AlignModel, changes: dict[str, Any], message: str) -> None:
    inputs = {"pixel_values": images(2), "input_ids": texts(5, 3)["input_ids"]}
    with pytest.raises(ValueError, match=message) as caught:
        model(**(inputs | changes))
    assert "\n" not in str(caught.value)


def test_unknown_arguments_are_named(model: AlignModel) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'images'"):
        model(images=images(2))


def test_models_stay_as_they_are(model: AlignModel) -> None:
    assert model.eval().to("cuda").to(model.device) is model
    assert model.params is model.variables["params"]
    assert torch.zeros(1, device=model.device).device.type == "cpu"
    with pytest.raises(ValueError, match=r"cannot change to torch\.float16; load it with from_pretrained"):
        model.to(torch.float16)


def test_models_of_the_wrong_configuration_are_refused() -> None:
    with pytest.raises(ValueError, match=r"AlignModel takes an AlignConfig of align_jax, not a .*AlignTextConfig"):
        AlignModel(TEXT)
    with pytest.raises(ValueError, match=r"transformers\S*; convert that .* AlignConfig.from_dict\(config.to_dict\(\)"):
        AlignModel(transformers.AlignConfig())


@pytest.mark.parametrize(("model_class", "config"), [(AlignModel, CONFIG), (AlignTextModel, TEXT)])
def test_seeds_decide_random_weights(model_class: Any, config: Any) -> None:
    first, same, other = (model_class(config, seed=seed).params for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, same))
    tables = [params.get("text", params)["embeddings"]["word"]["embedding"] for params in (first, other)]
    assert not np.array_equal(*tables)
    assert not tables[0][TEXT.pad_token_id].any()


def test_random_weights_have_the_distributions_of_the_modules() -> None:
    config = AlignConfig.of_towers(VISION, TEXT, projection_dim=64, temperature_init_value=0.5)
    pixels = jnp.zeros((1, 32, 32, 3))
    draws = [Align(config).init(jax.random.key(seed), pixels, jnp.ones((1, 2), jnp.int32)) for seed in range(3)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *draws)
    found = jax.tree.map(lambda *leaves: np.stack(leaves), *(random_variables(config, seed) for seed in range(3)))

    def compare(path: Any, ours: np.ndarray, theirs: np.ndarray) -> None:
        where = jax.tree_util.keystr(path)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
        if theirs.std() == 0.0:
            np.testing.assert_array_equal(ours, theirs, err_msg=where)
            return
        count = theirs.size
        assert ours.std() == pytest.approx(theirs.std(), rel=6.0 / count**0.5), where
        assert abs(ours.mean()) <= 6.0 * theirs.std() / count**0.5, where
        assert np.abs(ours).max() <= 1.5 * np.abs(theirs).max(), where

    jax.tree_util.tree_map_with_path(compare, found, expected)


def test_bfloat16_computes_in_bfloat16(variables: dict[str, Any]) -> None:
    model = AlignModel(CONFIG, dtype=torch.bfloat16)
    kernel = model.params["text"]["layers_0"]["attention"]["query"]["kernel"]
    assert (kernel.dtype, model.params["temperature"].dtype) == (jnp.bfloat16, jnp.float32)
    output = model(**texts(4, 2), pixel_values=images(2))
    assert output.text_model_output.last_hidden_state.dtype == jnp.bfloat16
    assert (output.image_embeds.dtype, output.logits_per_text.dtype) == (jnp.float32, jnp.float32)
    tensor = model(**tensors(texts(4, 2)), pixel_values=images(2)).text_model_output.last_hidden_state
    assert tensor.dtype == torch.bfloat16
    np.testing.assert_array_equal(
        tensor.float().numpy(), np.asarray(output.text_model_output.last_hidden_state, np.float32)
    )
    with pytest.raises(ValueError, match="dtype 'int8' is not supported; use one of float32, bfloat16"):
        AlignTextModel(TEXT, dtype="int8")
