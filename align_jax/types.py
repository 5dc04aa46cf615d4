"""The axis glossary and the batches that pass between data, models and training.

Axes, as they appear in shape annotations and in the suffixes of names such as `logits_BxN`:

    B  batch            H W C  image height, width, channels     T  tokens
    P  patches          D      embedding                         F  hidden features
    K  classes          N      gallery (everything searched)     L  layers
    M  labels of an example

Arrays are NumPy on the host and JAX on the device; this file imports neither framework, so that `align_jax.data` and
`align_jax.models` can meet here without seeing each other.
"""

from typing import Any, NamedTuple


class PairBatch(NamedTuple):
    """A batch of image-text pairs; row i of every field belongs to the same pair."""

    images: Any  # uint8 [B H W C], unscaled pixels
    input_ids: Any  # int32 [B T], zero-padded
    attention_mask: Any  # int32 [B T], 1 on tokens and 0 on padding


class LabelBatch(NamedTuple):
    """A batch of labelled images; row i of every field belongs to the same one."""

    images: Any  # uint8 [B H W C], unscaled pixels
    labels: Any  # int32 [B M], each class once, filled with `NO_LABEL`


NO_LABEL = -1
"""Fills rows of labels: an example has as many of them as it has."""
