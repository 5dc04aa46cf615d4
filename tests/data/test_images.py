import contextlib
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from align_jax.data import images
from align_jax.data.images import (
    MAX_IMAGE_PIXELS,
    ImageDecodeError,
    ImageTransform,
    crop,
    decode_image,
    decode_with_pillow,
    resize_bilinear,
)

SMOOTH = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 4), dtype=np.uint8), (60, 45))


def encode(image, image_format, **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def picture(mode):
    return Image.fromarray(SMOOTH).convert(mode)


def half_pixel_bilinear(image, height, width):
    """tf.image.resize(antialias=False), written from its definition: centres at (i + 0.5) * scale - 0.5."""

    def neighbours(size_in, size_out):
        centres = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
        below = np.floor(centres).astype(int)
        weights = centres - below
        return np.clip(below, 0, size_in - 1), np.clip(below + 1, 0, size_in - 1), weights

    top, bottom, down = neighbours(image.shape[0], height)
    left, right, across = neighbours(image.shape[1], width)
    pixels = image.astype(np.float64)
    rows = pixels[top] * (1 - down)[:, None, None] + pixels[bottom] * down[:, None, None]
    return rows[:, left] * (1 - across)[None, :, None] + rows[:, right] * across[None, :, None]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_png_of_every_mode_decodes_as_pillow_does(mode):
    encoded = encode(picture("L" if mode == "I;16" else mode).convert(mode), "PNG")
    np.testing.assert_array_equal(decode_image(encoded), decode_with_pillow(encoded))


@pytest.mark.parametrize(("mode", "tolerance"), [("RGB", 3), ("L", 1), ("CMYK", 4)])
def test_jpeg_decodes_as_pillow_does(mode, tolerance):
    encoded = encode(picture("RGB").convert(mode), "JPEG", quality=95)
    difference = np.abs(decode_image(encoded).astype(int) - decode_with_pillow(encoded))
    assert difference.max() <= tolerance


@pytest.mark.parametrize("image_format", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_decode(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    image = picture("RGB").convert("P") if image_format == "GIF" else picture("RGB")
    np.testing.assert_array_equal(
        decode_image(encode(image, image_format, **options)), np.asarray(image.convert("RGB"))
    )


def test_transparency_is_composited_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = [0, 255, 51]  # absent, solid, a fifth
    for image_format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        decoded = decode_image(encode(Image.fromarray(pixels), image_format, **options))
        np.testing.assert_array_equal(decoded, [[[255, 255, 255], [200, 0, 0], [244, 204, 204]]])


def test_palette_transparency_is_composited_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    encoded = encode(image, "PNG", transparency=0)
    np.testing.assert_array_equal(decode_image(encoded), [[[255, 255, 255], [40, 50, 60]]])


def test_orientation_of_a_photograph_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter to the right
    encoded = encode(picture("RGB"), "JPEG", exif=exif)
    assert decode_image(encoded).shape == (60, 45, 3)
    assert decode_with_pillow(encoded).shape == (60, 45, 3)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.99])
def test_truncated_image_is_an_error(image_format, kept):
    encoded = encode(picture("RGB"), image_format)
    with pytest.raises(ImageDecodeError, match="bytes"):
        decode_image(encoded[: int(len(encoded) * kept)])


def test_truncated_jpeg_is_never_left_to_opencv(monkeypatch):
    # before version 5 it returns the missing part in grey, without an error
    monkeypatch.setattr(images, "_decode_with_opencv", lambda encoded, flags: np.full((45, 60, 3), 128, np.uint8))
    with pytest.raises(ImageDecodeError, match="truncated"):
        decode_image(encode(picture("RGB"), "JPEG")[:-20])


def test_jpeg_with_a_tail_decodes():
    encoded = encode(picture("RGB"), "JPEG")
    assert decode_image(encoded + b"some camera's notes").shape == (45, 60, 3)


def test_empty_image_is_an_error():
    with pytest.raises(ImageDecodeError, match="empty"):
        decode_image(b"")


def test_text_is_no_image():
    with pytest.raises(ImageDecodeError, match=r"not an image format.*<html>"):
        decode_image(b"<html>404 not found</html>")


def test_png_bomb_is_refused_before_it_is_decoded():
    encoded = bytearray(encode(picture("L"), "PNG"))
    encoded[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageDecodeError, match=f"60000 x 60000.*{MAX_IMAGE_PIXELS}"):
        decode_image(bytes(encoded))


def test_jpeg_bomb_is_refused_before_it_is_decoded():
    encoded = encode(picture("RGB"), "JPEG")
    size = (45).to_bytes(2, "big") + (60).to_bytes(2, "big")
    assert encoded.count(size) == 1
    with pytest.raises(ImageDecodeError, match="65000 x 65000"):
        decode_image(encoded.replace(size, (65_000).to_bytes(2, "big") * 2))


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"]))
def test_any_bytes_give_an_image_or_a_decode_error(content, start):
    try:
        image = decode_image(start + content)
    except ImageDecodeError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(["JPEG", "PNG"]))
