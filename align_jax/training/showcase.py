"""Picks what a report shows of a retrieval: the same queries in every run, spread over the held-out pairs."""

import numpy as np
from jaxtyping import Int

from align_jax.evaluation.retrieval import nearest
from align_jax.training.evaluations import RetrievalOutcome
from align_jax.training.report import ImageQuery, RetrievedImage, RetrievedText, TextQuery, ZeroShotExample

QUERIES = 24
RETRIEVED = 5


def image_queries(outcome: RetrievalOutcome) -> list[ImageQuery]:
    """Captions found for held-out pictures."""
    ids, embedded = _shown(outcome), outcome.embedded
    found, scores = nearest(embedded.images[ids], embedded.texts, RETRIEVED)
    return [
        ImageQuery(
            image=outcome.records[image_id].image,
            caption=outcome.records[image_id].texts[0],
            retrieved=tuple(
                RetrievedText(outcome.texts[text], float(score), bool(embedded.text_ids[text] == image_id))
                for text, score in zip(texts, row, strict=True)
            ),
        )
        for image_id, texts, row in zip(ids, found, scores, strict=True)
    ]


def text_queries(outcome: RetrievalOutcome) -> list[TextQuery]:
    """Pictures found for the captions of held-out pictures."""
    ids, embedded = _shown(outcome), outcome.embedded
    text_rows = np.array([int(np.flatnonzero(embedded.text_ids == image_id)[0]) for image_id in ids])
    found, scores = nearest(embedded.texts[text_rows], embedded.images, RETRIEVED)
    return [
        TextQuery(
            text=outcome.texts[text],
            retrieved=tuple(
                RetrievedImage(
                    image=outcome.records[image].image,
                    caption=outcome.records[image].texts[0],
                    score=float(score),
                    correct=bool(image == image_id),
                )
                for image, score in zip(images, row, strict=True)
            ),
        )
        for image_id, text, images, row in zip(ids, text_rows, found, scores, strict=True)
    ]


def zero_shot(outcome: RetrievalOutcome, temperature: float, *, examples: int = 8, labels: int = 5) -> list:
    """Pictures classified among their own caption and captions drawn from the other held-out pictures."""
    rng = np.random.default_rng(0)
    ids, embedded = _shown(outcome)[:examples], outcome.embedded
    first_text = {int(image_id): row for row, image_id in reversed(list(enumerate(embedded.text_ids)))}
    shown = []
    for image_id in ids:
        others = rng.choice(np.setdiff1d(outcome.query_ids, [image_id]), labels - 1, replace=False)
        rows = [first_text[int(candidate)] for candidate in (image_id, *others)]
        logits = embedded.texts[rows] @ embedded.images[image_id] / temperature
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")
        shown.append(
            ZeroShotExample(
                image=outcome.records[image_id].image,
                correct=outcome.texts[rows[0]],
                probabilities=tuple((outcome.texts[rows[index]], float(probabilities[index])) for index in order),
            )
        )
    return shown


def _shown(outcome: RetrievalOutcome) -> Int[np.ndarray, "S"]:
    count = min(QUERIES, len(outcome.query_ids))
    return outcome.query_ids[np.linspace(0, len(outcome.query_ids) - 1, count).astype(int)]
