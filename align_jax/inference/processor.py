"""`AlignProcessor`: the one of `transformers`, on Pillow, with the released settings where a folder has none."""

import logging
from pathlib import Path
from typing import Any, Self

import numpy as np

# `transformers` says on import that it found no torch. That is as it should be here: its processors need none.
logging.getLogger("transformers").addFilter(lambda record: "PyTorch was not found" not in record.getMessage())

import transformers  # noqa: E402  (after the filter)
from transformers.models.efficientnet import image_processing_pil_efficientnet as pillow_backend  # noqa: E402

from align_jax.conversion.hub import is_model_id  # noqa: E402
from align_jax.data.images import resize_bilinear_float  # noqa: E402
from align_jax.data.preprocessing import ResizeMode  # noqa: E402

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_SETTINGS_FILES = ("processor_config.json", "preprocessor_config.json")


class EfficientNetImageProcessorPil(pillow_backend.EfficientNetImageProcessorPil):
    """That of `transformers`, whose class it names when it is saved, with the resize that the model's folder asks for.

    `resize_mode` "hf" is its own; "tf" is what a model saw in training, see `align_jax.data.preprocessing`.
    """

    resize_mode: ResizeMode = "hf"

    def resize(
        self, image: np.ndarray, size: Any, resample: Any = None, reducing_gap: int | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Resizes pixels [3 H W]."""
        if self.resize_mode == "hf":
            return super().resize(image, size, resample, reducing_gap, **kwargs)
        resized = resize_bilinear_float(np.moveaxis(image, 0, -1), size.height, size.width)
        return np.moveaxis(resized, -1, 0)


class AlignProcessor(transformers.AlignProcessor):
    """Texts and images to the models' inputs; a call takes and gives what it does in `transformers`.

        processor = AlignProcessor.from_pretrained("kakaobrain/align-base")
        inputs = processor(text=["a cat", "a dog"], images=image, return_tensors="np")

    Texts are padded to 64 tokens and not truncated; `truncation=True` cuts them. It differs from its base class in two
    things only. Images are always resized by Pillow: `transformers` prefers torchvision where it is installed, which
    gives other pixels. And settings that are not given are the released ones (346 px bilinear, the central 289 px,
    levels divided by 127.5, minus one), where the class of `transformers` has those of a classifier.

    Args:
        image_processor: of `transformers`; the released settings when absent.
        tokenizer: of `transformers`.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None):
        super().__init__(released_image_processor() if image_processor is None else image_processor, tokenizer)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:  # pyrefly: ignore[bad-override]
        """Loads the tokenizer and the image settings of a model folder, a workdir, or an id of the Hub.

        Args:
            source: holds `vocab.txt` or `tokenizer.json`, and `preprocessor_config.json` or `processor_config.json`;
                in a folder without either of the latter two, the released settings count.
            options: of `from_pretrained` in `transformers`, such as `revision`.

        Raises:
            FileNotFoundError: if there is no such folder, or it holds no tokenizer.
        """
        folder = Path(source)
        if folder.is_dir():
            if not _has_any(folder, _TOKENIZER_FILES):
                raise FileNotFoundError(
                    f"{folder} holds no tokenizer; bring {' or '.join(_TOKENIZER_FILES)} from the model's own folder"
                )
        elif not is_model_id(str(source)):
            raise FileNotFoundError(f"{source} does not exist; give a model folder, or a model on the Hub")
        if folder.is_dir() and not _has_any(folder, _SETTINGS_FILES):
            image_processor = released_image_processor()
        else:
            image_processor = EfficientNetImageProcessorPil.from_pretrained(source, **options)
        return cls(image_processor, transformers.BertTokenizer.from_pretrained(source, **options))


def released_image_processor() -> EfficientNetImageProcessorPil:
    """The image processor of kakaobrain/align-base."""
    return EfficientNetImageProcessorPil(
        size={"height": 346, "width": 346},
        resample=2,  # bilinear, with Pillow's antialiasing
        do_center_crop=True,
        crop_size={"height": 289, "width": 289},
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
    )


def _has_any(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)
