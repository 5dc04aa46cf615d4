"""Classes by their names: ALIGN compares an image with one sentence for each label."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from align_jax.inference.embedder import Embedder
from align_jax.inference.pipelines.base import ImagePipeline, Prediction, Refuse
from align_jax.inference.pipelines.download import Urls

HYPOTHESIS_TEMPLATE = "This is a photo of {}."


class ZeroShotImageClassificationPipeline(ImagePipeline):
    """That of `transformers`: a softmax over the labels of cosines divided by the temperature.

        classify = pipeline("zero-shot-image-classification", model="kakaobrain/align-base")
        classify("cat.jpg", candidate_labels=["cat", "dog"])    # [{"score": 0.98, "label": "cat"}, …]

    Args:
        embedder: the model.
        hypothesis_template: the sentence, with {} where a label goes.
        candidate_labels: of calls that name none.
        batch_size: see `ImagePipeline`.
        urls: see `ImagePipeline`.
        timeout: see `ImagePipeline`.
        refuse: see `ImagePipeline`.
    """

    task: ClassVar[str] = "zero-shot-image-classification"

    def __init__(
        self,
        embedder: Embedder,
        *,
        hypothesis_template: str = HYPOTHESIS_TEMPLATE,
        candidate_labels: Sequence[str] | None = None,
        batch_size: int = 1,
        urls: Urls = "refuse",
        timeout: float | None = None,
        refuse: Refuse | None = None,
    ):
        super().__init__(batch_size, urls, timeout, refuse)
        self.embedder = embedder
        self._template, self._labels = hypothesis_template, candidate_labels
        self._last: tuple[list[str], Float[np.ndarray, "K D"]] | None = None

    def __call__(
        self,
        image: Any = None,
        candidate_labels: Sequence[str] | None = None,
        *,
        hypothesis_template: str | None = None,
        batch_size: int | None = None,
        timeout: float | None = None,
        images: Any = None,
        num_workers: int | None = None,
    ) -> Any:
        """Classifies one image or several.

        Args:
            image: one, in any form that `align_jax.inference.pipelines.images` lists; a list of them; or a generator,
                which is read as the result is consumed.
            candidate_labels: names of the classes.
            hypothesis_template: in place of that of the pipeline.
            batch_size: in place of that of the pipeline.
            timeout: in place of that of the pipeline.
            images: another name for `image`.
            num_workers: has no effect; images are read by threads.

        Returns:
            `[{"score": …, "label": …}, …]`, one for each label and the best first; a list of such lists for several
            images; a generator of them for a generator.

        Raises:
            ValueError: if images or labels are missing, or an image cannot be read.
            TypeError: if an image is nothing that could be one.
        """
        del num_workers
        image = images if image is None else image
        if image is None:
            raise ValueError("there is no image to classify; give one, or a list of them")
        labels = _checked(self._labels if candidate_labels is None else candidate_labels)
        classes = self._embed(labels, self._template if hypothesis_template is None else hypothesis_template)

        def classify(pixels: list[UInt8[np.ndarray, "_ _ 3"]]) -> list[list[Prediction]]:
            logits = self.embedder.images(pixels) @ classes.T / self.embedder.temperature
            return [_ranked(row, labels) for row in logits]

        return self._run(image, classify, batch_size, timeout)

    def _embed(self, labels: list[str], template: str) -> Float[np.ndarray, "K D"]:
        """Embeddings of the labels' sentences; those of the last call are kept, since calls often repeat them."""
        try:
            sentences = [template.format(label) for label in labels]
        except (IndexError, KeyError, ValueError):
            sentences = []
        if not sentences or (len(set(labels)) > 1 and len(set(sentences)) == 1):
            raise ValueError(f"hypothesis_template {template!r} has no place for the label; put {{}} where it goes")
        if self._last is None or self._last[0] != sentences:
            self._last = sentences, self.embedder.texts(sentences)
        return self._last[1]


def _checked(labels: Iterable[str] | None) -> list[str]:
    if labels is None:
        raise ValueError("there are no candidate_labels; give a list of names")
    if isinstance(labels, str):
        raise ValueError(f"candidate_labels {labels!r} is one text; give a list of names, such as {labels.split(',')}")
    listed = list(labels)
    if not listed:
        raise ValueError("candidate_labels is empty; give at least one name")
    return listed


def _ranked(logits: Float[np.ndarray, "K"], labels: list[str]) -> list[Prediction]:
    """Labels with their share of the softmax, the largest first; among equals, in the order they were given."""
    exponentials = np.exp(logits - logits.max())
    scores = (exponentials / exponentials.sum()).tolist()
    pairs = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])
    return [{"score": score, "label": label} for score, label in pairs]
