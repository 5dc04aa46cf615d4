"""Reads the numbers of each step once the next one was dispatched, so that the device never waits for the host."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from align_jax.data.quarantine import Quarantine
from align_jax.training.experiment import Experiment
from align_jax.training.flops import training_flops_per_example
from align_jax.training.hardware import peak_flops_per_second
from align_jax.training.non_finite import NonFiniteLossError
from align_jax.training.telemetry import Telemetry


class _Mark(NamedTuple):
    """What had been done at a moment."""

    seconds: float
    finished: int  # steps
    waited_seconds: float  # for data


class Recorder:
    """Checks and records what the steps of a run measure.

    Args:
        experiment: says what is logged when, and what happens where a number is not finite.
        telemetry: takes the numbers.
        quarantine: asked, now and then, whether too many records are bad.
        mesh: the devices, which share a batch.
        non_finite: steps that were not finite in earlier parts of the run.
        clock: seconds from any fixed origin.
    """

    def __init__(
        self,
        experiment: Experiment,
        telemetry: Telemetry,
        quarantine: Quarantine,
        *,
        mesh: Mesh,
        non_finite: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._experiment, self._telemetry, self._quarantine = experiment, telemetry, quarantine
        self._devices = mesh.size
        self._peak_flops_per_second = peak_flops_per_second(mesh.devices.flat[0].device_kind)
        self._flops_per_example = training_flops_per_example(experiment)
        self.non_finite = non_finite
        self._learning_rate = experiment.optimizer.learning_rate(experiment.total_steps)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._clock = clock
        self._dispatched, self._waited_seconds = 0, 0.0
        self._since: _Mark | None = None  # until the first step is through, which compiles
        self._newest: _Mark | None = None  # taken while the next step was under way

    def restart_clock(self) -> None:
        """Leaves what was not training, such as an evaluation, out of the speed; nothing is under way."""
        if self._since is not None:
            self._since, self._newest = self._mark(self._dispatched), None

    def _mark(self, finished: int) -> "_Mark":
        return _Mark(self._clock(), finished, self._waited_seconds)

    @contextmanager
    def data_wait(self) -> Iterator[None]:
        """Counts the time of the block as waiting for data."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited_seconds += self._clock() - began

    def dispatched(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of the step just dispatched and records those of the one before."""
        self._dispatched += 1
        self._record_pending(under_way=metrics)
        self._pending = (step, metrics)

    def forget(self) -> None:
        """Drops the step that is pending, because the run goes back to an earlier one."""
        self._pending = None
        self.restart_clock()

    def settle(self) -> None:
        """Records the pending step, waiting for it.

        Raises:
            NonFiniteLossError: if its loss or its gradient is not a number, and such steps are not skipped.
        """
        self._record_pending(under_way=None)

    def _record_pending(self, under_way: dict[str, jax.Array] | None) -> None:
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self._check_finite(step, metrics)
        # A step of a CPU may be over when its dispatch returns, before the one in front of it was read.
        over = under_way is None or under_way["loss"].is_ready()  # pyrefly: ignore[missing-attribute]
        now = self._mark(self._dispatched if over else self._dispatched - 1)
        if under_way is not None:
            self._newest = now
        self._telemetry.advance(step)
        if self._experiment.log.due(step):
            self._quarantine.check()
            values = {key: float(value) for key, value in metrics.items()}
            # The optimizer, and with it the schedule, counts only the steps that were taken.
            left_out = self.non_finite if self._experiment.non_finite.action == "skip" else 0
            values["learning_rate"] = float(np.asarray(self._learning_rate(step - 1 - left_out)))
            speed = self._speed()
            self._telemetry.log(step, values | speed)
            if speed or under_way is None:
                self._since = now
        if self._since is None:
            self._since = now

    def _speed(self) -> dict[str, float]:
        """From one reading beside a step to another; at any other moment, it is chance how far a step has come."""
        if self._since is None or self._newest is None or self._newest.finished <= self._since.finished:
            return {}
        elapsed = self._newest.seconds - self._since.seconds
        steps, waited_seconds = (
            self._newest.finished - self._since.finished, self._newest.waited_seconds - self._since.waited_seconds,
        )  # fmt: skip
        per_second, name = steps * self._experiment.batch_size / elapsed, self._experiment.task.examples
        of_device = per_second / self._devices
        speed = {
            f"{name}_per_second": per_second,
            f"{name}_per_second_per_device": of_device,
            "data_wait_share": min(1.0, waited_seconds / elapsed),
        }
        if self._peak_flops_per_second is not None:
            speed["flop_utilization"] = of_device * self._flops_per_example / self._peak_flops_per_second
        return speed

    def _check_finite(self, step: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(metrics[name]) for name in ("loss", "gradient_norm")}
        wrong = [f"the {name} is {value} at step {step}" for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return
        policy = self._experiment.non_finite
        self.non_finite += 1
        if policy.action == "stop":
            advice = (
                "lower the learning rate or clip the gradient (--optimizer.clip-norm), then run the same command to "
                "continue from the last checkpoint; or see --non-finite.action"
            )
            raise NonFiniteLossError(f"{wrong[0]}; {advice}", step)
        if self.non_finite > policy.limit:
            raise NonFiniteLossError(
                f"{wrong[0]}, after {policy.limit} such steps, as many as --non-finite.limit allows; lower the "
                "learning rate or clip the gradient (--optimizer.clip-norm)",
                step,
            )
        if policy.action == "rollback":
            raise NonFiniteLossError(wrong[0], step)
        self._telemetry.message(f"{wrong[0]}: skipped, {self.non_finite} of at most {policy.limit}")
