import io

import numpy as np
import pytest
from PIL import Image

from align_jax.demo import uploads
from align_jax.demo.uploads import MAX_UPLOAD_BYTES, UploadError, read_upload


def encoded(form="PNG", size=(20, 10), mode="RGB", colour: float | tuple[int, ...] = 200, **options):
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, form, **options)
    return content.getvalue()


def rotated() -> bytes:
    """A picture of 20 x 10 pixels that is to be shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_images_become_pixels(tmp_path, form):
    (tmp_path / "x").write_bytes(encoded(form))
    assert read_upload(tmp_path / "x").shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("name", "content", "shape", "red"),
    [
        ("x.gif", encoded("GIF", save_all=True, append_images=[Image.new("L", (20, 10), 5)]), (10, 20, 3), 200),
        ("x.jpg", encoded("JPEG", mode="CMYK", colour=(0, 255, 255, 0)), (10, 20, 3), 255),
        ("x.png", encoded(mode="I;16", colour=200 * 257), (10, 20, 3), 200),
        ("x.jpg", rotated(), (20, 10, 3), 200),
        ("x.png", encoded("JPEG"), (10, 20, 3), 200),
        ("x.txt", encoded(), (10, 20, 3), 200),
    ],
    ids=["animated", "CMYK", "16-bit", "EXIF-rotated", "wrong extension", "no extension of an image"],
)
def test_unusual_images_are_read_as_meant(tmp_path, name, content, shape, red):
    (tmp_path / name).write_bytes(content)
    pixels = read_upload(tmp_path / name)
    assert pixels.shape == shape
    assert abs(int(pixels[..., 0].mean()) - red) <= 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an image"),
        (b"<svg></svg>", "not an image"),
        (encoded()[:-30], "damaged"),
        (encoded("JPEG", (200, 200))[:-300], "damaged"),
        (encoded("GIF", (6000, 5000), "L"), "more than 25 million pixels"),
        (encoded("PNG", (20_000, 20_000), "1"), "more than 25 million pixels"),
        (b"x" * (MAX_UPLOAD_BYTES + 1), "up to 10 MiB"),
    ],
    ids=["empty", "svg", "cut png", "cut jpeg", "many pixels", "bomb", "many bytes"],
)
def test_others_are_refused_with_a_sentence(tmp_path, content, message):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UploadError, match=message):
        read_upload(tmp_path / "x.png")


def test_too_many_pixels_are_never_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "decode_image", lambda encoded: pytest.fail("decoded"))
    monkeypatch.setattr(uploads, "MAX_UPLOAD_PIXELS", 199)
    (tmp_path / "x.png").write_bytes(encoded())
    with pytest.raises(UploadError, match="million pixels"):
        read_upload(tmp_path / "x.png")
    assert np.prod((20, 10)) == 200
