"""A tiny PyTorch ALIGN whose activations are of order one, and folders as `transformers` writes them."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

from align_jax import AlignConfig
from align_jax.conversion import align
from align_jax.conversion.rules import to_flax

TOLERANCE = 1e-5  # of the largest absolute value of each compared array
CONFIG = AlignConfig.tiny(temperature_init_value=0.7)
WORDS = ["a", "an", "cat", "dog", "photo", "image", "of", "##s", "the", "on", "mat"]


@functools.cache
def reference_model() -> transformers.AlignModel:
    """In evaluation mode; with its own initialisation nearly every activation would be zero."""
    model = transformers.AlignModel(transformers.AlignConfig.from_dict(CONFIG.to_dict()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.ndim > 1:
                fan_in = 1 if "_embeddings" in name else math.prod(parameter.shape[1:])
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.momentum = 1.0  # one batch makes the running statistics
        model.train().vision_model(torch.from_numpy(images(16)))
    return model.eval()


@functools.cache
def reference_variables() -> dict[str, Any]:
    """The reference's weights, as ours."""
    weights = {name: tensor.numpy() for name, tensor in reference_model().state_dict().items()}
    return to_flax(weights, align.TABLE, align.abstract_variables(CONFIG))


def images(count: int, side_px: int = 32) -> np.ndarray:
    return np.random.default_rng(count).uniform(-1, 1, (count, 3, side_px, side_px)).astype(np.float32)


def texts(*lengths: int) -> dict[str, np.ndarray]:
    """Texts of these lengths, padded."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(1).integers(1, CONFIG.text_config.vocab_size, mask.shape)
    return {"input_ids": ids * mask, "attention_mask": mask}


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values.copy()) for name, values in inputs.items()}


def write_folder(folder: Path) -> Path:
    """A whole ALIGN model: weights, tokenizer and image settings (36 px, of which the middle 32)."""
    reference_model().save_pretrained(folder)
    write_processor(folder)
    return folder


def write_processor(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    settings: dict[str, Any] = {
        "size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True,
        "resample": 2, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False, "include_top": False,
    }  # fmt: skip
    processor = transformers.AlignProcessor(
        EfficientNetImageProcessorPil(**settings), transformers.BertTokenizer.from_pretrained(folder)
    )
    processor.save_pretrained(folder)


def assert_same(ours: Any, theirs: Any, where: str = "output") -> None:
    """Equal structure, and numbers within the tolerance: outputs, tuples and arrays of any kind."""
    if hasattr(theirs, "keys"):
        assert list(ours.keys()) == list(theirs.keys()), where
        for name in theirs:
            assert_same(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, tuple):
        assert isinstance(ours, tuple), where
        assert len(ours) == len(theirs), where
        for index, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, reference, f"{where}[{index}]")
    else:
        mine, reference = np.asarray(ours), np.asarray(theirs.detach() if torch.is_tensor(theirs) else theirs)
        assert (mine.shape, mine.dtype) == (reference.shape, reference.dtype), where
        scale = np.max(np.abs(reference))
        assert scale > 1e-3, f"{where}: {scale} is too small to compare with"
        assert np.max(np.abs(mine - reference)) <= TOLERANCE * scale, where
