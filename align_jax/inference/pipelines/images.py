"""What a pipeline takes for an image, and the pixels it makes of it: those of `transformers`' pipelines, in every bit.

An image is a path, the bytes of a file, an image of Pillow, an array, base64 text with or without `data:image/…` in
front, or a URL where URLs are allowed. Files are decoded by Pillow and turned upright, and transparency is dropped, as
`transformers` does it: models see the colour that lies beneath. Only 16-bit grey is another matter: it is scaled to
8 bits, where Pillow's own conversion makes everything above 255 white.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from align_jax.data.images import ImageDecodeError, decode_with_pillow, pillow_pixels, refuse_bomb
from align_jax.inference import torch_tensors
from align_jax.inference.pipelines.download import TIMEOUT_SECONDS, Urls, download, is_url

_LONGEST_SHOWN = 80


class ImageSourceError(ValueError):
    """What was given is no image, or is not opened."""


def load_image(
    image: Any, *, urls: Urls = "refuse", timeout_seconds: float | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an image.

    Args:
        image: see above. Arrays are uint8: [H W 3], [3 H W], [H W 4], or grey [H W].
        urls: which URLs are opened, see `download`.
        timeout_seconds: of a download; its default when absent.

    Raises:
        ImageSourceError: if there is no such file, the text is none of these, or the array is no picture.
        ImageDecodeError: if the bytes are not a whole image.
        DownloadError: if a URL cannot be had.
        TypeError: if it is nothing of this kind.
    """
    if isinstance(image, Image.Image):
        refuse_bomb(image.size)
        return opaque_pixels(image)
    if isinstance(image, str):
        image = _bytes_of_text(image, urls, TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds)
    elif isinstance(image, Path):
        image = _bytes_of_file(image)
    if isinstance(image, bytes):
        return decode_with_pillow(image, opaque_pixels)
    if torch_tensors.is_tensor(image):
        image = torch_tensors.to_numpy(image)
    if isinstance(image, np.ndarray):
        return _of_array(image)
    raise TypeError(
        f"an image is a path, bytes, an image of Pillow, an array, base64 text or a URL; this is a {_kind(image)}"
    )


def opaque_pixels(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an open image, upright and without transparency."""
    image.load()
    if image.mode.startswith("I"):
        return pillow_pixels(image)
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _bytes_of_text(text: str, urls: Urls, timeout_seconds: float) -> bytes:
    if is_url(text):
        if urls == "refuse":
            raise ImageSourceError(
                f"{_shown(text)} is a URL, and those are opened only when asked for; use urls='public', or download it"
            )
        return download(text, urls=urls, timeout_seconds=timeout_seconds)
    if not text.startswith("data:image/"):
        try:
            if Path(text).is_file():
                return _bytes_of_file(Path(text))
        except (OSError, ValueError):  # too long for a name, or with a zero in it: base64 perhaps
            pass
    encoded = text.partition(",")[2] if text.startswith("data:image/") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ImageSourceError(f"{_shown(text)} is not there: no file has this name, and it is not base64") from None


def _bytes_of_file(path: Path) -> bytes:
    if not path.is_file():
        raise ImageSourceError(f"{path} is {'not a file' if path.exists() else 'not there'}; give an image file")
    return path.read_bytes()


def _of_array(array: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    if array.dtype != np.uint8 or array.size == 0:
        raise ImageSourceError(
            f"an array of shape {array.shape} and type {array.dtype} is no picture; give uint8 from 0 to 255"
        )
    if array.ndim == 3 and array.shape[2] not in (3, 4) and array.shape[0] == 3:
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 2:
        return np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ImageSourceError(
            f"an array of shape {array.shape} is no picture; give [height width 3], and several pictures as a list"
        )
    return np.ascontiguousarray(array[..., :3])


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…")


__all__ = ["ImageDecodeError", "ImageSourceError", "load_image", "opaque_pixels"]
