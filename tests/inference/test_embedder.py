"""Files and texts to embeddings: every image keeps its key, and only its own content decides its embedding."""

import io
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from align_jax import AlignModel, AlignProcessor
from align_jax.checkpoints import Checkpoints, Weights
from align_jax.data.images import ImageDecodeError
from align_jax.inference.digest import model_digest
from align_jax.inference.embedder import Embedder
from align_jax.inference.prefetch import Timings
from align_jax.parallel.mesh import MeshShape
from tests.inference.tiny_align import CONFIG, WORDS, reference_variables, write_folder, write_processor

TOLERANCE = 1e-5  # of unit vectors
BROKEN = (0, 5, 6, 7, 17)
COUNT = 21


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def embedder(folder) -> Embedder:
    return Embedder.from_pretrained(folder, batch_size=8)


def picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (20 + number, 40, 3), np.uint8))


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def captions() -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, size=1 + number % 30)) for number in range(COUNT)]


def test_embeddings_are_those_of_processor_and_model(embedder, folder) -> None:
    processor, model = AlignProcessor.from_pretrained(folder), AlignModel.from_pretrained(folder)
    inputs = processor(text=captions()[:4], images=[picture(n) for n in range(4)], return_tensors="np")
    outputs: Any = model(**inputs)
    images = embedder.images([picture(n) for n in range(4)])
    np.testing.assert_allclose(images, outputs.image_embeds, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(embedder.texts(captions()[:4]), outputs.text_embeds, rtol=0, atol=TOLERANCE)
    assert images.dtype == np.float32
    assert images.shape == (4, embedder.embedding_size)


def test_every_form_of_an_image_gives_the_same_embedding(embedder, tmp_path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(0))
    forms = [encoded(0), tmp_path / "0.png", picture(0), np.asarray(picture(0))]
    images = embedder.images(forms)
    np.testing.assert_array_equal(images, np.repeat(images[:1], len(forms), axis=0))


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 5), (2, 6), (8, 16)])
def test_undecodable_images_never_shift_rows(embedder, folder, devices, batch_size) -> None:
    mesh = MeshShape().build(jax.devices()[:devices])
    other = Embedder.from_pretrained(folder, batch_size=batch_size, mesh=mesh)
    alone = embedder.images([encoded(number) for number in range(COUNT)])
    items = [(f"image {n}", b"broken" if n in BROKEN else encoded(n)) for n in range(COUNT)]
    found, refused, sizes = {}, {}, []
    for keys, embeddings, reasons in other.stream_images(items):
        assert len(keys) == len(embeddings)
        sizes.append(len(keys) + len(reasons))
        found |= dict(zip(keys, embeddings, strict=True))
        refused |= dict(reasons)
    assert sizes == [batch_size] * (COUNT // batch_size) + [COUNT % batch_size]
    assert list(refused) == [f"image {n}" for n in BROKEN]
    assert all("not an image format that is known" in reason for reason in refused.values())
    whole = [n for n in range(COUNT) if n not in BROKEN]
    assert list(found) == [f"image {n}" for n in whole]
    np.testing.assert_allclose(np.stack(list(found.values())), alone[whole], rtol=0, atol=TOLERANCE)
    distances = np.linalg.norm(alone[:, None] - alone[None], axis=-1) + np.eye(COUNT)
    assert distances.min() > 10 * TOLERANCE  # else a mix-up could hide in the tolerance
    np.testing.assert_allclose(other.texts(captions()), embedder.texts(captions()), rtol=0, atol=TOLERANCE)


def test_texts_never_depend_on_their_neighbours_or_the_length_they_are_padded_to(embedder, folder) -> None:
    one_by_one = np.concatenate([embedder.texts([text]) for text in captions()])
    np.testing.assert_allclose(embedder.texts(captions()), one_by_one, rtol=0, atol=TOLERANCE)
    full = Embedder.from_pretrained(folder, batch_size=8)
    full._encoder.text_lengths = full._encoder.text_lengths[-1:]
    np.testing.assert_allclose(full.texts(captions()), one_by_one, rtol=0, atol=TOLERANCE)
    streamed = list(embedder.stream_texts(enumerate(captions() * 10)))
    assert len(streamed) > 1
    assert [key for keys, _ in streamed for key in keys] == list(range(10 * COUNT))
    rows = np.concatenate([rows for _, rows in streamed])
    np.testing.assert_allclose(rows, np.tile(one_by_one, (10, 1)), rtol=0, atol=TOLERANCE)


def test_a_broken_image_among_given_ones_is_named(embedder) -> None:
    with pytest.raises(ImageDecodeError, match=r"^image 2: not an image format that is known"):
        embedder.images([encoded(0), encoded(1), b"broken"])


def test_nothing_in_gives_nothing_out(embedder) -> None:
    assert embedder.images([]).shape == embedder.texts([]).shape == (0, embedder.embedding_size)
    assert list(embedder.stream_images([])) == list(embedder.stream_texts([])) == []
    with pytest.raises(ValueError, match=r"texts is one string, 'a cat'; give a list"):
        embedder.texts("a cat")


def test_texts_are_no_longer_than_the_model_has_positions(folder) -> None:
    positions = CONFIG.text_config.max_position_embeddings
    assert Embedder.from_pretrained(folder, batch_size=8, text_length=positions).text_length == positions
    with pytest.raises(ValueError, match=f"text_length {positions + 1} is more than the model's {positions} positions"):
        Embedder.from_pretrained(folder, batch_size=8, text_length=positions + 1)


def test_bfloat16_is_the_same_model_less_precisely(embedder, folder) -> None:
    low = Embedder.from_pretrained(folder, batch_size=8, dtype="bfloat16")
    assert low.digest == embedder.digest
    images, texts = low.images([encoded(n) for n in range(4)]), low.texts(captions())
    assert images.dtype == texts.dtype == np.float32
    for found, exact in (
        (images, embedder.images([encoded(n) for n in range(4)])),
        (texts, embedder.texts(captions())),
    ):
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
        difference = np.abs(found - exact).max()
        assert 1e-5 < difference < 0.1


def test_weights_of_a_workdir_are_the_averaged_or_the_last_ones(embedder, folder, tmp_path) -> None:
    """Averaged are those of the folder; the last ones differ in both towers."""
    averaged = reference_variables()
    last = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + np.float32(0.1) if "bias" in jax.tree_util.keystr(path) else leaf, averaged["params"]
    )
    write_processor(tmp_path)
    CONFIG.to_json(tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, jax.device_put({**averaged, "params": last, "ema_params": averaged["params"]}), {})
    choices: dict[Weights, Any] = {"ema": averaged, "raw": {**averaged, "params": last}}
    inputs = [encoded(number) for number in range(4)], captions()[:4]
    of_the_folder = embedder.images(inputs[0]), embedder.texts(inputs[1])
    for weights, variables in choices.items():
        found = Embedder.from_pretrained(tmp_path, batch_size=8, weights=weights)
        assert found.digest == model_digest(CONFIG, variables)
        for embeddings, expected in zip((found.images(inputs[0]), found.texts(inputs[1])), of_the_folder, strict=True):
            assert (np.abs(embeddings - expected).max() < TOLERANCE) == (weights == "ema")


def test_another_form_of_the_folder_is_the_same_model(embedder, folder, tmp_path) -> None:
    from align_jax.cli import main

    assert main(["convert", str(folder), str(tmp_path / "ours")]) == 0
    ours = Embedder.from_pretrained(tmp_path / "ours", batch_size=8)
    assert ours.digest == embedder.digest
    np.testing.assert_array_equal(ours.texts(captions()), embedder.texts(captions()))


def test_a_stream_that_is_left_early_leaves_no_thread(embedder) -> None:
    before = threading.active_count()
    stream = embedder.stream_images((number, encoded(number % COUNT)) for number in range(10_000))
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_an_error_of_the_source_comes_through(embedder) -> None:
    def items():
        yield 0, encoded(0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(embedder.stream_images(items()))


def test_timings_tell_what_was_waited_for(embedder) -> None:
    timings, slow = Timings(), threading.Event()

    def items():
        for number in range(16):
            slow.wait(0.05)
            yield number, encoded(number)

    list(embedder.stream_images(items(), timings))
    assert timings.inputs == 16
    assert 0.5 < timings.waiting_share <= 1.0
