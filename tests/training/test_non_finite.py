import dataclasses
import math

import jax
import numpy as np
import pytest

from align_jax.data.loader import TrainLoader
from align_jax.training.evaluations import Every
from align_jax.training.loop import train
from align_jax.training.metrics_log import read_metrics
from align_jax.training.non_finite import NonFinite, NonFiniteLossError


@pytest.fixture(scope="module")
def spoilt_stream():
    """Positions in the stream of batches whose pixels are not numbers; all pixels are floating-point here."""
    positions, iterate = set(), TrainLoader.iterate

    def spoiling(self, start=0):
        for position, batch in enumerate(iterate(self, start), start):
            scale = np.float32(np.nan if position in positions else 1 / 127.5)
            yield batch._replace(images=batch.images * scale - np.float32(1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainLoader, "iterate", spoiling)
        yield positions


@pytest.fixture
def spoilt(spoilt_stream):
    """The same, with none at first."""
    spoilt_stream.clear()
    return spoilt_stream


@pytest.fixture(scope="module")
def returning(experiment):
    return dataclasses.replace(experiment, checkpoint=Every(5), non_finite=NonFinite("rollback"))


@pytest.fixture(scope="module")
def returned_run(returning, spoilt_stream, tmp_path_factory):
    """Last state and workdir of a run that goes back once, from the seventh batch."""
    workdir = tmp_path_factory.mktemp("returned")
    spoilt_stream.clear()
    spoilt_stream.add(6)
    return train(returning, workdir), workdir


def losses(workdir):
    return {line["step"]: line["loss"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line}


def assert_same_but_for_the_step(left, right):
    for a, b in zip(jax.tree.leaves(left.replace(step=None)), jax.tree.leaves(right.replace(step=None)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_skipped_step_changes_nothing_but_the_count(experiment, spoilt, tmp_path):
    skipping = dataclasses.replace(experiment, non_finite=NonFinite("skip", limit=2))
    spoilt.add(6)
    before = train(skipping, tmp_path / "before", stop_at=6)
    after = train(skipping, tmp_path / "after", stop_at=7)
    assert (int(before.step), int(after.step)) == (6, 7)
    assert_same_but_for_the_step(before, after)
    assert [step for step, loss in losses(tmp_path / "after").items() if math.isnan(loss)] == [7]
    spoilt.update({8, 10})
    with pytest.raises(
        NonFiniteLossError, match=r"at step 11, after 2 such steps, as many as --non-finite.limit allows"
    ):
        train(skipping, tmp_path / "after")  # the one before the interruption counts as well


def test_rollback_leaves_out_the_batches_up_to_the_bad_one(returning, returned_run, spoilt, tmp_path):
    state, workdir = returned_run
    found = losses(workdir)
    assert list(found) == list(range(1, 21))
    assert all(map(math.isfinite, found.values()))
    # Step 6 takes the batch after the bad one, which without trouble would be that of step 8.
    shifted = TrainLoader.iterate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainLoader, "iterate", lambda self, start=0: shifted(self, start + 2 if start >= 5 else start))
        train(returning, tmp_path / "shifted", stop_at=5)
        assert_same_but_for_the_step(train(returning, tmp_path / "shifted"), state)


def test_run_continues_after_a_rollback_as_if_it_had_not_been_stopped(returning, returned_run, spoilt, tmp_path):
    straight, straight_workdir = returned_run
    spoilt.add(6)
    train(returning, tmp_path / "stopped", stop_at=12)
    assert_same_but_for_the_step(train(returning, tmp_path / "stopped"), straight)
    assert losses(tmp_path / "stopped") == losses(straight_workdir)


def test_rollback_without_a_checkpoint_says_so(experiment, spoilt, tmp_path):
    spoilt.add(2)
    with pytest.raises(NonFiniteLossError, match=r"loss is nan at step 3; there is no checkpoint to go back to"):
        train(dataclasses.replace(experiment, non_finite=NonFinite("rollback")), tmp_path)


def test_limit_must_be_positive():
    with pytest.raises(ValueError, match="limit 0 is not positive"):
        NonFinite("skip", limit=0)
