"""Encoded bytes to the uint8 pixels that a model sees.

`decode_image` turns a JPEG, PNG, WebP, GIF, … into uint8 `[H W 3]`, and `ImageTransform` brings that to the fixed
square of a batch the way the released recipe does (FACTS: coyo-align `datasets/`): bilinear resize to 346 px without
antialiasing, aspect ratio not kept, then a 289 px crop, random in training and central in evaluation. The recipe keeps
the resized pixels in float32; here they are rounded to uint8, so they travel to the device in a quarter of the bytes.
`Preprocessing` (preprocessing.py), which is for single images, keeps them, or resizes as `transformers` does.
"""

import io
import math
import struct
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from align_jax.data.inception_crop import random_rectangle

Pixels = UInt8[np.ndarray, "H W 3"] | Float32[np.ndarray, "H W 3"]
"""RGB from 0 to 255; between the levels only where a resize did not round."""

Square = UInt8[np.ndarray, "S S 3"] | Float32[np.ndarray, "S S 3"]
"""The same, S pixels in both directions."""

MAX_IMAGE_PIXELS = 89_478_485
"""Images with more pixels are refused before they are decoded (Pillow's limit: a quarter of a GiB in three bytes)."""

cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_SILENT
)  # an image that does not decode is reported by ImageDecodeError, not on stderr

_OPENING = threading.Lock()  # filters of warnings belong to the process, and images are opened in threads

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # tables that share the range of the frames
_JPEG_BARE_MARKERS = frozenset(range(0xD0, 0xD9)) | {0x01}  # markers without a length


class ImageDecodeError(ValueError):
    """The bytes are not a whole image; the message says what is wrong with them."""


