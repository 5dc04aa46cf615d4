"""Picks what a report shows of an evaluation: the same in every run, spread over what was held out."""

import numpy as np
from jaxtyping import Int

from align_jax.evaluation.retrieval import nearest
from align_jax.training.evaluations import ClassificationOutcome, RetrievalOutcome
from align_jax.training.report import ImageQuery, RetrievedImage, RetrievedText, TextQuery, ZeroShotExample

QUERIES = 24
RETRIEVED = 5
ZERO_SHOT_EXAMPLES = 8
ZERO_SHOT_LABELS = 5


def image_queries(outcome: RetrievalOutcome) -> list[ImageQuery]:
    """Captions found for held-out pictures."""
    ids, embedded = _shown(outcome, QUERIES), outcome.embedded
    found, scores = nearest(embedded.images[_image_rows(outcome, ids)], embedded.texts, RETRIEVED)
    return [
        ImageQuery(
            image=outcome.records[image_id].image,
            caption=outcome.records[image_id].texts[0],
            retrieved=tuple(
                RetrievedText(outcome.texts[row], float(score), bool(embedded.text_ids[row] == image_id))
                for row, score in zip(rows, row_scores, strict=True)
            ),
        )
        for image_id, rows, row_scores in zip(ids, found, scores, strict=True)
    ]


def text_queries(outcome: RetrievalOutcome) -> list[TextQuery]:
    """Pictures found for the captions of held-out pictures."""
    ids, embedded = _shown(outcome, QUERIES), outcome.embedded
    text_rows = _text_rows(outcome, ids)
    found, scores = nearest(embedded.texts[text_rows], embedded.images, RETRIEVED)
    return [
        TextQuery(
            text=outcome.texts[text_row],
            retrieved=tuple(
                RetrievedImage(
                    image=outcome.records[found_id].image,
                    caption=outcome.records[found_id].texts[0],
                    score=float(score),
                    correct=bool(found_id == image_id),
                )
                for found_id, score in zip(embedded.image_ids[rows], row_scores, strict=True)
            ),
        )
        for image_id, text_row, rows, row_scores in zip(ids, text_rows, found, scores, strict=True)
    ]


def zero_shot(outcome: RetrievalOutcome, temperature: float) -> list[ZeroShotExample]:
    """Held-out pictures classified among their own caption and the captions most like it, the hardest there are."""
    ids, embedded = _shown(outcome, ZERO_SHOT_EXAMPLES), outcome.embedded
    own_rows = _text_rows(outcome, ids)
    candidates, _ = nearest(embedded.texts[own_rows], embedded.texts, ZERO_SHOT_LABELS)
    examples = []
    for image_id, own_row, image_row, rows in zip(ids, own_rows, _image_rows(outcome, ids), candidates, strict=True):
        logits = embedded.texts[rows] @ embedded.images[image_row] / temperature
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        examples.append(
            ZeroShotExample(
                image=outcome.records[image_id].image,
                correct=outcome.texts[own_row],
                probabilities=tuple(
                    (outcome.texts[rows[place]], float(probabilities[place]))
                    for place in np.argsort(-probabilities, kind="stable")
                ),
            )
        )
    return examples


def classified(outcome: ClassificationOutcome) -> list[ZeroShotExample]:
    """Held-out pictures and the most probable classes of each; the right one is among those shown."""
    examples = []
    for position, probabilities in zip(outcome.shown.tolist(), outcome.probabilities, strict=True):
        if not outcome.right[position]:
            continue
        correct = max(outcome.right[position], key=lambda label: float(probabilities[label]))
        best = np.argsort(-probabilities, kind="stable")[:ZERO_SHOT_LABELS].tolist()
        places = best if correct in best else [*best[:-1], correct]
        examples.append(
            ZeroShotExample(
                image=outcome.source[position].image,
                correct=outcome.class_names[correct],
                probabilities=tuple((outcome.class_names[place], float(probabilities[place])) for place in places),
            )
        )
    return examples


def _shown(outcome: RetrievalOutcome, count: int) -> Int[np.ndarray, "S"]:
    """Ids of the queries to show, evenly spread."""
    places = np.linspace(0, len(outcome.query_ids) - 1, min(count, len(outcome.query_ids)))
    return outcome.query_ids[places.astype(int)]


def _image_rows(outcome: RetrievalOutcome, ids: Int[np.ndarray, "S"]) -> Int[np.ndarray, "S"]:
    """Where the images are among the embedded ones, which leave out what does not decode."""
    return np.searchsorted(outcome.embedded.image_ids, ids)


def _text_rows(outcome: RetrievalOutcome, ids: Int[np.ndarray, "S"]) -> Int[np.ndarray, "S"]:
    """Where the images' first captions are among the embedded ones."""
    return np.searchsorted(outcome.embedded.text_ids, ids, side="left")
