"""The inputs of the models as `transformers` takes them, checked where they come in.

JAX has no errors at run time: an id outside the vocabulary is moved to its edge and the result looks like any other. So
values are checked on the host, where they usually are already; under `jax.jit` only shapes and types can be.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from align_jax.configuration import AlignTextConfig, EfficientNetConfig, ImageTowerConfig, ViTConfig
from align_jax.configuration.labels import ProblemType
from align_jax.inference import torch_tensors
from align_jax.losses.classification import IGNORED_CLASS
from align_jax.models.efficientnet import block_specs, strided_padding


class InputError(ValueError):
    """A model was called with something that it cannot take."""


def read_images(pixel_values: Any, config: ImageTowerConfig) -> Float[Array, "B 3 H W"]:
    """Checks `pixel_values`; any size will do that leaves something to pool.

    Args:
        pixel_values: floating-point [B 3 H W] in [-1, 1], as `AlignProcessor` makes them.
        config: of the image tower.

    Raises:
        InputError: if they are missing, or of another shape or type.
    """
    if pixel_values is None:
        raise InputError("pixel_values are missing; pass images through AlignProcessor")
    pixels = _array("pixel_values", pixel_values)
    shape = tuple(pixels.shape)
    if pixels.ndim != 4:
        raise InputError(f"pixel_values have shape {shape}; they must be [images, 3, height, width]")
    if shape[1] != config.num_channels:
        remedy = (
            "channels come first: use pixel_values.transpose(0, 3, 1, 2)"
            if shape[3] == config.num_channels
            else "convert the images to RGB"
        )
        raise InputError(f"pixel_values have shape {shape}, which is {shape[1]} channels instead of 3; {remedy}")
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise InputError(
            f"pixel_values are of type {pixels.dtype}; they must be floating-point numbers from -1 to 1: use "
            "AlignProcessor, or pixel_values / 127.5 - 1"
        )
    smallest = _smallest_side_px(config)
    if min(shape[2:]) < smallest:
        raise InputError(
            f"pixel_values are {shape[2]} x {shape[3]} px; this image tower needs at least {smallest} x {smallest}, "
            f"and was made for {config.image_size} x {config.image_size}"
        )
    return _to_device(pixels, jnp.float32)


def read_texts(
    config: AlignTextConfig,
    *,
    input_ids: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
    head_mask: Any,
    inputs_embeds: Any,
) -> dict[str, Shaped[Array, "..."]]:
    """Checks the text tower's inputs; those that are None are left out.

    Args:
        config: of the text tower.
        input_ids: integers [B T]; or, in their place,
        inputs_embeds: floating-point [B T F].
        attention_mask: [B T], 1 on tokens and 0 on padding, of any type. This and the next two may have one row for
            all texts, [1 T] or [T].
        token_type_ids: integers [B T].
        position_ids: integers [B T].
        head_mask: floating-point [heads] or [layers heads].

    Raises:
        InputError: if texts are missing or given twice, or anything does not fit the tower or the other inputs.
    """
    if (input_ids is None) == (inputs_embeds is None):
        count = "both are given" if input_ids is not None else "both are missing"
        raise InputError(f"the text tower takes either input_ids or inputs_embeds, and {count}")
    read = {}
    if input_ids is not None:
        ids = _integers("input_ids", input_ids, config.vocab_size, "use the tokenizer of this model")
        if ids.ndim != 2:
            raise InputError(f"input_ids have shape {tuple(ids.shape)}; they must be [texts, tokens], one row a text")
        read["input_ids"], shape = ids, ids.shape
    else:
        embeddings = _floats("inputs_embeds", inputs_embeds)
        if embeddings.ndim != 3 or embeddings.shape[2] != config.hidden_size:
            raise InputError(
                f"inputs_embeds have shape {tuple(embeddings.shape)}; they must be [texts, tokens, "
                f"{config.hidden_size}]"
            )
        read["inputs_embeds"], shape = embeddings, embeddings.shape[:2]
    _check_length(shape[1], config.max_position_embeddings)
    rows = {
        "attention_mask": None if attention_mask is None else _mask("attention_mask", attention_mask),
        "token_type_ids": None if token_type_ids is None else _integers(
            "token_type_ids", token_type_ids, config.type_vocab_size, "this model knows that many segments"
        ),
        "position_ids": None if position_ids is None else _integers(
            "position_ids", position_ids, config.max_position_embeddings, "truncate the texts"
        ),
    }  # fmt: skip
    read |= {name: _one_row_a_text(name, value, shape) for name, value in rows.items() if value is not None}
    if head_mask is not None:
        read["head_mask"] = read_head_mask(head_mask, config)
    return read


def check_pairs(images: Float[Array, "B 3 H W"], texts: Mapping[str, Shaped[Array, "..."]]) -> None:
    """Refuses images and texts that are not pairs.

    Raises:
        InputError: if their numbers differ.
    """
    count = texts["input_ids" if "input_ids" in texts else "inputs_embeds"].shape[0]
    if images.shape[0] != count:
        raise InputError(
            f"return_loss compares pairs, but there are {images.shape[0]} images and {count} texts; give one text an "
            "image, or leave return_loss out"
        )


def read_targets(labels: Any, config: ViTConfig | EfficientNetConfig, images: int) -> Shaped[Array, "..."]:
    """Checks what a classifier's loss compares with.

    Args:
        labels: classes [B], or numbers [B K]; a single output takes [B] or [B 1].
        config: of the classifier.
        images: their number, B.

    Raises:
        InputError: if they do not fit the images, the classes or the kind of problem.
    """
    array, classes = _array("labels", labels), len(config.id2label)
    kind = problem_type(config.problem_type, classes, array.dtype)
    if kind == "single_label_classification":
        if not jnp.issubdtype(array.dtype, jnp.integer) or array.shape not in ((images,), (images, 1)):
            raise InputError(
                f"labels have shape {tuple(array.shape)} and type {array.dtype}; single_label_classification takes one "
                f"class for each of the {images} images, as integers"
            )
        if not isinstance(array, jax.core.Tracer):
            host = np.asarray(array)
            outside = host[((host < 0) | (host >= classes)) & (host != IGNORED_CLASS)]
            if outside.size:
                raise InputError(
                    f"labels contain {outside[0]}, but must lie between 0 and {classes - 1}, or be {IGNORED_CLASS} for "
                    "images that do not count"
                )
        return _to_device(array.reshape(-1), jnp.int32)
    shapes = [(images, classes), *([(images,)] if classes == 1 else [])]
    if array.shape not in shapes:
        raise InputError(
            f"labels have shape {tuple(array.shape)}; {kind} takes numbers [{images} images, {classes} classes]"
        )
    return _to_device(array, jnp.float32)


def problem_type(given: ProblemType | None, classes: int, dtype: Any) -> ProblemType:
    """The kind of problem that `transformers` takes a configuration and the type of the labels for."""
    if given is not None:
        return given
    if classes == 1:
        return "regression"
    integers = jnp.issubdtype(dtype, jnp.integer)
    return "single_label_classification" if integers else "multi_label_classification"


def _check_length(tokens: int, positions: int) -> None:
    if tokens > positions:
        raise InputError(
            f"the texts have {tokens} tokens, but the text tower has {positions} positions; tokenize with "
            "truncation=True, max_length=64"
        )
    if tokens == 0:
        raise InputError("the texts have no tokens; even an empty text has [CLS] and [SEP]")


def _integers(name: str, value: Any, limit: int, remedy: str) -> jax.Array:
    """Integers from 0 to `limit` - 1."""
    array = _array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputError(f"{name} are of type {array.dtype}; they must be integers, as AlignProcessor makes them")
    if not isinstance(array, jax.core.Tracer) and array.size:
        host = np.asarray(array)
        outside = host[(host < 0) | (host >= limit)]
        if outside.size:
            raise InputError(f"{name} contain {outside[0]}, but must lie between 0 and {limit - 1}; {remedy}")
        array = host
    return _to_device(array, jnp.int32)


def _mask(name: str, value: Any) -> jax.Array:
    array = _array(name, value)
    if not isinstance(array, jax.core.Tracer):
        array = np.asarray(array)
        other = array[(array != 0) & (array != 1)]
        if other.size:
            raise InputError(f"{name} contains {other[0]}; it must be 1 on tokens and 0 on padding")
    return _to_device(array, jnp.int32)


def _floats(name: str, value: Any) -> jax.Array:
    array = _array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"{name} are of type {array.dtype}; they must be floating-point numbers")
    return _to_device(array, jnp.float32)


def read_head_mask(value: Any, config: AlignTextConfig | ViTConfig) -> Float[Array, "..."]:
    """Checks the factors of the attention heads, [heads] or [layers heads].

    Raises:
        InputError: if they do not fit the heads.
    """
    factors = _array("head_mask", value)
    depth, heads = config.num_hidden_layers, config.num_attention_heads
    if factors.shape not in ((heads,), (depth, heads)):
        raise InputError(
            f"head_mask has shape {tuple(factors.shape)}; it must be ({heads},), one factor a head, or "
            f"({depth}, {heads}), one a layer and head"
        )
    return _to_device(factors, jnp.float32)


def _one_row_a_text(name: str, array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if array.shape not in (shape, (1, shape[1]), (shape[1],)):
        raise InputError(
            f"{name} has shape {tuple(array.shape)}, but there are {shape[0]} texts of {shape[1]} tokens; "
            f"make it {tuple(shape)}"
        )
    return jnp.broadcast_to(array.reshape(-1, shape[1]), shape)


def _array(name: str, value: Any) -> np.ndarray | jax.Array:
    """Anything that holds numbers."""
    if isinstance(value, jax.Array):
        return value
    if torch_tensors.is_tensor(value):
        return torch_tensors.to_numpy(value)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise InputError(
            f"the rows of {name} differ in shape; tokenize with padding=True, and give all images one size"
        ) from None
    if array.dtype.kind in "OSU":
        raise InputError(f"{name} is a {type(value).__name__} and not an array of numbers; use AlignProcessor")
    return array


def _to_device(array: np.ndarray | jax.Array, dtype: Any) -> jax.Array:
    """A copy, unless it is JAX's: the caller may overwrite NumPy's memory while the computation still runs."""
    return array.astype(dtype) if isinstance(array, jax.Array) else jnp.asarray(np.array(array, dtype))


@functools.cache
def _smallest_side_px(config: ImageTowerConfig) -> int:
    """A patch; or the smallest image that keeps a pixel through every convolution of stride 2."""
    if isinstance(config, ViTConfig):
        return config.patch_size
    strided = [(spec.kernel_size, spec.padding[0]) for spec in block_specs(config) if spec.stride == 2]
    smallest = 1
    for kernel_size, (before, after) in reversed([(3, strided_padding(3)[0]), *strided]):
        smallest = max(1, 2 * (smallest - 1) + kernel_size - before - after)
    return smallest
