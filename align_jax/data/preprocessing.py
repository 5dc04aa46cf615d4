"""From any image to what the image tower reads: one set of settings, stored beside the model.

The settings are those of `transformers`' `preprocessor_config.json`, which its image processors load too, and one more,
`resize_mode`:

    hf   Pillow's resize as in `transformers`, antialiased and rounded to uint8: equal to its Pillow processors in every
         bit. The released checkpoint is used this way, and a file without the key means it.
    tf   `tf.image.resize` as in the released trainer, neither antialiased nor rounded: what a model saw in training.

They differ where an image shrinks. On the photographs "astronaut", "coffee" and "rocket" of scikit-image (512 x 512,
600 x 400 and 640 x 427 px, to 346 px) they are up to 0.59 apart on the scale from -1 to 1, and 0.01 on average.
Training here (`ImageTransform`) rounds what "tf" does not, and with OpenCV's weights of 11 bits: it is up to 0.0060
(0.76 of a level) away, 0.002 on average.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from jaxtyping import Float32
from PIL import Image

from align_jax.data.images import (
    Pixels,
    Square,
    central_crop,
    decode_image,
    pillow_pixels,
    resize_bilinear_float,
    resize_pillow,
)
from align_jax.files import replace_file
from align_jax.json_config import ConfigurationError

ResizeMode = Literal["hf", "tf"]
ImageProcessorType = Literal["EfficientNetImageProcessor", "ViTImageProcessor"]

PREPROCESSOR_FILE = "preprocessor_config.json"
_PROCESSOR_FILE = "processor_config.json"  # of `transformers` 5; it may hold the object above, and then comes first
_BILINEAR = 2  # Pillow's number

# What a file means that leaves a field out. EfficientNet's resampling is not here: releases 4 and 5 disagree about it.
_DEFAULTS: dict[str, Any] = {
    "do_resize": True, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "rescale_offset": False,
    "do_normalize": True, "image_mean": 0.5, "image_std": 0.5, "do_pad": False, "resize_mode": "hf",
}  # fmt: skip
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "EfficientNetImageProcessor": {"size": 346, "crop_size": 289, "resample": None, "include_top": True},
    "ViTImageProcessor": {"size": 224, "crop_size": None, "resample": _BILINEAR, "include_top": False},
}
# They say nothing about the pixels of an RGB image.
_GENERAL_FIELDS = frozenset({
    "_valid_processor_keys", "auto_map", "data_format", "default_to_square", "device", "disable_grouping",
    "do_convert_rgb", "feature_extractor_type", "image_processor_type", "input_data_format", "model_input_names",
    "processor_class", "return_tensors",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The image processor of a model; the defaults are those of the released checkpoint.

        preprocessing = Preprocessing.from_folder(folder)
        pixels = preprocessing(Path("cat.jpg").read_bytes())  # float32 [289 289 3], from -1 to 1

    Attributes:
        mode: how an image is resized, see above.
        resize_px: both sides after the resize; the aspect ratio is not kept.
        crop_px: both sides of the square that is then cut from the middle; `None` keeps everything.
        resample: of "hf", a `PIL.Image.Resampling`: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
        rescale_factor: multiplies the levels 0 … 255.
        rescale_offset: then one is subtracted.
        do_normalize: then `image_mean` is subtracted, and the result divided by `image_std`.
        include_top: then divides by `image_std` (again), as the EfficientNet classifiers of `transformers` want it.
        image_mean: of red, green and blue.
        image_std: of red, green and blue.
        image_processor_type: the class of `transformers` that the file names.
    """

    mode: ResizeMode
    resize_px: int = 346
    crop_px: int | None = 289
    resample: int = _BILINEAR
    rescale_factor: float = 1 / 127.5
    rescale_offset: bool = True
    do_normalize: bool = False
    include_top: bool = False
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_processor_type: ImageProcessorType = "EfficientNetImageProcessor"

    def __post_init__(self) -> None:
        if self.resize_px < 1:
            raise ConfigurationError(f"resize_px {self.resize_px} is not positive; use 1 or more")
        if self.crop_px is not None and not 1 <= self.crop_px <= self.resize_px:
            raise ConfigurationError(
                f"crop_px {self.crop_px} is not between 1 and resize_px {self.resize_px}; a crop is part of the image"
            )
        if self.mode == "tf" and self.resample != _BILINEAR:
            raise ConfigurationError(
                f"resize_mode 'tf' is bilinear, but resample is {self.resample}; set it to {_BILINEAR}, or use 'hf'"
            )
        if self.image_processor_type == "ViTImageProcessor" and (self.rescale_offset or self.include_top):
            raise ConfigurationError("ViTImageProcessor has neither rescale_offset nor include_top; make both false")
        if 0 in self.image_std:
            raise ConfigurationError(f"image_std {self.image_std} holds a zero, and pixels are divided by it")

    @property
    def size_px(self) -> int:
        """Both sides of the result."""
        return self.resize_px if self.crop_px is None else self.crop_px

    def __call__(self, image: bytes | Image.Image | np.ndarray) -> Float32[np.ndarray, "S S 3"]:
        """The tower's input.

        Args:
            image: a whole image file; an image of Pillow in any mode; or uint8 RGB pixels [H W 3]. Transparency, grey
                and orientation are treated as `decode_image` does.

        Raises:
            ImageDecodeError: if the bytes are not a whole image.
            ValueError: if the array is not uint8 [H W 3].
        """
        return self.scale(self.square(image))

    def batch(self, images: Iterable[bytes | Image.Image | np.ndarray]) -> Float32[np.ndarray, "B S S 3"]:
        """The tower's input for several images."""
        squares = [self(image) for image in images]
        return np.stack(squares) if squares else np.empty((0, self.size_px, self.size_px, 3), np.float32)

    def square(self, image: bytes | Image.Image | np.ndarray) -> Square:
        """Resized and cropped, with levels 0 … 255: uint8 in mode "hf", float32 in mode "tf"."""
        pixels = _pixels(image)
        if self.mode == "hf":
            resized = resize_pillow(pixels, self.resize_px, self.resize_px, self.resample)
        else:
            resized = resize_bilinear_float(pixels, self.resize_px, self.resize_px)
        return resized if self.crop_px is None else central_crop(resized, self.crop_px)

    def scale(self, square: Square) -> Float32[np.ndarray, "S S 3"]:
        """Levels 0 … 255 to the tower's scale, in the order and the precision of `transformers`."""
        scaled = (square.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.rescale_offset:
            scaled -= 1
        mean, std = (np.array(colour, np.float32) for colour in (self.image_mean, self.image_std))
        if self.do_normalize:
            scaled = (scaled - mean) / std
        if self.include_top:
            scaled = scaled / std
        return scaled

    def levels_to_scale(self) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
        """A factor and an offset for each colour: `levels * factor + offset` is `scale(levels)` but for rounding."""
        factor, offset = np.full(3, self.rescale_factor), np.full(3, -1.0 if self.rescale_offset else 0.0)
        if self.do_normalize:
            factor, offset = factor / self.image_std, (offset - self.image_mean) / self.image_std
        if self.include_top:
            factor, offset = factor / self.image_std, offset / self.image_std
        return factor.astype(np.float32), offset.astype(np.float32)

    def scale_batch(self, levels: Any) -> Any:
        """Levels [B S S 3] to float32 on the tower's scale, but for rounding as `scale`; for programs of JAX too."""
        factor, offset = (numbers[None, None, None, :] for numbers in self.levels_to_scale())
        return levels.astype(np.float32) * factor + offset

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Reads the settings of a model folder.

        Raises:
            FileNotFoundError: if it holds none.
            ConfigurationError: as `from_dict`, or if the file is not JSON.
        """
        paths = [Path(folder) / _PROCESSOR_FILE, Path(folder) / PREPROCESSOR_FILE]
        for path in filter(Path.is_file, paths):
            values = _read_object(path)
            values = values.get("image_processor") if path.name == _PROCESSOR_FILE else values
            if isinstance(values, dict):
                return cls.from_dict(values)
        raise FileNotFoundError(f"{folder} holds no {PREPROCESSOR_FILE}; copy it from where the model came from")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the object of a `preprocessor_config.json`.

        A field that is absent, or null, means what it means to the class of `transformers` that the object names.

        Raises:
            ConfigurationError: if fields are unknown (all are named), or ask for what this class does not do.
        """
        given = {field: value for field, value in values.items() if value is not None}
        name = _class_name(given)
        settings = _DEFAULTS | _CLASS_DEFAULTS[name] | given
        if unknown := sorted(given.keys() - _DEFAULTS.keys() - _CLASS_DEFAULTS[name].keys() - _GENERAL_FIELDS):
            raise ConfigurationError(f"{name} has fields that are not supported: {', '.join(unknown)}; remove them")
        for field in ("do_resize", "do_pad"):
            if settings[field] != _DEFAULTS[field]:
                raise ConfigurationError(f"{name} is supported only with {field} {json.dumps(_DEFAULTS[field])}")
        rescaled = _boolean(settings, "do_rescale")
        return cls(
            mode=_choice(settings, "resize_mode", get_args(ResizeMode)),
            resize_px=_side(settings, "size"),
            crop_px=_side(settings, "crop_size") if _boolean(settings, "do_center_crop") else None,
            resample=_choice(settings, "resample", tuple(map(int, Image.Resampling))),
            rescale_factor=_number(settings, "rescale_factor") if rescaled else 1.0,
            rescale_offset=_boolean(settings, "rescale_offset") and rescaled,
            do_normalize=_boolean(settings, "do_normalize"),
            include_top=_boolean(settings, "include_top"),
            image_mean=_colour(settings, "image_mean"),
            image_std=_colour(settings, "image_std"),
            image_processor_type=name,
        )

    def to_dict(self) -> dict[str, Any]:
        """The object of a `preprocessor_config.json`."""
        values: dict[str, Any] = {
            "image_processor_type": self.image_processor_type,
            "do_resize": True,
            "size": {"height": self.resize_px, "width": self.resize_px},
            "resample": self.resample,
            "resize_mode": self.mode,
            "do_center_crop": self.crop_px is not None,
            "do_rescale": True,
            "rescale_factor": self.rescale_factor,
            "do_normalize": self.do_normalize,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
        }
        if self.crop_px is not None:
            values["crop_size"] = {"height": self.crop_px, "width": self.crop_px}
        if self.image_processor_type == "EfficientNetImageProcessor":
            values["processor_class"] = "AlignProcessor"
            values |= {"rescale_offset": self.rescale_offset, "include_top": self.include_top}
        return values

    def to_folder(self, folder: str | Path) -> None:
        """Writes `preprocessor_config.json`; `transformers` reads it as mode "hf", and keeps the mode when it saves."""
        content = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        replace_file(Path(folder) / PREPROCESSOR_FILE, content.encode())


def _pixels(image: bytes | Image.Image | np.ndarray) -> Pixels:
    if isinstance(image, bytes):
        return decode_image(image)
    if isinstance(image, Image.Image):
        return pillow_pixels(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"an array of shape {image.shape} and type {image.dtype} is not RGB pixels [height width 3] of type uint8; "
            "give those, an image of Pillow, or the bytes of an image file"
        )
    return image


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds a JSON {type(values).__name__}, not an object")
    return values


def _class_name(values: Mapping[str, Any]) -> ImageProcessorType:
    """The processor's class without what says how it is implemented: …ImageProcessorFast, …FeatureExtractor."""
    found = str(values.get("image_processor_type", values.get("feature_extractor_type")))
    bare = found.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    for name in get_args(ImageProcessorType):
        if name == bare:
            return name
    raise ConfigurationError(f"image_processor_type {found} is not supported; use one of {', '.join(_CLASS_DEFAULTS)}")


def _boolean(settings: Mapping[str, Any], field: str) -> bool:
    return _choice(settings, field, (True, False))


def _choice(settings: Mapping[str, Any], field: str, choices: tuple[Any, ...]) -> Any:
    value = settings[field]
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise ConfigurationError(f"the image processor's {field} is {json.dumps(value)}; make it one of {choices}")
    return value


def _number(settings: Mapping[str, Any], field: str) -> float:
    value = settings[field]
    if not _is_number(value):
        raise ConfigurationError(f"the image processor's {field} is {value!r}, not a finite number")
    return float(value)


def _side(settings: Mapping[str, Any], field: str) -> int:
    """A square's side, from a number or from {"height": …, "width": …}."""
    value = settings[field]
    height, width = (value.get("height"), value.get("width")) if isinstance(value, dict) else (value, value)
    if type(height) is not int or height != width or (isinstance(value, dict) and len(value) != 2):
        raise ConfigurationError(
            f"the image processor's {field} is {json.dumps(value)}; only squares are supported, "
            'such as {"height": 289, "width": 289}'
        )
    return height


def _colour(settings: Mapping[str, Any], field: str) -> tuple[float, float, float]:
    value = settings[field]
    channels = value if isinstance(value, list | tuple) else [value] * 3
    if len(channels) != 3 or not all(map(_is_number, channels)):
        raise ConfigurationError(f"the image processor's {field} is {value!r}; make it one number, or three")
    red, green, blue = map(float, channels)
    return red, green, blue


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
