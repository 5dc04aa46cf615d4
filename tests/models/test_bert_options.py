"""The text tower's options, against what `transformers` 4.37.2 computed and against a reference in PyTorch."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.conversion import bert
from align_jax.conversion.rules import from_flax, to_flax
from align_jax.models.align import Align
from align_jax.models.bert import Bert, TextFeatures, distance_embeddings
from tests.models.reference_4_37.text_tower import reference_text_model

TOLERANCE = 1e-5  # of the largest absolute value of each compared array
GRADIENT_TOLERANCE = 1e-4
RECORDED = dict(np.load(Path(__file__).parent / "reference_4_37" / "text_tower.npz"))
CASES = sorted({name.split("/")[0] for name in RECORDED} - {"weights"})


def recorded(prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in RECORDED.items() if name.startswith(prefix)}


def config_of(case: str) -> AlignTextConfig:
    return AlignTextConfig.from_dict(json.loads(str(RECORDED[f"{case}/config"])))


def weights_for(config: AlignTextConfig) -> dict[str, np.ndarray]:
    tensors = recorded("weights/")
    if config.position_embedding_type == "absolute":
        return {name: tensor for name, tensor in tensors.items() if "distance" not in name}
    return tensors


def variables_for(config: AlignTextConfig) -> dict[str, Any]:
    return to_flax(weights_for(config), bert.TABLE, bert.abstract_variables(config))


def inputs_of(case: str) -> dict[str, np.ndarray]:
    """In the types that our model takes."""
    inputs = recorded(f"{case}/inputs/")
    return {name: value.astype(np.int32) if value.dtype == np.int64 else value for name, value in inputs.items()}


@partial(jax.jit, static_argnames=("config", "dtype"))
def encode(config: AlignTextConfig, variables: dict[str, Any], dtype: Any = jnp.float32, **inputs: Any) -> TextFeatures:
    return Bert(config, dtype=dtype).apply(variables, **inputs)


def assert_close(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("case", CASES)
def test_every_state_attention_and_the_pooled_output_equal_those_of_4_37(case: str) -> None:
    config, expected = config_of(case), recorded(f"{case}/outputs/")
    features = encode(config, variables_for(config), **inputs_of(case))
    assert len(features.hidden_states) == config.num_hidden_layers + 1
    for ours, theirs in zip(features.hidden_states, expected["hidden_states"], strict=True):
        assert_close(ours, theirs)
    for ours, theirs in zip(features.attentions, expected["attentions"], strict=True):
        assert_close(ours, theirs)
    assert_close(features.last_hidden_state, expected["hidden_states"][-1])
    assert_close(features.pooled, expected["pooler_output"])


@pytest.mark.parametrize("case", CASES)
def test_the_reference_in_pytorch_equals_4_37(case: str) -> None:
    config, expected = config_of(case), recorded(f"{case}/outputs/")
    outputs = reference_text_model(config, weights_for(config))(**recorded(f"{case}/inputs/"))
    for name in ("hidden_states", "attentions"):
        for ours, theirs in zip(outputs[name], expected[name], strict=True):
            assert_close(ours, theirs)
    assert_close(outputs["last_hidden_state"], expected["hidden_states"][-1])
    assert_close(outputs["pooler_output"], expected["pooler_output"])


def test_the_records_tell_the_options_apart() -> None:
    kinds = {config_of(case).position_embedding_type for case in CASES}
    assert kinds == {"absolute", "relative_key", "relative_key_query"}
    config = config_of("relative_key_query_every_distance_11")
    given_inputs = recorded("relative_key_query_every_distance_11/inputs/")
    expected = RECORDED["relative_key_query_every_distance_11/outputs/pooler_output"]
    for other in ("absolute", "relative_key"):
        changed = AlignTextConfig.from_dict(config.to_dict() | {"position_embedding_type": other})
        pooled = reference_text_model(changed, recorded("weights/"))(**given_inputs)["pooler_output"]
        assert np.abs(pooled.numpy() - expected).max() > 0.1


def test_every_gradient_equals_the_reference() -> None:
    config, inputs = (
        config_of("relative_key_query_every_distance_11"),
        inputs_of("relative_key_query_every_distance_11"),
    )
    head_mask = np.array([[1.0, 0.5, 0.0], [0.0, 0.75, 2.0]], np.float32)
    inputs["input_ids"][0, 4] = config.pad_token_id  # unmasked, and yet without a gradient
    rng = np.random.default_rng(0)
    weighting = rng.normal(size=(*inputs["input_ids"].shape, config.hidden_size)).astype(np.float32)

    def loss(params: dict[str, Any], head_mask: jax.Array) -> jax.Array:
        features = Bert(config).apply({"params": params}, **inputs, head_mask=head_mask)
        return jnp.sum(features.last_hidden_state * weighting) + jnp.sum(features.pooled)

    params = variables_for(config)["params"]
    ours, our_head_gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, head_mask)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in weights_for(config).items()}
    factors = torch.tensor(head_mask, requires_grad=True)
    outputs = reference_text_model(config, tensors)(**inputs, head_mask=factors)
    ((outputs["last_hidden_state"] * torch.from_numpy(weighting)).sum() + outputs["pooler_output"].sum()).backward()
    gradients = {
        name: np.zeros(tensor.shape, np.float32) if tensor.grad is None else tensor.grad.numpy()
        for name, tensor in tensors.items()
    }
    assert factors.grad is not None
    assert_close(our_head_gradient, factors.grad, GRADIENT_TOLERANCE)
    assert not gradients["embeddings.word_embeddings.weight"][config.pad_token_id].any()
    assert not gradients["embeddings.position_embeddings.weight"].any()
    assert gradients["encoder.layer.0.attention.self.distance_embedding.weight"].all()
    target = {"params": bert.abstract_variables(config)["params"]}
    back = from_flax({"params": ours}, bert.TABLE, target)
    for name, gradient in gradients.items():
        # Softmax removes what a key's bias adds to a whole row of scores; what is left of its gradient may be rounding.
        scale = gradients[name.replace("self.key.bias", "self.query.bias")]
        limit = GRADIENT_TOLERANCE * np.abs(scale).max()
        np.testing.assert_allclose(back[name], gradient, rtol=0, atol=limit, err_msg=name)


def test_distances_are_query_minus_key() -> None:
    for positions in range(1, 6):
        table = jnp.arange(1 - positions, positions, dtype=jnp.float32)[:, None]
        for length in range(1, positions + 1):
            expected = np.arange(length)[:, None] - np.arange(length)[None, :]
            found = jax.jit(distance_embeddings, static_argnums=1)(table, length)
            np.testing.assert_array_equal(found[:, :, 0], expected)


@pytest.mark.parametrize("case", ["absolute_heads_7", "relative_key_query_padded_5"])
def test_rows_of_the_token_table_stand_for_their_tokens(case: str) -> None:
    """Everything else is absent: there are as many ones, zeros and positions as rows."""
    variables, ids = variables_for(config_of(case)), inputs_of(case)["input_ids"]
    rows = variables["params"]["embeddings"]["word"]["embedding"][ids]
    by_rows, by_ids = (
        encode(config_of(case), variables, **given) for given in ({"inputs_embeds": rows}, {"input_ids": ids})
    )
    jax.tree.map(assert_close, by_rows, by_ids)


def test_a_tower_made_from_embeddings_has_every_parameter() -> None:
    config = AlignTextConfig.tiny(position_embedding_type="relative_key")
    init = partial(jax.eval_shape, Bert(config).init, jax.random.key(0))
    assert init(inputs_embeds=jnp.zeros((1, 2, 32))) == init(jnp.zeros((1, 2), jnp.int32))


def test_padding_never_changes_a_text_of_a_relative_tower() -> None:
    config = config_of("relative_key_query_padded_5")
    variables, inputs = variables_for(config), inputs_of("relative_key_query_padded_5")
    together = encode(config, variables, **inputs)
    alone = {name: value[1:, :2] for name, value in inputs.items()}
    assert_close(encode(config, variables, **alone).last_hidden_state, together.last_hidden_state[1:, :2])


def test_one_mask_for_all_layers_is_the_same_mask_in_each() -> None:
    config, inputs = config_of("absolute_heads_7"), inputs_of("absolute_heads_7")
    by_layer = inputs | {"head_mask": np.tile(inputs["head_mask"], (config.num_hidden_layers, 1))}
    variables = variables_for(config)
    jax.tree.map(
        np.testing.assert_array_equal, encode(config, variables, **by_layer), encode(config, variables, **inputs)
    )


def test_bfloat16_is_close() -> None:
    case = "relative_key_query_heads_of_layers_from_embeddings_6"
    rough = encode(config_of(case), variables_for(config_of(case)), dtype=jnp.bfloat16, **inputs_of(case))
    assert {array.dtype for array in jax.tree.leaves(rough)} == {jnp.dtype(jnp.bfloat16)}
    difference = np.abs(np.asarray(rough.pooled, np.float32) - RECORDED[f"{case}/outputs/pooler_output"])
    assert 0 < difference.max() < 0.1


def test_exactly_one_of_tokens_and_embeddings() -> None:
    ids, rows = jnp.zeros((1, 3), jnp.int32), jnp.zeros((1, 3, 32))
    model = Bert(AlignTextConfig.tiny())
    with pytest.raises(ValueError, match="neither input_ids nor inputs_embeds is given; give exactly one"):
        jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match="both input_ids and inputs_embeds are given; give exactly one"):
        jax.eval_shape(partial(model.init, inputs_embeds=rows), jax.random.key(0), ids)
    with pytest.raises(ValueError, match="inputs_embeds are 31 wide; the text tower takes 32"):
        jax.eval_shape(partial(model.init, inputs_embeds=rows[:, :, 1:]), jax.random.key(0))
    with pytest.raises(ValueError, match="65 tokens are more than the 64 positions"):
        jax.eval_shape(partial(model.init, inputs_embeds=jnp.zeros((1, 65, 32))), jax.random.key(0))


@pytest.mark.parametrize("shape", [(3,), (2,), (1, 4), (4, 2), (2, 3)])
def test_a_head_mask_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    config = AlignTextConfig.tiny(num_attention_heads=4)
    with pytest.raises(ValueError, match=r"head_mask has shape .*; give one factor a head, \(4,\), or .*, \(2, 4\)"):
        jax.eval_shape(
            partial(Bert(config).init, head_mask=jnp.ones(shape)), jax.random.key(0), jnp.zeros((1, 3), jnp.int32)
        )


def test_the_whole_model_passes_every_option_on() -> None:
    stage = {
        "kernel_sizes": (3,), "in_channels": (32,), "out_channels": (32,), "strides": (1,), "num_block_repeats": (1,),
        "expand_ratios": (1,),
    }  # fmt: skip
    model = Align(AlignConfig(AlignTextConfig.tiny(), AlignVisionConfig.tiny(**stage), projection_dim=32))
    images, ids = np.zeros((2, 32, 32, 3), np.uint8), np.array([[5, 6, 7], [8, 9, 0]], np.int32)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) ** 2 * 0.2,
        jax.eval_shape(model.init, jax.random.key(0), images, ids),
    )
    heads = np.array([0.0, 1.0, 1.0, 1.0], np.float32)

    @jax.jit
    def texts(variables: dict[str, Any]) -> dict[str, jax.Array]:
        rows = jnp.asarray(variables["params"]["text"]["embeddings"]["word"]["embedding"])[ids]
        encode_text = partial(model.apply, variables, method=Align.encode_text)
        return {
            "ids": encode_text(ids)[0],
            "masked ids": encode_text(ids, head_mask=heads)[0],
            "masked rows": encode_text(inputs_embeds=rows, head_mask=heads)[0],
            "of pairs": model.apply(variables, images, inputs_embeds=rows, head_mask=heads).text,
        }

    found = jax.tree.map(np.asarray, texts(variables))
    assert np.abs(found["masked ids"] - found["ids"]).max() > 1e-2 * np.abs(found["ids"]).max()
    assert_close(found["masked rows"], found["masked ids"])
    lengths = np.linalg.norm(found["masked ids"], axis=-1, keepdims=True)
    assert_close(found["of pairs"], found["masked ids"] / lengths)
