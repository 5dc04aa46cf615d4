"""`AlignProcessor` is that of `transformers` on Pillow, pixel for pixel, with the released settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

from align_jax import AlignModel, AlignProcessor
from align_jax.data.preprocessing import Preprocessing, ResizeMode
from align_jax.data.text import Tokenizer, train_vocabulary
from align_jax.inference.processor import released_image_processor
from tests.inference.tiny_align import CONFIG, write_processor

# Of kakaobrain/align-base.
RELEASED_SETTINGS = {
    "crop_size": {"height": 289, "width": 289}, "do_center_crop": True, "do_normalize": False, "do_rescale": True,
    "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "EfficientNetImageProcessor",
    "image_std": [0.5, 0.5, 0.5], "include_top": False, "processor_class": "AlignProcessor", "resample": 2,
    "rescale_factor": 0.00784313725490196, "rescale_offset": True, "size": {"height": 346, "width": 346},
}  # fmt: skip
LABELS = ["a photo of a cat", "The dogs on the mat"]


def picture(width: int = 100, height: int = 61) -> Image.Image:
    levels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


def by_hand(image: Image.Image) -> np.ndarray:
    resized = np.asarray(image.resize((346, 346), Image.Resampling.BILINEAR), np.float32)
    return (resized[28 : 28 + 289, 28 : 28 + 289] * np.float32(1 / 127.5) - 1).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as the released model has them: a vocabulary, and the settings in a file of their own."""
    folder = tmp_path_factory.mktemp("released")
    write_processor(folder / "all")
    (folder / "vocab.txt").write_bytes((folder / "all" / "vocab.txt").read_bytes())
    (folder / "preprocessor_config.json").write_text(json.dumps(RELEASED_SETTINGS))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    return folder


