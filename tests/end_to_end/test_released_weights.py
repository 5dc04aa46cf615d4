"""The published values, from the published weights.

Skipped unless ALIGN_JAX_NETWORK=1, which allows the weights (0.7 GB) and two pictures to be downloaded:

    ALIGN_JAX_NETWORK=1 python -m pytest -n 0 -m network

The values for the cats are those of the integration test of `transformers`, those for the parrots of Kakao Brain's
announcement of the release.
"""

import io
import os
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

from align_jax import AlignModel, AlignProcessor

MODEL = "kakaobrain/align-base"
CATS = "http://images.cocodataset.org/val2017/000000039769.jpg"
PARROTS = "https://huggingface.co/datasets/mishig/sample_images/resolve/main/parrots.png"
ALLOWED = os.environ.get("ALIGN_JAX_NETWORK") == "1"

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(not ALLOWED, reason=f"downloads {MODEL}; set ALIGN_JAX_NETWORK=1 to allow it"),
]


@pytest.fixture(scope="module")
def model() -> AlignModel:
    return AlignModel.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def processor() -> AlignProcessor:
    return AlignProcessor.from_pretrained(MODEL)


def picture(url: str) -> Image.Image:
    with urllib.request.urlopen(url, timeout=60) as response:
        return Image.open(io.BytesIO(response.read())).convert("RGB")


def test_cats(model, processor):
    texts = ["a photo of a cat", "a photo of a dog"]
    outputs = model(**processor(text=texts, images=picture(CATS), return_tensors="np"))
    np.testing.assert_allclose(outputs.logits_per_image, [[9.7093, 3.4679]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "published"),
    [
        (("animals", "humans", "landscape"), (0.92637, 0.07164, 0.00199)),
        (("black and white", "photorealist", "painting"), (0.97353, 0.02549, 0.00098)),
    ],
)
def test_parrots(model, processor, labels, published):
    texts = [f"This is a photo of {label}." for label in labels]
    outputs = model(**processor(text=texts, images=picture(PARROTS), return_tensors="np"))
    # Sorted: the announcement lists values by rank.
    probabilities = np.sort(jax.nn.softmax(outputs.logits_per_image, axis=1)[0])[::-1]
    np.testing.assert_allclose(probabilities, sorted(published, reverse=True), atol=2e-3)
