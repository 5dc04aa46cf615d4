"""Confidence intervals: those of SciPy, the same every time, and by groups."""

import numpy as np
import pytest
import scipy.stats

from align_jax.metrics import bootstrap, confidence_interval, weighted_mean


def test_interval_is_that_of_scipy() -> None:
    values = (np.random.default_rng(0).random((400, 2)) < [0.3, 0.9]).astype(np.float64)
    low, high = confidence_interval(values, resamples=4000, level=0.9)
    for column in range(2):
        expected = scipy.stats.bootstrap(
            (values[:, column],), np.mean, n_resamples=4000, method="percentile", confidence_level=0.9, rng=1
        ).confidence_interval
        assert (low[column], high[column]) == pytest.approx(tuple(expected), abs=0.004)


def test_interval_is_the_same_every_time_and_needs_no_memory_for_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((64, 1))
    once = confidence_interval(values, seed=3)
    np.testing.assert_array_equal(once, confidence_interval(values, seed=3))
    assert not np.array_equal(once, confidence_interval(values, seed=4))
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 64 * 7)
    np.testing.assert_allclose(once, confidence_interval(values, seed=3), atol=0.02)


def test_members_of_a_group_are_drawn_together() -> None:
    """Five equal captions of an image say no more than one: the interval must not shrink."""
    of_image = np.random.default_rng(0).random((50, 3))
    groups = np.repeat(np.arange(50)[::-1], 5)
    grouped = confidence_interval(np.repeat(of_image[::-1], 5, axis=0), groups=groups)
    np.testing.assert_allclose(grouped, confidence_interval(of_image), rtol=1e-12)


def test_weights_count_rows_more_than_others() -> None:
    values, weights = np.array([[1.0], [0.0], [0.0]]), np.array([2.0, 1.0, 1.0])
    assert weighted_mean(values, weights).item() == 0.5
    low, high = confidence_interval(np.tile(values, (200, 1)), np.tile(weights, 200))
    assert low.item() < 0.5 < high.item()
    assert high.item() - low.item() < 0.1


@pytest.mark.parametrize("settings", [{"level": 0.0}, {"level": 1.0}, {"resamples": 0}])
def test_settings_out_of_range_are_named(settings: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        confidence_interval(np.ones((3, 1)), **settings)
    with pytest.raises(ValueError, match="0 examples"):
        confidence_interval(np.ones((0, 1)))
