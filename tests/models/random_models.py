"""Hypothesis strategies: small configurations with every choice that the towers have, and inputs for them."""

import os
from typing import Any, get_args

import hypothesis
import numpy as np
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, EfficientNetConfig
from align_jax.configuration.hidden_act import HiddenAct
from align_jax.conversion.verify import Inputs
from tests.models.reference import random_images

_ASKED = os.environ.get("ALIGN_JAX_EXAMPLES")


def examples(count: int) -> hypothesis.settings:
    """The same few examples in every run; `ALIGN_JAX_EXAMPLES=200` draws that many, others each time.

    Every example compiles a program, so only those that are asked for are made simpler when they fail.
    """
    return hypothesis.settings(
        max_examples=count if _ASKED is None else int(_ASKED),
        phases=[hypothesis.Phase.generate, *([] if _ASKED is None else [hypothesis.Phase.shrink])],
        derandomize=_ASKED is None,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


_activations = [name for name in get_args(HiddenAct) if name in ACT2FN]
# laplace is steep and then flat: between two batch norms it multiplies rounding errors several times, so that after
# four of them float32 torch is itself 1e-5 away from float64.
_image_activations = [name for name in _activations if name != "laplace"]


@st.composite
def vision_configs(
    draw: st.DrawFn, kind: type[AlignVisionConfig] = AlignVisionConfig, *, smallest_px: int = 17, **fixed: Any
) -> Any:
    """One to three stages on images of up to 70 px."""
    stages = draw(st.integers(1, 3))

    def each(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(st.lists(values, min_size=stages, max_size=stages)))

    out_channels = each(st.integers(3, 40))
    values: dict[str, Any] = {
        "image_size": draw(st.integers(smallest_px, 70)),
        "width_coefficient": draw(st.sampled_from([0.25, 0.5, 1.0, 1.3])),
        "depth_coefficient": draw(st.sampled_from([0.6, 1.0, 1.4])),
        "depth_divisor": draw(st.sampled_from([1, 4, 8])),
        "kernel_sizes": each(st.sampled_from([3, 5, 7])),
        "in_channels": (32, *out_channels[:-1]),
        "out_channels": out_channels,
        "strides": each(st.sampled_from([1, 2])),
        "num_block_repeats": each(st.integers(1, 2)),
        "expand_ratios": each(st.sampled_from([1, 1, 2, 3, 6])),
        "depthwise_padding": tuple(draw(st.sets(st.integers(0, 6)))),
        "squeeze_expansion_ratio": draw(st.sampled_from([0.01, 0.25, 0.5, 1.0])),
        "pooling_type": draw(st.sampled_from(["mean", "max"])),
        "hidden_act": draw(st.sampled_from(_image_activations)),
        "batch_norm_eps": draw(st.sampled_from([1e-3, 1e-5])),
        "hidden_dim": 64,
    }
    if kind is EfficientNetConfig:
        widths = AlignVisionConfig.tiny(**values)
        values["hidden_dim"] = widths.round_channels(1280)
        values["id2label"] = draw(st.sampled_from([(), ("cat", "dog", "mat")]))
    return kind(**(values | fixed))


@st.composite
def text_configs(draw: st.DrawFn, kind: type[AlignTextConfig] = AlignTextConfig, **fixed: Any) -> Any:
    """One to three layers of one to four heads."""
    heads = draw(st.integers(1, 4))
    vocabulary = draw(st.integers(5, 120))
    values: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": heads * draw(st.integers(4, 16)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(3, 64)),
        "hidden_act": draw(st.sampled_from(_activations)),
        "max_position_embeddings": draw(st.integers(1, 24)),
        "type_vocab_size": draw(st.integers(1, 4)),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5])),
        "pad_token_id": draw(st.integers(0, vocabulary - 1)),
    }
    return kind(**(values | fixed))


@st.composite
def align_configs(
    draw: st.DrawFn,
    vision: st.SearchStrategy[AlignVisionConfig] = vision_configs(),  # noqa: B008  (a description, not a value)
    text: st.SearchStrategy[AlignTextConfig] = text_configs(),  # noqa: B008
) -> AlignConfig:
    """Both towers, as `transformers` holds them: the space is as wide as the image features."""
    image_tower = draw(vision)
    return AlignConfig(draw(text), image_tower, projection_dim=image_tower.feature_size)


@st.composite
def text_inputs(draw: st.DrawFn, config: AlignTextConfig) -> dict[str, np.ndarray]:
    """One to four texts, with any of the optional inputs; masks have padding, holes, or both."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, config.max_position_embeddings)))
    texts: dict[str, np.ndarray] = {}
    if draw(st.booleans()):
        texts["input_ids"] = rng.integers(0, config.vocab_size, shape, np.int32)
    else:
        texts["inputs_embeds"] = rng.normal(size=(*shape, config.hidden_size)).astype(np.float32)
    if draw(st.booleans()):
        lengths = rng.integers(1, shape[1] + 1, (shape[0], 1))
        mask = np.arange(shape[1])[None, :] < lengths
        if draw(st.booleans()):
            mask &= rng.random(shape) < 0.7
            # A text without any token is left to the tests of the text tower.
            mask[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = True
        texts["attention_mask"] = mask.astype(np.int32)
    if draw(st.booleans()):
        texts["token_type_ids"] = rng.integers(0, config.type_vocab_size, shape, np.int32)
    if draw(st.booleans()):
        texts["position_ids"] = rng.integers(0, config.max_position_embeddings, shape, np.int32)
    return texts


@st.composite
def image_inputs(draw: st.DrawFn, config: AlignVisionConfig) -> np.ndarray:
    """One to three images."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_images(rng, draw(st.integers(1, 3)), config.image_size)


@st.composite
def align_inputs(draw: st.DrawFn, config: AlignConfig) -> Inputs:
    """Images and texts, in numbers that need not be equal."""
    return Inputs(draw(image_inputs(config.vision_config)), draw(text_inputs(config.text_config)))
