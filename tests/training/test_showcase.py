import numpy as np
import pytest

from align_jax.data.records import PairRecord
from align_jax.evaluation.retrieval import RetrievalSet
from align_jax.training.evaluations import RetrievalOutcome
from align_jax.training.showcase import image_queries, text_queries, zero_shot

RECORDS = 8


def outcome(undecodable=(), queries=4):
    """Pictures and captions that match perfectly; ids of the pictures that do not decode are missing."""
    vectors = np.eye(RECORDS, dtype=np.float32)
    image_ids = np.array([number for number in range(RECORDS) if number not in undecodable])
    return RetrievalOutcome(
        recall={},
        embedded=RetrievalSet(vectors[image_ids], image_ids, vectors, np.arange(RECORDS)),
        records=[PairRecord(str(number), f"image {number}".encode(), (f"text {number}",)) for number in range(RECORDS)],
        texts=[f"text {number}" for number in range(RECORDS)],
        query_ids=np.intersect1d(np.arange(queries), image_ids),
    )


@pytest.mark.parametrize("undecodable", [(), (0,), (1, 6)])
def test_perfect_retrieval_is_shown_as_right_whatever_does_not_decode(undecodable):
    shown = image_queries(outcome(undecodable))
    assert [query.caption for query in shown] == [f"text {n}" for n in range(4) if n not in undecodable]
    for query in shown:
        assert query.image.decode().split()[1] == query.caption.split()[1]
        assert query.retrieved[0].text == query.caption
        assert [found.correct for found in query.retrieved] == [True, False, False, False, False]
    for query in text_queries(outcome(undecodable)):
        first = query.retrieved[0]
        assert first.caption == query.text
        assert first.image.decode().split()[1] == query.text.split()[1]
        assert [found.correct for found in query.retrieved] == [True, False, False, False, False]


@pytest.mark.parametrize("queries", [1, 3, 8])
def test_zero_shot_offers_the_own_caption_however_few_queries_there_are(queries):
    examples = zero_shot(outcome(queries=queries), temperature=0.1)
    assert len(examples) == queries
    for example in examples:
        labels = [label for label, _ in example.probabilities]
        assert labels[0] == example.correct
        assert len(set(labels)) == 5
        assert sum(probability for _, probability in example.probabilities) == pytest.approx(1.0, rel=1e-5)


def test_nothing_to_show_is_no_error():
    nothing = outcome(queries=0)
    assert (image_queries(nothing), text_queries(nothing), zero_shot(nothing, 0.1)) == ([], [], [])
