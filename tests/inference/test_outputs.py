"""Outputs behave as those of `transformers`: as mappings, as tuples, and as trees of JAX."""

import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from transformers import modeling_outputs
from transformers.models.align import modeling_align

from align_jax.inference import outputs
from align_jax.inference.outputs import (
    AlignOutput,
    BaseModelOutputWithPoolingAndCrossAttentions,
    BaseModelOutputWithPoolingAndNoAttention,
)

REFERENCES = {
    "AlignOutput": modeling_align.AlignOutput,
    "BaseModelOutputWithPoolingAndCrossAttentions": modeling_outputs.BaseModelOutputWithPoolingAndCrossAttentions,
    "BaseModelOutputWithPoolingAndNoAttention": modeling_outputs.BaseModelOutputWithPoolingAndNoAttention,
}


def image_output(value: float = 2.0) -> BaseModelOutputWithPoolingAndNoAttention:
    return BaseModelOutputWithPoolingAndNoAttention(
        last_hidden_state=jnp.full((2, 8, 3, 3), value), pooler_output=jnp.ones((2, 8))
    )


def align_output() -> AlignOutput:
    text = BaseModelOutputWithPoolingAndCrossAttentions(
        last_hidden_state=jnp.zeros((3, 5, 4)), hidden_states=(jnp.zeros((3, 5, 4)), jnp.ones((3, 5, 4)))
    )
    return AlignOutput(
        logits_per_image=jnp.zeros((2, 3)), text_embeds=jnp.ones((3, 8)), text_model_output=text,
        vision_model_output=image_output(),
    )  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_fields_and_their_order_are_those_of_transformers(name: str) -> None:
    ours = [field.name for field in dataclasses.fields(getattr(outputs, name))]
    assert ours == [field.name for field in dataclasses.fields(REFERENCES[name])]


def test_a_mapping_holds_the_fields_that_are_there() -> None:
    output = align_output()
    names = ["logits_per_image", "text_embeds", "text_model_output", "vision_model_output"]
    assert list(output) == list(output.keys()) == names
    assert len(output) == 4
    assert "loss" not in output
    assert output.loss is None
    assert output.get("loss", "none") == "none"
    assert output["text_embeds"] is output.text_embeds is output.get("text_embeds")
    assert [value is getattr(output, name) for name, value in output.items()] == [True] * 4
    assert list(map(id, output.values())) == [id(getattr(output, name)) for name in names]
    assert dict(**output).keys() == output.keys()
    with pytest.raises(KeyError, match="'loss' is not among the AlignOutput's fields: logits_per_image, text_embeds, "):
        output["loss"]


def test_keys_are_printed_without_the_arrays() -> None:
    assert str(image_output().keys()) == "dict_keys(['last_hidden_state', 'pooler_output'])"


def test_numbers_and_slices_count_the_fields_that_are_there() -> None:
    output = align_output()
    assert output[0] is output.logits_per_image
    assert output[1] is output[-3] is output.text_embeds
    assert output[:2] == (output.logits_per_image, output.text_embeds)
    with pytest.raises(IndexError):
        output[4]


def test_tuples_reach_into_the_towers_outputs() -> None:
    output = align_output()
    _, _, text, image = output.to_tuple()
    assert text == (output.text_model_output.last_hidden_state, output.text_model_output.hidden_states)
    assert image == (output.vision_model_output.last_hidden_state, output.vision_model_output.pooler_output)


def test_tuples_are_those_of_transformers() -> None:
    def structure(value: Any) -> Any:
        return tuple(map(structure, value)) if isinstance(value, tuple) else np.shape(value)

    ours = align_output()
    theirs = modeling_align.AlignOutput(
        logits_per_image=ours.logits_per_image, text_embeds=ours.text_embeds,
        text_model_output=modeling_outputs.BaseModelOutputWithPoolingAndCrossAttentions(**ours.text_model_output),
        vision_model_output=modeling_outputs.BaseModelOutputWithPoolingAndNoAttention(**ours.vision_model_output),
    )  # fmt: skip
    assert structure(ours.to_tuple()) == structure(theirs.to_tuple())
    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs)


def test_outputs_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        image_output().pooler_output = None
    assert dataclasses.replace(image_output(), pooler_output=None).pooler_output is None


def test_an_output_is_equal_to_itself_only() -> None:
    output = image_output()
    assert output == output
    assert output != image_output()
    assert len({output, image_output()}) == 2


def test_jax_reaches_through_outputs() -> None:
    doubled = jax.jit(lambda output: jax.tree.map(lambda leaf: 2 * leaf, output))(align_output())
    assert isinstance(doubled, AlignOutput)
    assert isinstance(doubled.vision_model_output, BaseModelOutputWithPoolingAndNoAttention)
    assert float(doubled.vision_model_output.last_hidden_state[0, 0, 0, 0]) == 4.0
    assert doubled.loss is None
    assert len(doubled.text_model_output.hidden_states) == 2
    host = jax.device_get(doubled)
    assert isinstance(host.text_embeds, np.ndarray)


def test_jax_names_the_fields() -> None:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(align_output())]
    assert paths[:3] == [".logits_per_image", ".text_embeds", ".text_model_output.last_hidden_state"]


def test_outputs_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(image_output(3.0)))
    assert float(copy.last_hidden_state[0, 0, 0, 0]) == 3.0
    assert list(copy) == ["last_hidden_state", "pooler_output"]


def test_there_is_no_transformers_behind_the_outputs() -> None:
    assert not issubclass(AlignOutput, transformers.utils.ModelOutput)
