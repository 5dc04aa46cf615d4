"""Decode, resize and crop on this machine: ours beside Pillow, OpenCV and, where it is installed, TensorFlow's tf.data.

JPEG files in memory become squares of 289 px by way of 346 px. Every variant takes a thread for each core. The input of
training does more than the others: from a prepared data set in a shuffled order to batches, with random crops, flips,
and the tokens of a caption.

    python benchmarks/preprocessing.py --images 512
"""

import argparse
import importlib
import importlib.util
import io
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from align_jax.data.builders.captioned_images import CaptionedImages, prepare
from align_jax.data.captions import find_captioned_files
from align_jax.data.images import ImageTransform, central_crop, decode_image
from align_jax.data.pairs import PairBatching, PairData
from align_jax.data.preprocessing import Preprocessing
from align_jax.data.quarantine import Quarantine
from align_jax.data.records import PairDataset
from align_jax.data.text import Tokenizer
from align_jax.inference.prefetch import image_batches

RESIZE_PX, CROP_PX = 346, 289
BATCH_SIZE = 32
SIZES = {"300 x 300": (300, 300), "400 x 400": (400, 400), "640 x 480": (640, 480), "1280 x 960": (1280, 960)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        columns = [
            variants(jpegs(*size, arguments.images), arguments.threads, Path(folder) / str(number))
            for number, size in enumerate(SIZES.values())
        ]
        print(f"\n{arguments.threads} core(s), images/s\n")
        print("| variant | " + " | ".join(SIZES) + " |\n|---|" + "---|" * len(SIZES))
        for name in columns[0]:
            cells = [f"{arguments.images / fastest(column[name], arguments.repeats):.0f}" for column in columns]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if importlib.util.find_spec("tensorflow") is None:
        print("| tf.data | " + "not run: tensorflow is not installed |" + " |" * (len(SIZES) - 1))


def variants(files: list[bytes], threads: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """What turns all files into squares, by name."""
    pool = ThreadPoolExecutor(threads)

    def in_threads(function: Callable[[bytes], np.ndarray]) -> Callable[[], Any]:
        return lambda: [None for _ in pool.map(function, files)]

    def batches() -> None:
        for _ in image_batches(enumerate(files), Preprocessing(mode="hf"), range(BATCH_SIZE), BATCH_SIZE):
            pass

    transform = ImageTransform(RESIZE_PX, CROP_PX)
    found: dict[str, Callable[[], Any]] = {
        'ours, resize "hf" (batches ready for the device)': batches,
        'ours, resize "tf"': in_threads(Preprocessing(mode="tf").square),
        "ours, input of training, and tokens": training_input(files, folder),
        "ours, training's evaluation": in_threads(lambda encoded: transform.evaluate(decode_image(encoded))),
        "Pillow": in_threads(with_pillow),
        "OpenCV": in_threads(with_opencv),
    }
    if importlib.util.find_spec("tensorflow") is not None:
        found["tf.data"] = with_tensorflow(files)
    return found


def training_input(files: list[bytes], folder: Path) -> Callable[[], Any]:
    """The loader of `configs/align_b7_base_coyo.py`, which prepares batches ahead."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number, encoded in enumerate(files):
        (pictures / f"{number:05d}.jpg").write_bytes(encoded)
        (pictures / f"{number:05d}.txt").write_text(f"a picture of noise, the {number} of many\n")
    prepare(CaptionedImages("pictures", find_captioned_files(pictures), folder))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of", "noise", "the", "many", ","]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    data = PairData(
        train=PairDataset("pictures", "train", str(folder)),
        tokenizer=str(folder),
        transform=ImageTransform(RESIZE_PX, CROP_PX, flip=True),
    )
    batching = PairBatching(Tokenizer(folder), data.text_length)
    stream = data.loader(batching, Quarantine(folder / "bad.jsonl", 0), batch_size=BATCH_SIZE, seed=0).iterate()
    return lambda: [next(stream) for _ in range(len(files) // BATCH_SIZE)]


def with_pillow(encoded: bytes) -> np.ndarray:
    """Antialiased, as in `transformers`."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    return central_crop(np.asarray(image.resize((RESIZE_PX, RESIZE_PX), Image.Resampling.BILINEAR)), CROP_PX)


def with_opencv(encoded: bytes) -> np.ndarray:
    """Not antialiased."""
    image: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    return central_crop(cv2.resize(image, (RESIZE_PX, RESIZE_PX)), CROP_PX)


def with_tensorflow(files: list[bytes]) -> Callable[[], Any]:
    """Not antialiased, as in the released trainer."""
    tf: Any = importlib.import_module("tensorflow")

    def square(encoded: Any) -> Any:
        image = tf.image.resize(tf.io.decode_jpeg(encoded, channels=3), (RESIZE_PX, RESIZE_PX))
        offset = (RESIZE_PX - CROP_PX) // 2
        return image[offset : offset + CROP_PX, offset : offset + CROP_PX]

    data = tf.data.Dataset.from_tensor_slices(files).map(square, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH_SIZE)
    return lambda: [None for _ in data]


def jpegs(width: int, height: int, count: int) -> list[bytes]:
    """Files of smooth random pictures with some noise, about as large as photographs."""
    rng, files = np.random.default_rng(0), []
    for _ in range(min(count, 32)):
        rough = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        smooth = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.integers(-8, 9, smooth.shape, np.int16), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return [files[number % len(files)] for number in range(count)]


def fastest(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest run, after one that is not timed."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
