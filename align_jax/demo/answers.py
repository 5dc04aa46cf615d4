"""What the page answers: classes of an image, and pictures that a query finds. Knows models, not the page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from align_jax.demo.pictures import Pictures
from align_jax.demo.uploads import read_upload
from align_jax.inference.classifier import Classifier
from align_jax.inference.embedder import Embedder
from align_jax.inference.pipelines.pipeline import pipeline
from align_jax.inference.search import Index, combine

MAX_LABELS = 100
MAX_TEXT_CHARACTERS = 1000
USUAL_COUNT = 12


class QuestionError(ValueError):
    """There is nothing to answer; the message is for the visitor."""


@dataclass(frozen=True)
class Hit:
    """A picture that was found."""

    image: Image.Image | None
    caption: str
    score: float


class Answers:
    """Answers questions with the models that there are.

    Args:
        embedder: an ALIGN model.
        pictures: what is searched; nothing can be searched without them.
        classifier: an image classifier.

    Attributes:
        pictures: as given.
        has_classifier: whether images can be classified without labels.
    """

    def __init__(self, embedder: Embedder, pictures: Pictures | None = None, classifier: Classifier | None = None):
        self._embedder, self.pictures = embedder, pictures
        self._zero_shot = pipeline("zero-shot-image-classification", embedder)
        self._classifier: Any = None if classifier is None else pipeline("image-classification", classifier)
        self._index = None if pictures is None else Index(pictures.embeddings)
        self.has_classifier = classifier is not None

    def warm_up(self) -> None:
        """Compiles what a question needs, so that the first one does not wait for it."""
        size = 64
        grey = np.full((size, size, 3), 128, np.uint8)
        self._zero_shot(grey, candidate_labels=["grey", "white"])
        if self._classifier is not None:
            self._classifier(grey)
        if self._index is not None and len(self._index):
            self._index.search(self._embedder.texts(["grey"]), min(USUAL_COUNT, len(self._index)))

    def by_names(self, image: str | None, labels: str, template: str) -> dict[str, float]:
        """How well each label, of several separated by commas, fits an uploaded image; adds up to 1."""
        names = list(dict.fromkeys(name.strip() for name in _short(labels).split(",") if name.strip()))
        if not names:
            raise QuestionError("Name some classes, separated by commas.")
        if len(names) > MAX_LABELS:
            raise QuestionError(f"These are {len(names)} classes; name up to {MAX_LABELS}.")
        template = _short(template).strip() or "{}"
        if template.count("{}") != 1:
            raise QuestionError("The sentence needs {} once, where the class goes.")
        before, _, after = template.partition("{}")
        if set("{}") & set(before + after):
            raise QuestionError("The sentence has a brace besides {}; leave it out.")
        found = self._zero_shot(_pixels(image), candidate_labels=names, hypothesis_template=template)
        return {each["label"]: each["score"] for each in found}

    def by_classifier(self, image: str | None) -> dict[str, float]:
        """The five classes of the classifier that fit an uploaded image best; of two with one name, the better."""
        found = self._classifier(_pixels(image), top_k=5)
        return {each["label"]: each["score"] for each in reversed(found)}

    def search(self, text: str, image: str | None, minus: str, count: int) -> list[Hit]:
        """The pictures nearest to a text, an uploaded image, or both, and farther from a text to be subtracted."""
        if self._index is None or self.pictures is None or not len(self._index):
            raise QuestionError("There is nothing to search in.")
        texts = [_short(each).strip() for each in (text, minus)]
        if not texts[0] and image is None:
            raise QuestionError("Write what you are looking for, or give an image, or both.")
        pixels = None if image is None else _pixels(image)
        query = _query(self._embedder, texts, pixels)
        scores, positions = self._index.search(query[None], min(int(count), len(self._index)))
        return [
            Hit(self.pictures.thumbnail(position), self.pictures.captions[position], score)
            for score, position in zip(scores[0].tolist(), positions[0].tolist(), strict=True)
        ]


def _query(embedder: Embedder, texts: list[str], pixels: UInt8[np.ndarray, "H W 3"] | None) -> np.ndarray:
    text, minus = (embedder.texts([each])[0] if each else None for each in texts)
    image = None if pixels is None else embedder.images([pixels])[0]
    try:
        return combine(text, image, minus)
    except ValueError:
        raise QuestionError("What you look for and what you leave out are the same.") from None


def _pixels(image: str | None) -> UInt8[np.ndarray, "H W 3"]:
    if image is None:
        raise QuestionError("Give an image first.")
    return read_upload(Path(image))


def _short(text: str | None) -> str:
    text = text or ""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise QuestionError(f"This text has {len(text)} characters; up to {MAX_TEXT_CHARACTERS} are taken.")
    return text
