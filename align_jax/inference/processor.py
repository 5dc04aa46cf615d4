"""`AlignProcessor`: the one of `transformers`, on Pillow, with the released settings where a folder has none."""

import logging
from pathlib import Path
from typing import Any, Self

# `transformers` says on import that it found no torch. That is as it should be here: its processors need none.
logging.getLogger("transformers").addFilter(lambda record: "PyTorch was not found" not in record.getMessage())

import transformers  # noqa: E402  (after the filter)
from transformers.models.efficientnet.image_processing_pil_efficientnet import (  # noqa: E402
    EfficientNetImageProcessorPil,
)

_SETTINGS_FILES = ("processor_config.json", "preprocessor_config.json")


class AlignProcessor(transformers.AlignProcessor):
    """Texts and images to the models' inputs; a call takes and gives what it does in `transformers`.

        processor = AlignProcessor.from_pretrained("kakaobrain/align-base")
        inputs = processor(text=["a cat", "a dog"], images=image, return_tensors="np")

    Texts are padded to 64 tokens and not truncated; `truncation=True` cuts them. It differs from its base class in two
    things only. Images are resized by Pillow even where torchvision is installed, whose antialiasing gives other
    pixels, and without which the base class could not be had. And settings that are not given are those of the
    released model, where the class of `transformers` has defaults for a classifier: 346 px bilinear, the central
    289 px, levels divided by 127.5, minus one.

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
                without either of the latter two, the released settings count.
            options: of `from_pretrained` in `transformers`, such as `revision`.
        """
        folder = Path(source)
        if folder.is_dir() and not any((folder / name).is_file() for name in _SETTINGS_FILES):
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