def test_a_damaged_image_gives_an_image_or_a_decode_error(data, image_format):
    encoded = bytearray(encode(picture("RGB"), image_format))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ImageDecodeError):
        assert decode_image(bytes(encoded)).shape[2] == 3


sizes = st.integers(1, 40)


@settings(deadline=None)
@given(sizes, sizes, sizes, sizes, st.integers(0, 2**32 - 1))
def test_resize_is_bilinear_between_pixel_centres_without_antialias(height, width, new_height, new_width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = resize_bilinear(image, new_height, new_width)
    assert resized.shape == (new_height, new_width, 3)
    # One of the two nearest levels: OpenCV's weights have 11 bits, so it may round to the farther one.
    assert np.abs(resized - half_pixel_bilinear(image, new_height, new_width)).max() < 1


def test_evaluation_of_the_recipe_crops_at_28_px():
    image = np.random.default_rng(0).integers(0, 256, (346, 346, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ImageTransform().evaluate(image), image[28:317, 28:317])


def test_image_of_the_stored_size_is_not_resampled():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    windows = {image[top : top + 8, left : left + 8].tobytes() for top in range(5) for left in range(5)}
    rng = np.random.default_rng(0)
    cropped = {ImageTransform(12, 8).train(image, rng).tobytes() for _ in range(500)}
    assert cropped == windows  # every offset occurs, the last one included


def test_flip_mirrors_half_of_the_images():
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    rng = np.random.default_rng(0)
    mirrored = [np.array_equal(ImageTransform(3, 3, flip=True).train(image, rng), image[:, ::-1]) for _ in range(200)]
    assert 70 < sum(mirrored) < 130
    assert np.array_equal(ImageTransform(3, 3).train(image, rng), image)


def test_translation_moves_the_image_and_repeats_its_edge():
    image = np.zeros((32, 32, 3), np.uint8)
    image[16, 16] = 255
    transform = ImageTransform(32, 32, translate=0.25)
    centres = []
    for seed in range(50):
        moved = transform.train(image, np.random.default_rng(seed)).astype(float).sum(-1)
        assert moved.sum() == pytest.approx(255 * 3, rel=0.02)
        centres.append(np.array(np.unravel_index(moved.argmax(), moved.shape)) - 16)
    assert np.abs(centres).max() in (7, 8)
    assert np.std(centres, axis=0).min() > 3


def test_zoom_scales_about_the_centre():
    image = np.zeros((33, 33, 3), np.uint8)
    image[12:21, 12:21] = 255
    areas = [
        (ImageTransform(33, 33, zoom=0.5).train(image, np.random.default_rng(seed)) > 127).mean(-1).sum()
        for seed in range(60)
    ]
    assert 81 / 1.5**2 * 0.7 < min(areas) < 50
    assert 140 < max(areas) < 81 * 1.5**2 * 1.15


def test_rotation_turns_about_the_centre_and_fills_with_the_border():
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 15] = 255
    turned = [
        ImageTransform(21, 21, rotate_degrees=90, border="white").train(image, np.random.default_rng(seed))
        for seed in range(40)
    ]
    assert any((one[0, 0] == 255).all() for one in turned)
    for one in turned:
        inner = one[4:17, 4:17].max(-1)
        row, column = np.unravel_index(inner.argmax(), inner.shape)
        assert np.hypot(row - 6, column - 6) == pytest.approx(5, abs=0.8)
    edge = ImageTransform(21, 21, rotate_degrees=45).train(np.full((21, 21, 3), 9, np.uint8), np.random.default_rng(0))
    assert (edge == 9).all()


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, st.integers(1, 24), st.integers(0, 8), st.floats(0, 1), st.floats(0, 180), st.floats(0, 1))
def test_every_transform_gives_a_square_of_its_size(height, width, crop_px, margin, zoom, degrees, translate):
    transform = ImageTransform(crop_px + margin, crop_px, True, zoom, degrees, translate)
    image = np.full((height, width, 3), 7, np.uint8)
    for result in (transform.train(image, np.random.default_rng(0)), transform.evaluate(image)):
        assert result.shape == (crop_px, crop_px, 3)
        assert result.dtype == np.uint8


def test_equal_generators_give_equal_images():
    transform = ImageTransform(40, 30, True, 0.2, 20, 0.1)
    first, second = (transform.train(SMOOTH[..., :3].copy(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"resize_px": 8, "crop_px": 9}, "crop_px 9"), ({"crop_px": 0}, "crop_px 0"), ({"zoom": -0.1}, "zoom -0.1")],
)
def test_impossible_transform_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform(**fields)


def test_crop_outside_the_image_is_an_error():
    with pytest.raises(ValueError, match=r"5 px at \(0, 6\) leaves the image of 10 x 10"):
        crop(np.zeros((10, 10, 3), np.uint8), 0, 6, 5)
