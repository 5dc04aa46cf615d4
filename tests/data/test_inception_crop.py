import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_jax.data.images import ImageTransform
from align_jax.data.inception_crop import random_rectangle

SIDES = st.integers(1, 300)


@given(SIDES, SIDES, st.floats(0.01, 1.0), st.integers(0, 2**32))
def test_rectangles_lie_in_the_image_and_cover_enough_of_it(height, width, smallest, seed):
    rows, columns = random_rectangle(height, width, smallest, np.random.default_rng(seed))
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    assert 0 <= rows.start < rows.stop <= height
    assert 0 <= columns.start < columns.stop <= width
    # Whole pixels: half of one is lost at most on the width.
    assert tall * (wide + 0.5) >= smallest * height * width * 0.999 or (tall, wide) == (height, width)
    if (tall, wide) != (height, width) and tall >= 20:
        assert 3 / 4 - 0.05 <= wide / tall <= 4 / 3 + 0.05


def test_rectangles_of_a_large_image_take_every_size_and_place():
    rng = np.random.default_rng(0)
    found = [random_rectangle(200, 300, 0.05, rng) for _ in range(500)]
    areas = [(r.stop - r.start) * (c.stop - c.start) / 60_000 for r, c in found]
    assert min(areas) < 0.1
    assert max(areas) > 0.8
    assert min(r.start for r, _ in found) == 0
    assert max(c.stop for _, c in found) == 300


def test_training_crops_and_evaluation_does_not():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), np.uint8)
    transform = ImageTransform(resize_px=16, crop_px=16, flip=True, smallest_area=0.05)
    plain = ImageTransform(resize_px=16, crop_px=16)
    np.testing.assert_array_equal(transform.evaluate(image), plain.evaluate(image))
    np.testing.assert_array_equal(transform.prepare(image), image)
    crops = [transform.train(image, np.random.default_rng(seed)) for seed in (1, 2, 1)]
    assert crops[0].shape == (16, 16, 3)
    assert (crops[0] != crops[1]).any()
    np.testing.assert_array_equal(crops[0], crops[2])


def test_crop_beside_a_warp_is_refused():
    with pytest.raises(ValueError, match="takes the place of zoom"):
        ImageTransform(smallest_area=0.05, zoom=0.1)
    with pytest.raises(ValueError, match=r"smallest_area 0 is not between"):
        ImageTransform(smallest_area=0)
