"""What the pipelines have in common: one image or many, read ahead in threads, and classified in batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from align_jax.inference.pipelines.download import Urls
from align_jax.inference.pipelines.images import load_image

Prediction = dict[str, Any]
"""`{"label": str, "score": float}`."""

Classify = Callable[[list[UInt8[np.ndarray, "_ _ 3"]]], list[list[Prediction]]]
"""The predictions for each image of a batch, the best first."""

Refuse = Callable[[Any, Exception], None]
"""Is told an image that cannot be read, and why."""

_THREADS = 4


class ImagePipeline:
    """A pipeline whose input is images.

    Args:
        batch_size: images that the model takes at once.
        urls: which URLs are opened.
        timeout: seconds for the download of one image.
        refuse: is told each of several images that cannot be read, which then have `None` for predictions; where
            absent, the first of them ends the call.
    """

    task: ClassVar[str]

    def __init__(self, batch_size: int, urls: Urls, timeout: float | None, refuse: Refuse | None = None):
        self._batch_size, self._urls, self._timeout = _positive(batch_size), urls, timeout
        self._refuse = refuse

    def _run(self, images: Any, classify: Classify, batch_size: int | None, timeout: float | None) -> Any:
        """One list of predictions for one image, a list of lists for many; a generator is read as it is consumed."""
        size = self._batch_size if batch_size is None else _positive(batch_size)
        seconds = self._timeout if timeout is None else timeout

        def read(image: Any, position: int | None) -> UInt8[np.ndarray, "H W 3"]:
            try:
                return load_image(image, urls=self._urls, timeout_seconds=seconds)
            except ValueError as error:
                raise type(error)(f"{_name(image, position)}{error}") from error

        if isinstance(images, list | tuple):
            return list(_classified(images, read, classify, size, self._refuse))
        if isinstance(images, Iterator):
            return _classified(images, read, classify, size, self._refuse)
        return classify([read(images, None)])[0]


def _classified(
    images: Iterable[Any],
    read: Callable[[Any, int], np.ndarray],
    classify: Classify,
    batch_size: int,
    refuse: Refuse | None,
) -> Iterator[list[Prediction] | None]:
    """Predictions in order; while the model takes one batch, the next is read."""

    def result(image: Any, future: Future[np.ndarray]) -> np.ndarray | None:
        try:
            return future.result()
        except (ValueError, OSError) as error:
            if refuse is None:
                raise
            refuse(image, error)
            return None

    def finished(batch: list[tuple[Any, Future[np.ndarray]]]) -> Iterator[list[Prediction] | None]:
        pixels = [result(image, future) for image, future in batch]
        whole = [each for each in pixels if each is not None]
        predictions = iter(classify(whole) if whole else ())
        return (None if each is None else next(predictions) for each in pixels)

    numbered = enumerate(images)
    waiting: deque[list[tuple[Any, Future[np.ndarray]]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(numbered, batch_size)):
            waiting.append([(image, pool.submit(read, image, position)) for position, image in batch])
            if len(waiting) > 1:
                yield from finished(waiting.popleft())
        while waiting:
            yield from finished(waiting.popleft())


def _positive(batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not positive; use 1 or more")
    return batch_size


def _name(image: Any, position: int | None) -> str:
    """What an error calls an image."""
    if isinstance(image, Path) or (isinstance(image, str) and len(image) < 200):
        return "" if str(image) in ("", ".") else f"image {str(image)!r}: "
    return "" if position is None else f"image {position}: "
