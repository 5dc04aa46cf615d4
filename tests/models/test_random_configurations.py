"""Every output of models of any shape agrees with that of `transformers`.

The tolerance is 1e-5 of a layer's largest value. Both sides sum in float32, in different orders: a rounding error is
6e-8 of a value, a layer sums up to a few thousand values whose errors are independent, and few layers follow.
"""

from typing import Any

import jax
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from align_jax import AlignModel
from align_jax.configuration import AlignTextConfig, BertConfig, EfficientNetConfig
from align_jax.conversion import bert
from align_jax.conversion.rules import from_flax
from align_jax.conversion.verify import TOLERANCE, Inputs, compare_layers
from align_jax.json_config import JsonConfig
from align_jax.models.bert import Bert
from tests.models.random_models import (
    align_configs,
    align_inputs,
    examples,
    image_inputs,
    text_configs,
    text_inputs,
    vision_configs,
)
from tests.models.reference import (
    assert_agreement,
    channels_first,
    make_inputs,
    random_images,
    reference_model,
    tensors_of,
    torch_arguments,
    variables_of,
)
from tests.models.reference_4_37.text_tower import reference_text_model

seeds = st.integers(0, 2**32 - 1)


def seen_images(images: np.ndarray, seed: int) -> np.ndarray:
    """What batch norm's statistics are measured on; a single position of a single image would have none."""
    return np.concatenate([images, random_images(np.random.default_rng(seed), 4, images.shape[1])])


def compare(config: JsonConfig, inputs: Inputs, seed: int) -> None:
    images = None if inputs.images is None else seen_images(inputs.images, seed)
    tensors = tensors_of(reference_model(config, images, seed))
    assert_agreement(compare_layers(config, tensors, variables_of(config, tensors), inputs))


@examples(10)
@given(st.data(), align_configs(), seeds)
def test_every_layer_of_a_random_pair_of_towers_agrees(data: Any, config: Any, seed: int) -> None:
    compare(config, data.draw(align_inputs(config)), seed)


@examples(4)
@given(st.data(), vision_configs(EfficientNetConfig), seeds)
def test_every_layer_of_a_random_efficientnet_agrees(data: Any, config: Any, seed: int) -> None:
    compare(config, Inputs(images=data.draw(image_inputs(config))), seed)


@examples(4)
@given(st.data(), text_configs(BertConfig), seeds)
def test_every_layer_of_a_random_bert_agrees(data: Any, config: Any, seed: int) -> None:
    compare(config, Inputs(texts=data.draw(text_inputs(config))), seed)


@examples(3)
@given(st.data(), align_configs(), seeds)
def test_every_output_field_of_a_random_facade_agrees(data: Any, config: Any, seed: int) -> None:
    longest = config.text_config.max_position_embeddings
    lengths = data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=4))
    inputs = make_inputs(config, tuple(lengths), all_inputs=data.draw(st.booleans()) and longest > 2, seed=seed)
    names = ("return_loss", "output_hidden_states", "output_attentions", "return_dict")
    options = {name: data.draw(st.booleans(), label=name) for name in names}
    reference = reference_model(config, seen_images(inputs.images, seed), seed)
    with torch.no_grad():
        theirs = reference(**torch_arguments(inputs), **options)
    model = AlignModel(config, variables=variables_of(config, tensors_of(reference)))
    pixels = np.asarray(channels_first(inputs.images))
    assert_same(model(pixel_values=pixels, **inputs.texts, **options), theirs)


def assert_same(ours: Any, theirs: Any, where: str = "output") -> None:
    """The same structure, types and numbers."""
    if hasattr(theirs, "keys"):
        assert list(ours.keys()) == list(theirs.keys()), where
        for name in theirs:
            assert_same(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, tuple):
        assert isinstance(ours, tuple), where
        assert len(ours) == len(theirs), where
        for index, (mine, expected) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, expected, f"{where}[{index}]")
    else:
        mine, expected = np.asarray(ours), theirs.numpy()
        assert (mine.shape, mine.dtype) == (expected.shape, expected.dtype), where
        # Not below a tenth: cosines of random towers may cancel, and the difference of two logits is no logit.
        scale = max(float(np.max(np.abs(expected))), 0.1)
        assert np.max(np.abs(mine - expected)) <= TOLERANCE * scale, where


relative_positions = st.sampled_from(["relative_key", "relative_key_query"]).flatmap(
    lambda kind: text_configs(position_embedding_type=kind)
)


@examples(3)
@given(st.data(), relative_positions | text_configs(), seeds)
def test_random_texts_with_relative_positions_and_masked_heads_agree(data: Any, config: Any, seed: int) -> None:
    inputs = data.draw(text_inputs(config))
    shape = (*data.draw(st.sampled_from([(config.num_hidden_layers,), ()])), config.num_attention_heads)
    inputs["head_mask"] = np.random.default_rng(seed).choice([0.0, 0.5, 1.0, 2.0], shape).astype(np.float32)
    variables = random_text_variables(config, seed)
    tensors = from_flax(variables, bert.TABLE, bert.abstract_variables(config))
    theirs = reference_text_model(config, tensors)(**inputs)
    ours = jax.jit(Bert(config).apply)(variables, **inputs)
    fields = ("last_hidden_state", "hidden_states", "attentions")
    assert_same(tuple(getattr(ours, name) for name in fields), tuple(theirs[name] for name in fields))
    assert_same(ours.pooled, theirs["pooler_output"])


def random_text_variables(config: AlignTextConfig, seed: int) -> dict[str, Any]:
    """Activations of order one."""
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        kind = path[-1].key
        if kind == "scale":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = {"bias": 0.1, "embedding": 1.0, "kernel": leaf.shape[0] ** -0.5}[kind]
        return rng.normal(0.0, spread, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, bert.abstract_variables(config))
