"""The crop of Inception's training (Szegedy et al., arXiv 1409.4842): a random rectangle of an image.

Drawn as `tf.image.sample_distorted_bounding_box` does, which the released trainer of the Vision Transformer calls:
first the ratio of the sides, then the height among those whose rectangle has an allowed area and fits into the image.
"""

import math

import numpy as np

ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Width by height, at least and at most."""

_TRIES = 100


def random_rectangle(
    height_px: int, width_px: int, smallest_area: float, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Rows and columns of the rectangle; the whole image where none was found in a hundred tries.

    Args:
      height_px: of the image.
      width_px: of the image.
      smallest_area: the least share of the image that it covers.
      rng: draws it.
    """
    area = height_px * width_px
    for _ in range(_TRIES):
        aspect = rng.uniform(*ASPECT_RATIOS)
        # A rectangle of height h has the width aspect * h.
        lowest = max(1, math.ceil(math.sqrt(smallest_area * area / aspect)))
        highest = min(height_px, math.floor(math.sqrt(area / aspect)), math.floor(width_px / aspect))
        if lowest > highest:
            continue
        height = int(rng.integers(lowest, highest + 1))
        width = min(width_px, max(1, round(height * aspect)))
        top, left = int(rng.integers(height_px - height + 1)), int(rng.integers(width_px - width + 1))
        return slice(top, top + height), slice(left, left + width)
    return slice(0, height_px), slice(0, width_px)
