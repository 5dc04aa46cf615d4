import io

import numpy as np
import pytest
from PIL import Image

from align_jax.demo import uploads
from align_jax.demo.uploads import MAX_UPLOAD_BYTES, UploadError, read_upload


def encoded(form="PNG", size=(20, 10), mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size, 200).save(content, form)
    return content.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_images_become_pixels(tmp_path, form):
    (tmp_path / "x").write_bytes(encoded(form))
    assert read_upload(tmp_path / "x").shape == (10, 20, 3)


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
