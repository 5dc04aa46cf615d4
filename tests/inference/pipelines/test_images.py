"""Every form of an image gives the pixels that `transformers`' pipelines see, or is refused with a reason."""

import base64
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image as reference

from align_jax.data.images import MAX_IMAGE_PIXELS, ImageDecodeError
from align_jax.inference.pipelines.images import ImageSourceError, load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)


def encoded(mode: str, form: str = "PNG", **options: object) -> bytes:
    image, buffer = Image.fromarray(PIXELS).convert(mode), io.BytesIO()
    if mode == "RGBA":
        image.putalpha(Image.fromarray(PIXELS[..., 0]))
    image.save(buffer, form, **options)
    return buffer.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return encoded("RGB", "JPEG", exif=exif)


FILES = {
    "jpeg": encoded("RGB", "JPEG"), "grey": encoded("L"), "palette": encoded("P"), "transparent": encoded("RGBA"),
    "cmyk": encoded("CMYK", "JPEG"), "rotated": rotated(), "one_bit": encoded("1"), "gif": encoded("P", "GIF"),
}  # fmt: skip


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_files_are_read_as_transformers_does(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture"
    path.write_bytes(content)
    expected = np.asarray(reference(Image.open(io.BytesIO(content))))
    text = base64.encodebytes(content).decode()
    for form in (path, str(path), content, Image.open(io.BytesIO(content)), text, f"data:image/png;base64,{text}"):
        np.testing.assert_array_equal(load_image(form), expected)


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    np.testing.assert_array_equal(load_image(buffer.getvalue()), PIXELS[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize(
    "array",
    [PIXELS, np.moveaxis(PIXELS, 2, 0), np.dstack([PIXELS, PIXELS[..., 0]]), torch.from_numpy(PIXELS)],
    ids=["last", "first", "alpha", "torch"],
)
def test_arrays_are_pictures(array: object) -> None:
    np.testing.assert_array_equal(load_image(array), PIXELS)


def test_grey_arrays_are_pictures() -> None:
    np.testing.assert_array_equal(load_image(PIXELS[..., 0]), PIXELS[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("absent.jpg", "'absent.jpg' is not there"),
        ("x" * 5000, "is not there|not an image format"),
        ("https://example.org/cat.jpg", "urls='public'"),
        ("ftp://example.org/cat.jpg", "is a URL"),
        (Path("absent.jpg"), "not there"),
        (Path("/"), "not a file"),
        (PIXELS.astype(np.float32), "float32"),
        (PIXELS[None], r"\(1, 13, 17, 3\)"),
        (PIXELS[:0], "no picture"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(image: object, reason: str) -> None:
    with pytest.raises((ImageSourceError, ImageDecodeError), match=reason):
        load_image(image)


def test_other_urls_are_refused_even_where_urls_are_allowed() -> None:
    with pytest.raises(ValueError, match="not of http or https"):
        load_image("file:///etc/passwd", urls="any")


def test_other_things_have_the_wrong_type() -> None:
    with pytest.raises(TypeError, match="int"):
        load_image(3)


@pytest.mark.parametrize("content", [b"", b"no image", FILES["jpeg"][:-40]], ids=["empty", "text", "cut"])
def test_broken_files_are_refused(content: bytes) -> None:
    with pytest.raises(ImageDecodeError):
        load_image(content)


def test_bombs_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ImageDecodeError, match="more than the limit"):
        load_image(Image.new("1", (MAX_IMAGE_PIXELS // 1000 + 1, 1000)))


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_bomb_is_refused_in_one_line_without_a_warning_of_pillow(form: str) -> None:
    encoded = io.BytesIO()
    Image.new("1", (30_000, 3_000)).save(encoded, form)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(ImageDecodeError, match=r"30000 x 3000 pixels are more than the limit of 89478485"):
            load_image(encoded.getvalue())
    assert shown == []
