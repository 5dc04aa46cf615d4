"""The training loop: mesh, data, state, restore, steps, evaluations. The only loop there is."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from align_jax.checkpoints import Checkpoints
from align_jax.configuration import ConfigurationError
from align_jax.data.quarantine import Quarantine
from align_jax.parallel.mesh import batch_sharding, check_batch_size, place_batch
from align_jax.parallel.sharding import parameter_count
from align_jax.training.evaluations import Retrieval
from align_jax.training.experiment import Experiment
from align_jax.training.state import TrainState, abstract_state, compile_init, state_initializer
from align_jax.training.step import compile_step, train_step
from align_jax.training.summary import write_run_report
from align_jax.training.telemetry import Telemetry
from align_jax.training.workdir import prepare_workdir


class NonFiniteLossError(RuntimeError):
    """The loss is no longer a number."""


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    stop_at: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> TrainState:
    """Trains, or continues where the newest checkpoint of the workdir stands.

    Args:
        experiment: everything that the result depends on.
        workdir: gets `checkpoints/`, `metrics.jsonl`, `report.html` and the files of a model folder.
        stop_at: ends after this many steps in all, without changing the schedule, which spans `total_steps`.
        devices: to train on; all there are when absent.

    Returns:
        The state at the end.

    Raises:
        ValueError: if batch, mesh and data do not fit together.
        NonFiniteLossError: with the step at which the loss was no longer a number; checkpoints are from before it.
    """
    workdir = Path(workdir)
    last_step = min(experiment.total_steps, stop_at or experiment.total_steps)
    primary = jax.process_index() == 0
    mesh = experiment.mesh.build(devices)
    check_batch_size(experiment.batch_size, mesh)
    rows = batch_sharding(mesh)
    tokenizer = prepare_workdir(experiment, workdir)
    quarantine = Quarantine(workdir / f"quarantine-{jax.process_index()}.jsonl", experiment.data.max_bad_records)
    loader = experiment.data.loader(
        tokenizer,
        quarantine,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    evaluations = [
        Retrieval(settings, experiment.task.module(), mesh, tokenizer, experiment.data, quarantine)
        for settings in experiment.evaluations
    ]
    optimizer = experiment.optimizer.build(experiment.total_steps)
    init = state_initializer(
        experiment.task.init, optimizer, seed=experiment.seed, averaged=experiment.ema_decay is not None
    )
    abstract = abstract_state(init, mesh)
    step_function = compile_step(train_step(experiment, optimizer, mesh), abstract, rows)
    with ExitStack() as resources:
        checkpoints = resources.enter_context(
            Checkpoints(workdir / "checkpoints", keep_latest=experiment.keep_checkpoints)
        )
        state = _restore_or_init(experiment, checkpoints, init, abstract)
        start = int(state.step)
        telemetry = resources.enter_context(
            Telemetry(workdir, total_steps=last_step, start_step=start, primary=primary)
        )
        telemetry.message(_opening(experiment, state, mesh.size, len(loader.source)))
        recorder = _Recorder(experiment, telemetry, quarantine)
        batches = resources.enter_context(closing(loader.iterate(start)))
        for step in range(start + 1, last_step + 1):
            batch = place_batch(recorder.timed_next(batches), rows)
            state, metrics = step_function(state, batch)
            recorder.dispatched(step, metrics)
            if step == last_step or experiment.checkpoint.due(step):
                recorder.settle()  # a loss that is no longer a number must not be saved
                checkpoints.save(step, state, _position(experiment, step))
            due = [evaluation for evaluation in evaluations if evaluation.settings.every.due(step)]
            if due and step < last_step:
                recorder.settle()
                for evaluation in due:
                    telemetry.log_evaluation(step, evaluation.settings.name, evaluation.run(state.variables()).recall)
                recorder.restart_clock()
        outcomes = {evaluation.settings.name: evaluation.run(state.variables()) for evaluation in evaluations}
        for name, outcome in outcomes.items():
            telemetry.log_evaluation(int(state.step), name, outcome.recall)
        if primary:
            telemetry.message(f"report: {write_run_report(experiment, workdir, state, outcomes)}")
    return state


def _restore_or_init(
    experiment: Experiment, checkpoints: Checkpoints, init: Callable[[], TrainState], abstract: TrainState
) -> TrainState:
    restored = checkpoints.restore(abstract)
    if restored is None:
        return compile_init(init, abstract)()
    expected = _position(experiment, restored.step)
    changed = [
        f"{key} was {restored.position.get(key)} and is now {value}"
        for key, value in expected.items()
        if restored.position.get(key) != value
    ]
    if changed:
        raise ConfigurationError(
            f"the run cannot continue with another order of examples ({'; '.join(changed)}); set them back, or give "
            "another workdir"
        )
    return restored.state


def _position(experiment: Experiment, step: int) -> dict[str, int]:
    """Where the loader stands: the order is a function of the seed, so a count of examples says it all."""
    return {"seed": experiment.seed, "batch_size": experiment.batch_size, "examples": step * experiment.batch_size}


def _opening(experiment: Experiment, state: TrainState, devices: int, pairs: int) -> str:
    begins = f"continues after step {int(state.step):,}" if int(state.step) else "starts"
    return (
        f"{experiment.name} {begins}: {parameter_count(state.params):,} parameters, {pairs:,} pairs, "
        f"batch {experiment.batch_size:,} on {devices} {jax.devices()[0].platform} device(s), "
        f"{experiment.total_steps:,} steps"
    )


class _Recorder:
    """Reads the numbers of a step after the next one was dispatched, so that the device never waits for the host."""

    def __init__(self, experiment: Experiment, telemetry: Telemetry, quarantine: Quarantine):
        self._experiment, self._telemetry, self._quarantine = experiment, telemetry, quarantine
        self._learning_rate = experiment.optimizer.learning_rate(experiment.total_steps)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves what was not training (an evaluation, a compilation) out of the speed."""
        self._since, self._steps, self._waited_seconds = time.monotonic(), 0, 0.0

    def timed_next(self, batches: Iterator[Any]) -> Any:
        """The next batch, with the time spent waiting for it."""
        began = time.monotonic()
        batch = next(batches)
        self._waited_seconds += time.monotonic() - began
        return batch

    def dispatched(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of the step just dispatched and records those of the one before."""
        self.settle()
        self._pending = (step, metrics)

    def settle(self) -> None:
        """Records the pending step, waiting for it."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss is {loss} at step {step}; lower the learning rate or clip the gradient "
                "(--optimizer.clip-norm), then run the same command to continue from the last checkpoint"
            )
        self._steps += 1
        self._telemetry.advance(step)
        if self._experiment.log.due(step):
            self._quarantine.check()
            elapsed = time.monotonic() - self._since
            values = {key: float(value) for key, value in metrics.items()}
            values["learning_rate"] = float(np.asarray(self._learning_rate(step - 1)))
            values["pairs_per_second"] = self._steps * self._experiment.batch_size / elapsed
            values["data_wait_share"] = min(1.0, self._waited_seconds / elapsed)
            self._telemetry.log(step, values)
            self.restart_clock()