def decode_image(encoded: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes one image to RGB.

    Transparency is composited on white, grey becomes three equal channels, 16-bit channels are scaled to 8 bits, the
    first frame of an animation counts, and the EXIF orientation of a photograph is applied.

    Args:
      encoded: a whole image file. JPEG and PNG take the fast path (OpenCV); the rest is whatever Pillow reads.

    Returns:
      uint8 pixels, RGB.

    Raises:
      ImageDecodeError: empty, truncated or corrupt bytes, no image at all, or more than `MAX_IMAGE_PIXELS` pixels.
    """
    if not encoded:
        raise ImageDecodeError("the image is empty (0 bytes)")
    decoded = None
    if encoded.startswith(_JPEG_START):
        refuse_bomb(_jpeg_size(encoded))
        if encoded.endswith(_JPEG_END):  # without it the file is cut, or has a tail: Pillow can tell the two apart
            decoded = _decode_with_opencv(encoded, cv2.IMREAD_COLOR_RGB)
    elif encoded.startswith(_PNG_SIGNATURE) and len(encoded) >= 24:
        width, height = struct.unpack(">II", encoded[16:24])
        refuse_bomb((width, height))
        decoded = _decode_with_opencv(encoded, cv2.IMREAD_UNCHANGED)
        decoded = None if decoded is None else _bgr_to_rgb(decoded)
    return decode_with_pillow(encoded) if decoded is None else decoded


def decode_with_pillow(
    encoded: bytes, pixels: Callable[[Image.Image], UInt8[np.ndarray, "H W 3"]] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes anything Pillow reads, slower than `decode_image` and with the reason where it cannot.

    Args:
      encoded: a whole image file.
      pixels: what makes RGB of an open image; `pillow_pixels` when absent.
    """
    try:
        with open_image(io.BytesIO(encoded)) as image:
            refuse_bomb(image.size)
            return (pixels or pillow_pixels)(image)
    except ImageDecodeError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageDecodeError(str(error)) from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, … on bad bytes
        reason = str(error).replace(f"{io.BytesIO.__module__}", "")
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"not an image format that is known (it starts with {encoded[:8]!r})"
        raise ImageDecodeError(f"{reason} ({len(encoded)} bytes)") from error


def open_image(file: io.BytesIO | Path) -> Image.Image:
    """An image of Pillow whose header is read and nothing else.

    Pillow's warning of more than `MAX_IMAGE_PIXELS` is not printed: `refuse_bomb` says so, or a limit of the caller's.
    """
    with _OPENING, warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(file)


def pillow_pixels(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an open image of any mode, by the rules of `decode_image`."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey, in 16 or 32 bits
        grey = np.clip(np.asarray(upright).astype(np.int64), 0, 65_535)
        return np.repeat(_sixteen_to_eight_bits(grey)[..., None], 3, axis=-1)
    if upright.has_transparency_data:
        return _on_white(np.asarray(upright.convert("RGBA")))
    return np.array(upright.convert("RGB"))


def resize_bilinear(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Bilinear interpolation between pixel centres without antialiasing, rounded to uint8; the fastest of the three."""
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_bilinear_float(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width} 3"]:
    """The same interpolation, not rounded: equal to `tf.image.resize(image, (height, width))` in every bit.

    That needs its order of operations and its float32 coordinates, whose error moves a value by up to a tenth of a
    level in an image of some thousand pixels a side.
    """
    top, bottom, down = _neighbours(image.shape[0], height)
    left, right, across = _neighbours(image.shape[1], width)
    # Across first, once for every row that is used.
    used, places = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    levels = image[used].astype(np.float32)
    rows = _between(np.take(levels, left, axis=1), np.take(levels, right, axis=1), across[None, :, None])
    return _between(rows[places[:height]], rows[places[height:]], down[:, None, None])


def resize_pillow(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int, resample: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Pillow's resize, which `transformers` uses: antialiased where it shrinks, rounded to uint8.

    Args:
      image: RGB.
      height: rows of the result.
      width: columns of the result.
      resample: a `PIL.Image.Resampling`; 2 is bilinear.
    """
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling(resample)))


def crop(image: Pixels, top: int, left: int, size_px: int) -> Square:
    """A square of `size_px` whose first row is `top` and first column `left`; a view, not a copy."""
    height, width = image.shape[:2]
    if min(top, left) < 0 or top + size_px > height or left + size_px > width:
        raise ValueError(f"a crop of {size_px} px at ({top}, {left}) leaves the image of {height} x {width} px")
    return image[top : top + size_px, left : left + size_px]


def central_crop(image: Pixels, size_px: int) -> Square:
    """The square in the middle; where margins cannot be equal, the upper and the left one are smaller by a pixel."""
    height, width = image.shape[:2]
    return crop(image, (height - size_px) // 2, (width - size_px) // 2, size_px)


@dataclass(frozen=True)
class ImageTransform:
    """From a decoded image of any size to a square of `crop_px`; everything random is off at 0.

    The order is: resize, then one affine warp (zoom, rotation, translation), then crop, then flip. With `smallest_area`
    training crops a rectangle out of the image as it is, and resizes that (`data.inception_crop`); evaluation does not.

    Attributes:
      resize_px: both sides after the resize; the aspect ratio is not kept. An image of this size is not resampled.
      crop_px: both sides of the result.
      flip: mirror every second image in training. Captions that say "left" or "right" then become wrong.
      zoom: scales by a factor drawn log-uniformly from [1 / (1 + zoom), 1 + zoom].
      rotate_degrees: rotates by an angle drawn uniformly from ± this.
      translate: shifts each axis by a fraction of the side drawn uniformly from ± this.
      border: what the warp shows outside the image: the nearest "edge" pixel, or "white".
      smallest_area: of the Inception crop, as a share of the image; crops are squares of the resized image when absent.
    """

    resize_px: int = 346
    crop_px: int = 289
    flip: bool = False
    zoom: float = 0.0
    rotate_degrees: float = 0.0
    translate: float = 0.0
    border: Literal["edge", "white"] = "edge"
    smallest_area: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.crop_px <= self.resize_px:
            raise ValueError(
                f"crop_px {self.crop_px} is not between 1 and resize_px {self.resize_px}; a crop is part of the image"
            )
        for name in ("zoom", "rotate_degrees", "translate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} is negative; it is a largest size, and 0 turns it off")
        if self.smallest_area is not None and not 0 < self.smallest_area <= 1:
            raise ValueError(f"smallest_area {self.smallest_area} is not between 0 and 1; 0.05 is Inception's")
        if self.smallest_area is not None and (self.zoom or self.rotate_degrees or self.translate):
            raise ValueError("the Inception crop (smallest_area) takes the place of zoom, rotate_degrees and translate")

    @property
    def prepared_bytes(self) -> int | None:
        """The size of a prepared image; None where it depends on the image."""
        return 3 * self.resize_px**2 if self.smallest_area is None else None

    def prepare(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H2 W2 3"]:
        """What comes before everything random; `train` takes an image before it or behind it."""
        return image if self.smallest_area is not None else resize_bilinear(image, self.resize_px, self.resize_px)

    def train(self, image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "S S 3"]:
        """The square for training; equal images and generators in equal states give equal squares."""
        if self.smallest_area is not None:
            rectangle = random_rectangle(image.shape[0], image.shape[1], self.smallest_area, rng)
            image = resize_bilinear(image[rectangle], self.crop_px, self.crop_px)
            return image[:, ::-1] if self.flip and rng.random() < 0.5 else image
        image = self.prepare(image)
        if self.zoom or self.rotate_degrees or self.translate:
            image = self._warp(image, rng)
        offsets = self.resize_px - self.crop_px + 1
        if offsets > 1:
            image = crop(image, int(rng.integers(offsets)), int(rng.integers(offsets)), self.crop_px)
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return image

    def evaluate(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
        """The central square (offset 28 of 346 px for 289 px)."""
        return central_crop(resize_bilinear(image, self.resize_px, self.resize_px), self.crop_px)

    def _warp(self, image: UInt8[np.ndarray, "S S 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "S S 3"]:
        side = image.shape[0]
        zoom, angle, right, down = rng.uniform(-1.0, 1.0, 4)  # always four draws, so the fields do not disturb another
        scale = math.exp(zoom * math.log1p(self.zoom))
        centre = (side - 1) / 2
        matrix = cv2.getRotationMatrix2D((centre, centre), angle * self.rotate_degrees, scale)
        matrix[:, 2] += np.array([right, down]) * self.translate * side
        border = cv2.BORDER_REPLICATE if self.border == "edge" else cv2.BORDER_CONSTANT
        return cv2.warpAffine(
            image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=(255, 255, 255)
        )


def _neighbours(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source pixels between whose centres each result pixel lies, and how far from the first to the second."""
    scale = np.float32(size_in) / np.float32(size_out)
    half = np.float32(0.5)
    centres = (np.arange(size_out, dtype=np.float32) + half) * scale - half
    below = np.floor(centres)
    first = np.maximum(below.astype(np.int64), 0)
    second = np.minimum(np.ceil(centres).astype(np.int64), size_in - 1)
    return first, second, centres - below


def _between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`first + (second - first) * share`, in the memory of `second`."""
    second -= first
    second *= share
    second += first
    return second


def _decode_with_opencv(encoded: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        return None


def _bgr_to_rgb(image: np.ndarray) -> UInt8[np.ndarray, "H W 3"] | None:
    """OpenCV's unchanged channels (grey, BGR or BGRA, 8 or 16 bits) as RGB; None for anything else."""
    if image.dtype == np.uint16:
        image = _sixteen_to_eight_bits(image)
    if image.dtype != np.uint8:
        return None
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if image.shape[2] == 4:
        return _on_white(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA))
    return None


def _on_white(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    if rgba[..., 3].min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    colour, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _sixteen_to_eight_bits(image: np.ndarray) -> np.ndarray:
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def refuse_bomb(size: tuple[int, int] | None) -> None:
    """Refuses an image that is larger than `MAX_IMAGE_PIXELS`, before it is decoded.

    Raises:
      ImageDecodeError: if it is.
    """
    if size is not None and size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise ImageDecodeError(
            f"{size[0]} x {size[1]} pixels are more than the limit of {MAX_IMAGE_PIXELS}; make the image smaller"
        )


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height from the frame header, or None where there is none to be found."""
    position = 2
    while position + 9 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker in _JPEG_FRAME_MARKERS:
            height, width = struct.unpack(">HH", encoded[position + 5 : position + 9])
            return width, height
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _JPEG_BARE_MARKERS:
            position += 2
        else:
            position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return None