@pytest.mark.parametrize("size", [(100, 61), (400, 900), (346, 346), (30, 2)])
def test_pixels_are_those_of_transformers(released: Path, size: tuple[int, int]) -> None:
    image = picture(*size)
    ours = AlignProcessor.from_pretrained(released)(images=image, return_tensors="np")["pixel_values"]
    theirs = transformers.AlignProcessor(
        EfficientNetImageProcessorPil.from_pretrained(released), transformers.BertTokenizer.from_pretrained(released)
    )(images=image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(ours, theirs)
    assert (ours.shape, ours.dtype) == ((1, 3, 289, 289), np.float32)
    np.testing.assert_allclose(ours[0], by_hand(image), atol=1e-6)


def test_texts_are_padded_to_64_and_not_truncated(released: Path) -> None:
    processor = AlignProcessor.from_pretrained(released)
    inputs = processor(text=LABELS, return_tensors="np")
    assert list(inputs) == ["input_ids", "token_type_ids", "attention_mask"]
    assert {name: values.shape for name, values in inputs.items()} == dict.fromkeys(inputs, (2, 64))
    assert inputs["attention_mask"].sum(axis=1).tolist() == [7, 8]
    long = processor(text=["cat " * 100], return_tensors="np")
    assert long["input_ids"].shape == (1, 102)
    assert processor(text=["cat " * 100], truncation=True, return_tensors="np")["input_ids"].shape == (1, 64)
    with pytest.raises(ValueError, match="the texts have 102 tokens, but the text tower has 64 positions"):
        AlignModel(CONFIG).get_text_features(**long)


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")  # the default, beside another padding
def test_images_texts_or_both(released: Path) -> None:
    processor = AlignProcessor.from_pretrained(released)
    both = processor(text=LABELS, images=[picture(), picture(80)], padding=True, return_tensors="np")
    assert list(both) == ["input_ids", "token_type_ids", "attention_mask", "pixel_values"]
    assert (both["input_ids"].shape, both["pixel_values"].shape) == ((2, 8), (2, 3, 289, 289))
    assert isinstance(processor(images=picture(), return_tensors="pt")["pixel_values"], torch.Tensor)
    with pytest.raises(ValueError, match="at least one input"):
        processor(return_tensors="np")


def test_files_of_transformers_5_are_read(released: Path, tmp_path: Path) -> None:
    processor = AlignProcessor.from_pretrained(released)
    processor.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    again = AlignProcessor.from_pretrained(tmp_path)
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    assert again(text=LABELS)["input_ids"] == processor(text=LABELS)["input_ids"]
    assert isinstance(transformers.AutoProcessor.from_pretrained(tmp_path), transformers.AlignProcessor)


def test_settings_of_a_folder_count(released: Path, tmp_path: Path) -> None:
    write_processor(tmp_path)  # 36 px, of which the middle 32
    assert AlignProcessor.from_pretrained(tmp_path)(images=picture())["pixel_values"][0].shape == (3, 32, 32)


def test_released_settings_where_there_are_none(released: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes((released / "vocab.txt").read_bytes())
    processor = AlignProcessor.from_pretrained(str(tmp_path))
    settings = processor.image_processor.to_dict()
    found = json.loads(json.dumps(settings)) | {"processor_class": "AlignProcessor"}
    assert {name: found[name] for name in RELEASED_SETTINGS} == RELEASED_SETTINGS
    np.testing.assert_allclose(processor(images=picture())["pixel_values"][0], by_hand(picture()), atol=1e-6)
    made = AlignProcessor(tokenizer=processor.tokenizer)
    assert made.image_processor.to_dict() == released_image_processor().to_dict() == settings


def test_vocabularies_trained_here_give_the_tokens_of_training(tmp_path: Path) -> None:
    train_vocabulary(["a cat on the mat", "dogs, dogs and a Cat!", "naïve café"], 60, tmp_path)
    texts = ["A cat on the café's mat.", "dogs unknown", ""]
    inputs = AlignProcessor.from_pretrained(tmp_path)(text=texts, return_tensors="np")
    input_ids, attention_mask = Tokenizer(tmp_path).encode(texts, 64)
    np.testing.assert_array_equal(inputs["input_ids"], input_ids)
    np.testing.assert_array_equal(inputs["attention_mask"], attention_mask)


@pytest.mark.parametrize("mode", ["hf", "tf"])
def test_resize_is_the_one_that_the_folder_asks_for(released: Path, tmp_path: Path, mode: ResizeMode) -> None:
    preprocessing = Preprocessing(mode, resize_px=36, crop_px=32)
    preprocessing.to_folder(tmp_path)
    (tmp_path / "vocab.txt").write_bytes((released / "vocab.txt").read_bytes())
    processor = AlignProcessor.from_pretrained(tmp_path)
    processor.save_pretrained(tmp_path / "saved")
    expected = preprocessing(picture()).transpose(2, 0, 1)[None]
    for one in (processor, AlignProcessor.from_pretrained(tmp_path / "saved")):
        pixels = one(images=picture(), return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(pixels, expected)
    other = Preprocessing("tf" if mode == "hf" else "hf", resize_px=36, crop_px=32)
    assert np.abs(other(picture()).transpose(2, 0, 1)[None] - expected).max() > 0.1


def test_missing_folders_and_tokenizers_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing does not exist; give a model folder"):
        AlignProcessor.from_pretrained(tmp_path / "nothing")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(RELEASED_SETTINGS))
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer; bring tokenizer\.json or vocab\.txt"):
        AlignProcessor.from_pretrained(tmp_path)


def test_works_and_is_quiet_without_torch(released: Path) -> None:
    program = f"""
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None  # as if they were not installed
import numpy
from align_jax import AlignProcessor
processor = AlignProcessor.from_pretrained({str(released)!r})
inputs = processor(text=["a cat"], images=numpy.zeros((50, 40, 3), numpy.uint8), return_tensors="np")
print(sorted((name, type(values).__name__) for name, values in inputs.items()))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == ""
    names = ["attention_mask", "input_ids", "pixel_values", "token_type_ids"]
    assert done.stdout.strip() == str([(name, "ndarray") for name in names])


def test_names_cost_nothing_until_they_are_used() -> None:
    program = """
import sys
import align_jax
assert set(align_jax.__all__) <= set(dir(align_jax))
print(*sorted({"jax", "numpy", "transformers", "torch"} & sys.modules.keys()))
align_jax.AlignModel
print(*sorted({"jax", "numpy", "transformers", "torch"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "jax numpy"]
