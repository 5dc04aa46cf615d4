"""Retrieval against a plain loop over queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.evaluation.estimates import Bootstrap
from align_jax.evaluation.retrieval import RetrievalSet, nearest, query_ranks, recall, recall_estimates
from align_jax.metrics import match_ranks
from align_jax.parallel.mesh import MeshShape


def unit_rows(rng: np.random.Generator, count: int, width: int = 6) -> np.ndarray:
    vectors = rng.normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_set(captions_per_image: int, image_ids: list[int], seed: int = 0) -> RetrievalSet:
    """Captions near their images, but not so near that each is found first; in random order."""
    rng = np.random.default_rng(seed)
    images = unit_rows(rng, len(image_ids))
    text_ids = rng.permutation(np.repeat(image_ids, captions_per_image))
    of_image = np.searchsorted(image_ids, text_ids)
    texts = images[of_image] + 0.9 * unit_rows(rng, len(text_ids))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return RetrievalSet(images, np.array(image_ids), texts.astype(np.float32), text_ids)


def loop_recall(gallery: RetrievalSet, query_ids: list[int], k: int) -> dict[str, float]:
    """A query is a hit where fewer than k wrong items score at least as much as its best right one."""
    sides = {
        "image_to_text": (gallery.images, gallery.image_ids, gallery.texts, gallery.text_ids),
        "text_to_image": (gallery.texts, gallery.text_ids, gallery.images, gallery.image_ids),
    }
    results = {}
    for direction, (queries, ids, searched, searched_ids) in sides.items():
        hits = []
        for query, query_id in zip(queries, ids, strict=True):
            if query_id not in query_ids:
                continue
            scores = [float(query.astype(np.float64) @ item.astype(np.float64)) for item in searched]
            right = [score for score, other in zip(scores, searched_ids, strict=True) if other == query_id]
            wrong = [score for score, other in zip(scores, searched_ids, strict=True) if other != query_id]
            hits.append(sum(score >= max(right) for score in wrong) < k)
        results[f"{direction}_recall@{k}"] = sum(hits) / len(hits)
    return results


@pytest.mark.parametrize("captions_per_image", [1, 5])
def test_recall_equals_a_loop_over_queries(captions_per_image: int) -> None:
    gallery = random_set(captions_per_image, list(range(40)))
    measured = recall(gallery, np.arange(40))
    expected = {name: value for k in (1, 5, 10) for name, value in loop_recall(gallery, list(range(40)), k).items()}
    assert measured == pytest.approx(expected)
    assert 0.0 < measured["image_to_text_recall@1"] < 1.0  # the comparison can tell right from wrong
    assert 0.0 < measured["text_to_image_recall@1"] < 1.0


def test_distractors_are_searched_but_do_not_ask() -> None:
    gallery, query_ids = random_set(5, list(range(60))), list(range(0, 60, 4))
    measured = recall(gallery, np.array(query_ids), cutoffs=(1, 3))
    expected = loop_recall(gallery, query_ids, 1) | loop_recall(gallery, query_ids, 3)
    assert measured == pytest.approx(expected)
    keep_images, keep_texts = np.isin(gallery.image_ids, query_ids), np.isin(gallery.text_ids, query_ids)
    alone = RetrievalSet(
        gallery.images[keep_images], gallery.image_ids[keep_images],
        gallery.texts[keep_texts], gallery.text_ids[keep_texts],
    )  # fmt: skip
    assert recall(alone, np.array(query_ids))["text_to_image_recall@1"] > measured["text_to_image_recall@1"]


def test_ids_need_not_be_contiguous() -> None:
    """Records that cannot be used leave gaps in the ids; their rows are not there."""
    whole = random_set(2, list(range(30)))
    usable = [number for number in range(30) if number % 3]
    keep_images, keep_texts = np.isin(whole.image_ids, usable), np.isin(whole.text_ids, usable)
    gallery = RetrievalSet(
        whole.images[keep_images], whole.image_ids[keep_images], whole.texts[keep_texts], whole.text_ids[keep_texts]
    )
    renumbered = RetrievalSet(
        gallery.images, np.searchsorted(usable, gallery.image_ids), gallery.texts,
        np.searchsorted(usable, gallery.text_ids),
    )  # fmt: skip
    measured = recall(gallery, np.array(usable))
    assert measured == recall(renumbered, np.arange(len(usable)))
    assert measured == pytest.approx({n: v for k in (1, 5, 10) for n, v in loop_recall(gallery, usable, k).items()})


def test_collapsed_embeddings_score_nothing() -> None:
    point = np.tile(np.float32([1.0, 0.0]), (8, 1))
    gallery = RetrievalSet(point, np.arange(8), point, np.arange(8))
    assert set(recall(gallery, np.arange(8), cutoffs=(1, 5)).values()) == {0.0}


def test_queries_that_the_gallery_lacks_are_an_error() -> None:
    gallery = random_set(1, [3, 5, 9])
    with pytest.raises(ValueError, match="of image_to_text are not in the gallery"):
        recall(gallery, np.array([4, 7]))
    without_captions = RetrievalSet(gallery.images, gallery.image_ids, gallery.texts, np.array([3, 5, 5]))
    with pytest.raises(ValueError, match="of text_to_image are not in the gallery"):
        recall(without_captions, np.array([9]))


def test_nearest_is_best_first_and_ties_keep_the_gallery_order() -> None:
    gallery = np.float32([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
    order, cosines = nearest(np.float32([[1.0, 0.0], [0.0, 1.0]]), gallery, 6)
    np.testing.assert_array_equal(order, [[1, 3, 2, 0, 5, 4], [0, 2, 1, 3, 4, 5]])
    np.testing.assert_allclose(cosines, [[1, 1, 0.6, 0, 0, -1], [1, 0.8, 0, 0, 0, -1]], rtol=1e-6)


@pytest.mark.parametrize(("count", "found"), [(1, 1), (3, 3), (10, 6)])
def test_nearest_gives_no_more_than_asked_for_or_there_is(count: int, found: int) -> None:
    rng = np.random.default_rng(0)
    queries, gallery = unit_rows(rng, 4), unit_rows(rng, 6)
    order, cosines = nearest(queries, gallery, count)
    assert order.shape == cosines.shape == (4, found)
    np.testing.assert_allclose(cosines, np.sort(queries @ gallery.T, axis=1)[:, ::-1][:, :found], rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_ties_and_devices_change_nothing(devices: int) -> None:
    """Embeddings of small whole numbers: their products are exact, and many are equal."""
    rng = np.random.default_rng(4)
    images, texts = (rng.integers(-1, 2, (count, 3)).astype(np.float32) for count in (23, 69))
    gallery = RetrievalSet(images, np.arange(23), texts, np.repeat(np.arange(23), 3))
    measured = recall(gallery, np.arange(23), mesh=MeshShape().build(jax.devices()[:devices]))
    expected = {name: value for k in (1, 5, 10) for name, value in loop_recall(gallery, list(range(23)), k).items()}
    assert measured == pytest.approx(expected)
    assert len(set(measured.values())) > 2


def test_padding_and_blocks_never_change_ranks() -> None:
    gallery = random_set(5, list(range(20)))
    padding = np.tile(gallery.texts[:1] * 9, (11, 1))  # would be ahead of everything
    texts = np.concatenate([gallery.texts, padding])
    ids = np.concatenate([gallery.text_ids, np.arange(11)])
    arguments = map(jnp.asarray, (gallery.images, gallery.image_ids, texts, ids, np.arange(len(texts)) < 100))
    padded = match_ranks(*arguments, queries_at_once=3)
    expected = query_ranks(gallery, np.arange(20))["image_to_text"].ranks
    np.testing.assert_array_equal(padded, expected)
    assert expected.max() > 0


def test_folds_are_searched_by_themselves_and_averaged() -> None:
    """COCO's 1K numbers: the mean over five folds; a broken image leaves its fold smaller, and the rest is not used."""
    numbers = [number for number in range(46) if number != 13]
    gallery = random_set(5, numbers)
    found = recall_estimates(gallery, Bootstrap(resamples=50), fold_size=10, image_count=46)
    assert list(found) == [f"{side}_recall@{k}" for side in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    folds = [[n for n in numbers if n // 10 == fold] for fold in range(4)]
    for k in (1, 5):
        each = [loop_recall(gallery.of(np.array(fold)), fold, k) for fold in folds]
        for name in each[0]:
            estimate = found[name]
            assert estimate.value == pytest.approx(np.mean([one[name] for one in each]))
            assert 0 < estimate.low <= estimate.value <= estimate.high <= 1
            assert estimate.examples == (39 if name.startswith("image") else 195)
    whole = recall_estimates(gallery, Bootstrap(resamples=50))
    assert {name: each.value for name, each in whole.items()} == pytest.approx(recall(gallery, np.array(numbers)))
    assert whole["text_to_image_recall@1"].value < found["text_to_image_recall@1"].value
    with pytest.raises(ValueError, match="46 images are less than one fold of 47"):
        recall_estimates(gallery, Bootstrap(), fold_size=47, image_count=46)


def test_last_image_of_a_fold_may_be_broken() -> None:
    numbers = list(range(19))  # the twentieth is broken
    gallery = random_set(2, numbers)
    found = recall_estimates(gallery, Bootstrap(resamples=2), fold_size=10, image_count=20)
    parts = [loop_recall(gallery.of(np.array(part)), part, 1) for part in (numbers[:10], numbers[10:])]
    for name in parts[0]:
        assert found[name].value == pytest.approx(np.mean([part[name] for part in parts]))
        assert found[name].examples == (19 if name.startswith("image") else 38)
    with pytest.raises(ValueError, match=r"not one image of fold 2 can be used"):
        recall_estimates(gallery, Bootstrap(), fold_size=10, image_count=30)
