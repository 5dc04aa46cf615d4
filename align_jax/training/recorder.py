"""Reads the numbers of each step once the next one was dispatched, so that the device never waits for the host."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.sharding import Mesh

from align_jax.data.quarantine import Quarantine
from align_jax.training.experiment import Experiment
from align_jax.training.flops import training_flops_per_example
from align_jax.training.hardware import peak_flops_per_second
from align_jax.training.non_finite import NonFiniteLossError
from align_jax.training.telemetry import Telemetry


class Recorder:
    """Checks and records what the steps of a run measure.

    Args:
        experiment: says what is logged when, and what happens where a number is not finite.
        telemetry: takes the numbers.
        quarantine: asked, now and then, whether too many records are bad.
        mesh: the devices, which share a batch.
        non_finite: steps that were not finite in earlier parts of the run.
    """

    def __init__(
        self,
        experiment: Experiment,
        telemetry: Telemetry,
        quarantine: Quarantine,
        *,
        mesh: Mesh,
        non_finite: int,
    ):
        self._experiment, self._telemetry, self._quarantine = experiment, telemetry, quarantine
        self._devices = mesh.size
        self._peak_flops_per_second = peak_flops_per_second(mesh.devices.flat[0].device_kind)
        self._flops_per_example = training_flops_per_example(experiment)
        self.non_finite = non_finite
        self._learning_rate = experiment.optimizer.learning_rate(experiment.total_steps)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._since: float | None = None  # until the first step is through, which compiles
        self._steps, self._waited_seconds = 0, 0.0

    def restart_clock(self) -> None:
        """Leaves what was not training, such as an evaluation, out of the speed."""
        if self._since is not None:
            self._start_clock()

    def _start_clock(self) -> None:
        self._since, self._steps, self._waited_seconds = time.monotonic(), 0, 0.0

    @contextmanager
    def data_wait(self) -> Iterator[None]:
        """Counts the time of the block as waiting for data."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._waited_seconds += time.monotonic() - began

    def dispatched(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of the step just dispatched and records those of the one before."""
        self.settle()
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
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self._check_finite(step, metrics)
        self._telemetry.advance(step)
        self._steps += 1
        if self._experiment.log.due(step):
            self._quarantine.check()
            values = {key: float(value) for key, value in metrics.items()}
            # The optimizer, and with it the schedule, counts only the steps that were taken.
            left_out = self.non_finite if self._experiment.non_finite.action == "skip" else 0
            values["learning_rate"] = float(np.asarray(self._learning_rate(step - 1 - left_out)))
            self._telemetry.log(step, values | self._speed())
        if self._experiment.log.due(step) or self._since is None:
            self._start_clock()

    def _speed(self) -> dict[str, float]:
        if self._since is None:
            return {}
        elapsed = time.monotonic() - self._since
        per_second, name = self._steps * self._experiment.batch_size / elapsed, self._experiment.task.examples
        of_device = per_second / self._devices
        speed = {
            f"{name}_per_second": per_second,
            f"{name}_per_second_per_device": of_device,
            "data_wait_share": min(1.0, self._waited_seconds / elapsed),
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
