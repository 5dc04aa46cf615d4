"""Every output of models of any shape agrees with that of `transformers`.

The tolerance is 1e-5 of a layer's largest value. Both sides sum in float32, in different orders: a rounding error is
6e-8 of a value, a layer sums up to a few thousand values whose errors are independent, and few layers follow.
"""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from align_jax.configuration import BertConfig, EfficientNetConfig
from align_jax.conversion.verify import Inputs, compare_layers
from align_jax.json_config import JsonConfig
from tests.models.random_models import (
    align_configs,
    align_inputs,
    examples,
    image_inputs,
    text_configs,
    text_inputs,
    vision_configs,
)
from tests.models.reference import assert_agreement, random_images, reference_model, tensors_of, variables_of

seeds = st.integers(0, 2**32 - 1)


def compare(config: JsonConfig, inputs: Inputs, seed: int) -> None:
    images = inputs.images
    if images is not None:
        # Statistics of a single position of a single image would not exist.
        more = random_images(np.random.default_rng(seed), 4, images.shape[1])
        images = np.concatenate([images, more])
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
