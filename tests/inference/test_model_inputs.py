"""Inputs of every kind are taken, and those that do not fit are refused by name before anything is computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from align_jax import AlignModel, AlignVisionConfig
from align_jax.inference.model_inputs import InputError, read_images
from align_jax.models.efficientnet import EfficientNet
from tests.inference.tiny_align import CONFIG, assert_same, images, reference_variables, texts


@pytest.fixture(scope="module")
def model() -> AlignModel:
    return AlignModel(CONFIG, variables=reference_variables())


def test_every_kind_of_array_is_taken(model: AlignModel) -> None:
    pixels, ids, mask = images(3), *texts(9, 6, 1).values()
    expected = model(ids, pixels, mask)
    for other in (
        model(jnp.asarray(ids, jnp.int32), jnp.asarray(pixels), jnp.asarray(mask, jnp.int32)),
        model(ids.tolist(), list(pixels), mask.tolist()),
        model(ids.astype(np.uint8), pixels.astype(np.float64), mask.astype(bool)),
        model(ids, pixels.astype(np.float32), mask.astype(np.float32)),
        model(torch.from_numpy(ids), torch.from_numpy(pixels).double(), torch.from_numpy(mask).bool()),
    ):
        assert_same(other, expected)


def test_one_row_serves_all_texts(model: AlignModel) -> None:
    ids, mask = texts(9, 6, 1).values()
    segments, positions = np.arange(9) % 2, np.arange(9)[::-1].copy()
    rows = [np.tile(row, (3, 1)) for row in (segments, positions)]
    expected = model.get_text_features(ids, mask, *rows)
    assert_same(model.get_text_features(ids, mask, segments, positions), expected)
    assert_same(model.get_text_features(ids, mask, segments[None], positions[None]), expected)


def test_inputs_may_be_overwritten_after_the_call() -> None:
    # JAX computes while Python goes on, and would otherwise read NumPy's own memory where it is aligned.
    memory = np.zeros(2 * 3 * 32 * 32 + 16, np.float32)
    start = -(memory.ctypes.data // 4) % 16
    pixels = memory[start : start + 2 * 3 * 32 * 32].reshape(2, 3, 32, 32)
    read = read_images(pixels, CONFIG.vision_config)
    pixels[:] = 1.0
    assert not np.any(read)


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strides": (2, 2, 2)},
        {"strides": (2, 1, 2), "depthwise_padding": (0,), "kernel_sizes": (5, 3, 7)},
        {"strides": (1, 2, 2), "depthwise_padding": (1, 2), "kernel_sizes": (3, 5, 5)},
    ],
)
def test_images_are_refused_when_nothing_would_be_left_of_them(changes: dict[str, Any]) -> None:
    config = AlignVisionConfig.tiny(**changes)

    def computed(side_px: int) -> bool:
        images = jax.ShapeDtypeStruct((1, side_px, side_px, 3), jnp.float32)
        try:
            output, _ = jax.eval_shape(EfficientNet(config).init_with_output, jax.random.key(0), images)
        except ValueError:  # a kernel that is larger than what it reads
            return False
        return min(output.last_hidden_state.shape) > 0

    def accepted(side_px: int) -> bool:
        try:
            read_images(np.zeros((1, 3, side_px, side_px), np.float32), config)
        except InputError:
            return False
        return True

    sides_px = (1, 2, 3, 4, 7, 8, 15, 16)
    assert {accepted(side_px) for side_px in sides_px} == {False, True}
    assert [accepted(side_px) for side_px in sides_px] == [computed(side_px) for side_px in sides_px]
