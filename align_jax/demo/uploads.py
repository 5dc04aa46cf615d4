"""What visitors upload: limited in bytes and pixels, and decoded, or refused with a sentence for them."""

import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from align_jax.data.images import ImageDecodeError, decode_image, open_image

MAX_UPLOAD_BYTES = 10 * 2**20
MAX_UPLOAD_PIXELS = 25_000_000


class UploadError(ValueError):
    """An upload is refused; the message is for who uploaded it."""


def read_upload(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an uploaded image.

    Raises:
        UploadError: if it is too large, or no whole image.
    """
    path = Path(path)
    size_bytes = path.stat().st_size
    if size_bytes > MAX_UPLOAD_BYTES:
        raise UploadError(
            f"This file has {size_bytes / 2**20:.1f} MiB; images of up to {MAX_UPLOAD_BYTES // 2**20} MiB are taken."
        )
    try:
        with open_image(path) as image:  # reads no more than the header
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = MAX_UPLOAD_PIXELS + 1
    except (OSError, SyntaxError, ValueError, struct.error):
        raise UploadError("This file is not an image, or it is damaged; JPEG, PNG, WebP and GIF are taken.") from None
    if pixels > MAX_UPLOAD_PIXELS:
        raise UploadError(f"This image has more than {MAX_UPLOAD_PIXELS / 1e6:.0f} million pixels; scale it down.")
    try:
        return decode_image(path.read_bytes())
    except ImageDecodeError:
        raise UploadError("This image is damaged, or not all of it is there.") from None
