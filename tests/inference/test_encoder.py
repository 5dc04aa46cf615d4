"""Embeddings depend on their own image or text alone: not on padding, batch size, position or devices."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.data.loader import EvaluationBatch
from align_jax.data.text import Tokenizer
from align_jax.inference.encoder import Encoder
from align_jax.models.align import Align
from align_jax.parallel.mesh import MeshShape

PIXELS = 9
ROWS = 21  # fills neither batches of 8 nor of 16
UNUSABLE = (0, 10, 20)  # rows whose image could not be decoded, the first and the last among them
WORDS = ("red", "green", "blue", "disc", "square", "on", "a", "big")
TOLERANCE = 1e-5  # of unit vectors; sums are ordered differently for each shape

# One block and one layer: what is tested is the batching.
VISION = AlignVisionConfig.tiny(
    image_size=PIXELS, kernel_sizes=(3,), in_channels=(32,), out_channels=(16,), strides=(2,), num_block_repeats=(1,),
    expand_ratios=(1,),
)  # fmt: skip
MODEL = Align(AlignConfig.of_towers(VISION, AlignTextConfig.tiny(num_hidden_layers=1), projection_dim=24))


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    """Drawn outside JAX, which is quicker than to compile an initialisation; running variances are positive."""
    shapes = jax.eval_shape(
        MODEL.init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, PIXELS, PIXELS, 3), np.uint8),
        jax.ShapeDtypeStruct((2, 4), np.int32),
    )
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: rng.normal(0.0, 0.5, leaf.shape).astype(np.float32), shapes)
    drawn["batch_stats"] = jax.tree.map(lambda leaf: np.abs(leaf) + np.float32(0.5), drawn["batch_stats"])
    return drawn


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)) + "\n")
    return Tokenizer(folder)


@functools.cache
def encoder(tokenizer: Tokenizer, devices: int, batch_size: int, text_length: int = 8) -> Encoder:
    mesh = MeshShape().build(jax.devices()[:devices])
    return Encoder(MODEL, mesh, tokenizer, text_length=text_length, batch_size=batch_size)


def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (ROWS, PIXELS, PIXELS, 3), np.uint8)


def captions() -> list[str]:
    """No two alike, of 1 to 9 words: the longest are cut to the 8 tokens."""
    rng = np.random.default_rng(2)
    return [" ".join(rng.choice(WORDS, size=1 + row % 9)) for row in range(ROWS)]


def batches(images: np.ndarray, batch_size: int, filling: int = 0) -> Iterator[EvaluationBatch]:
    """What `EvaluationLoader` yields, with rows of the grey `filling` where there is no image."""
    for start in range(0, len(images), batch_size):
        rows = np.full((batch_size, PIXELS, PIXELS, 3), filling, np.uint8)
        valid = np.zeros(batch_size, np.bool_)
        for row, number in enumerate(range(start, min(start + batch_size, len(images)))):
            if number not in UNUSABLE:
                rows[row], valid[row] = images[number], True
        yield EvaluationBatch(rows, valid)


@pytest.fixture(scope="module")
def one_by_one(tokenizer: Tokenizer, variables: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Every image and text through the towers by itself."""

    @jax.jit
    def towers(image: jax.Array, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        embeddings = MODEL.apply(variables, image, ids, mask)
        return embeddings.image, embeddings.text

    tokens = tokenizer.encode(captions(), 8)
    rows = [towers(image[None], ids[None], mask[None]) for image, ids, mask in zip(pictures(), *tokens, strict=True)]
    images, texts = (np.concatenate(side) for side in zip(*rows, strict=True))
    for side in (images, texts):  # else a mix-up of rows could hide in the tolerance
        distances = np.linalg.norm(side[:, None] - side[None], axis=-1) + np.eye(ROWS)
        assert distances.min() > 100 * TOLERANCE
    return images, texts


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 3), (1, 8), (2, 8), (8, 8), (8, 16)])
def test_batches_and_devices_never_change_embeddings(tokenizer, variables, one_by_one, devices, batch_size) -> None:
    embed = encoder(tokenizer, devices, batch_size)
    images, valid = embed.images(embed.prepare(variables), batches(pictures(), batch_size))
    texts = embed.texts(embed.prepare(variables), captions())
    usable = [number for number in range(ROWS) if number not in UNUSABLE]
    np.testing.assert_allclose(images[usable], one_by_one[0][usable], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(texts, one_by_one[1], rtol=0, atol=TOLERANCE)
    assert len(images) == len(valid) == -(-ROWS // batch_size) * batch_size
    np.testing.assert_array_equal(np.flatnonzero(valid), usable)
    for side in (images[valid], texts):
        np.testing.assert_allclose(np.linalg.norm(side, axis=1), 1.0, rtol=1e-5)


def test_rows_that_fill_a_batch_never_change_the_others(tokenizer, variables) -> None:
    embed = encoder(tokenizer, 8, 16)
    black, valid = embed.images(embed.prepare(variables), batches(pictures(), 16))
    white, _ = embed.images(embed.prepare(variables), batches(pictures(), 16, filling=255))
    np.testing.assert_array_equal(black[valid], white[valid])
    assert np.abs(black[~valid] - white[~valid]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("count", [1, 8, 9])
def test_texts_come_back_in_order_whatever_their_number(tokenizer, variables, one_by_one, count) -> None:
    embed = encoder(tokenizer, 8, 8)
    texts = embed.texts(embed.prepare(variables), captions()[:count])
    np.testing.assert_allclose(texts, one_by_one[1][:count], rtol=0, atol=TOLERANCE)


def test_padding_of_texts_never_changes_them(tokenizer, variables, one_by_one) -> None:
    short = [row for row, caption in enumerate(captions()) if len(caption.split()) <= 6]
    embed = encoder(tokenizer, 8, 8, text_length=13)
    longer = embed.texts(embed.prepare(variables), captions())
    np.testing.assert_allclose(longer[short], one_by_one[1][short], rtol=0, atol=TOLERANCE)


def test_batch_that_the_devices_cannot_share_is_refused(tokenizer) -> None:
    with pytest.raises(ValueError, match="batch_size 12 is not divisible by 8 devices; use 8 or 16"):
        encoder(tokenizer, 8, 12)
