import dataclasses
import os
import signal

import jax
import numpy as np
import pytest

from align_jax.data.loader import TrainLoader
from align_jax.training.evaluations import Retrieval
from align_jax.training.interruption import InterruptedRunError, Interruption
from align_jax.training.loop import train
from align_jax.training.metrics_log import read_metrics


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def timeless(workdir):
    """What a run measured, without the times."""
    timed = ("pairs_per_second", "pairs_per_second_per_device", "data_wait_share", "flop_utilization")
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def assert_identical(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def signalled(monkeypatch):
    """Positions in the stream of batches during whose preparation SIGTERM arrives, so many times."""
    times, iterate = {}, TrainLoader.iterate

    def signalling(self, start=0):
        for position, batch in enumerate(iterate(self, start), start):
            for _ in range(times.pop(position, 0)):
                terminate()
            yield batch

    monkeypatch.setattr(TrainLoader, "iterate", signalling)
    return times


def test_sigterm_saves_the_last_finished_step_and_the_run_continues_bit_equal(
    evaluated, signalled, finished_evaluated_run, tmp_path
):
    straight, straight_workdir = finished_evaluated_run
    signalled[6] = 1
    with pytest.raises(InterruptedRunError, match="saved at step 6; the same command continues") as stopped:
        train(evaluated, tmp_path / "stopped")
    assert stopped.value.exit_status == 143
    assert sorted(path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir() if path.name.isdigit()) == [
        "6"
    ]
    assert_identical(train(evaluated, tmp_path / "stopped"), straight)
    assert timeless(tmp_path / "stopped") == timeless(straight_workdir)


def test_sigterm_during_an_evaluation_does_not_lose_it(evaluated, finished_evaluated_run, tmp_path, monkeypatch):
    straight, straight_workdir = finished_evaluated_run
    run, calls = Retrieval.run, []

    def signalling(self, variables, between):
        calls.append(1)
        if len(calls) == 1:
            terminate()
        return run(self, variables, between)

    monkeypatch.setattr(Retrieval, "run", signalling)
    with pytest.raises(InterruptedRunError, match="saved at step 10"):
        train(evaluated, tmp_path / "stopped")
    assert not [line for line in timeless(tmp_path / "stopped") if "discs/image_to_text_recall@1" in line]
    assert_identical(train(evaluated, tmp_path / "stopped"), straight)
    assert timeless(tmp_path / "stopped") == timeless(straight_workdir)


def test_second_sigterm_does_not_spoil_the_first(experiment, signalled, tmp_path, monkeypatch):
    from align_jax.checkpoints import Checkpoints

    wait = Checkpoints.wait
    monkeypatch.setattr(Checkpoints, "wait", lambda self: (terminate(), wait(self)))  # while it is being saved
    signalled[6] = 2
    with pytest.raises(InterruptedRunError, match="saved at step 6"):
        train(experiment, tmp_path)
    assert (tmp_path / "checkpoints" / "6").is_dir()


def test_sigterm_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        terminate()
        assert interruption.due()
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_before_the_first_step_saves_nothing_and_says_so(experiment, signalled, tmp_path):
    signalled[0] = 1
    with pytest.raises(InterruptedRunError, match="before the first step"):
        train(dataclasses.replace(experiment), tmp_path)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
