"""The training loop: mesh, data, state, restore, steps, evaluations. The only loop there is."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from align_jax.checkpoints import Checkpoints
from align_jax.configuration import ConfigurationError
from align_jax.data.quarantine import Quarantine
from align_jax.parallel.mesh import batch_sharding, check_batch_size, place_batch, process_rows
from align_jax.parallel.sharding import parameter_count
from align_jax.training.evaluations import Retrieval
from align_jax.training.experiment import Experiment
from align_jax.training.state import TrainState, abstract_state, compile_init, state_initializer
from align_jax.training.step import compile_step, compile_together, train_step
from align_jax.training.summary import write_run_report
from align_jax.training.telemetry import Telemetry
from align_jax.training.workdir import check_same_model, open_tokenizer, tokenizer_digest, write_model_folder


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
    if "://" in str(workdir):
        raise ValueError(f"workdir {str(workdir)!r} is remote; give a local or mounted folder")
    if stop_at is not None and stop_at < 1:
        raise ValueError(f"stop_at {stop_at} is not positive; use 1 or more")
    workdir = Path(workdir)
    last_step = min(experiment.total_steps, stop_at or experiment.total_steps)
    primary = jax.process_index() == 0
    mesh = experiment.mesh.build(devices)
    check_batch_size(experiment.batch_size, mesh)
    rows = batch_sharding(mesh)
    tokenizer = open_tokenizer(experiment)
    quarantine = Quarantine(workdir / f"quarantine-{jax.process_index()}.jsonl", experiment.data.max_bad_records)
    loader = experiment.data.loader(
        tokenizer,
        quarantine,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        rows=process_rows(rows, experiment.batch_size),
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
    order = _order_of_examples(experiment, len(loader.source))
    with ExitStack() as resources:
        checkpoints = resources.enter_context(
            Checkpoints(workdir / "checkpoints", keep_latest=experiment.keep_checkpoints)
        )
        state = _restore(experiment, checkpoints, workdir, abstract, order)
        if state is None:
            state = compile_init(init, abstract)()
        if primary:  # only now: a refused run leaves what the workdir says of the earlier one
            write_model_folder(experiment, workdir)
        start = int(state.step)
        telemetry = resources.enter_context(
            Telemetry(workdir, total_steps=last_step, start_step=start, primary=primary)
        )
        telemetry.message(_opening(experiment, state, mesh.size, len(loader.source)))
        recorder = _Recorder(experiment, telemetry, quarantine)
        batches = resources.enter_context(closing(loader.iterate(start)))
        for step in range(start + 1, last_step + 1):
            batch = place_batch(recorder.timed_next(batches), rows)
            if step == start + 1:
                step_function = compile_together(step_function, state, batch)
            state, metrics = step_function(state, batch)
            recorder.dispatched(step, metrics)
            due = [evaluation for evaluation in evaluations if evaluation.settings.every.due(step)]
            if due and step < last_step:
                recorder.settle()
                for evaluation in due:
                    telemetry.log_evaluation(step, evaluation.settings.name, evaluation.run(state.variables()).recall)
                recorder.restart_clock()
            if step == last_step or experiment.checkpoint.due(step):
                recorder.settle()  # what is no longer a number must not be saved
                checkpoints.save(step, state, order | {"examples": step * experiment.batch_size})
        outcomes = {evaluation.settings.name: evaluation.run(state.variables()) for evaluation in evaluations}
        for name, outcome in outcomes.items():
            telemetry.log_evaluation(int(state.step), name, outcome.recall)
        if quarantine.count:
            telemetry.message(f"{quarantine.count} records could not be used; they are named in {quarantine.path}")
        if primary:
            telemetry.message(f"report: {write_run_report(experiment, workdir, state, outcomes)}")
    return state


def _order_of_examples(experiment: Experiment, records: int) -> dict[str, Any]:
    """All that the order of examples and their tokens follow from; with it, a count of examples says where we are."""
    train = experiment.data.train
    return {
        "seed": experiment.seed,
        "batch_size": experiment.batch_size,
        "data set": f"{train.name}, {train.split}",
        "records": records,
        "neighbours": experiment.data.neighbours,
        "tokenizer": tokenizer_digest(experiment),
    }


def _restore(
    experiment: Experiment, checkpoints: Checkpoints, workdir: Path, abstract: TrainState, order: dict[str, Any]
) -> TrainState | None:
    """The newest state, if there is one and if it is of this run."""
    if checkpoints.latest_step() is not None:
        check_same_model(experiment, workdir)
    restored = checkpoints.restore(abstract)
    if restored is None:
        return None
    found = restored.position
    changed = [
        f"{key} was {found.get(key)} and is now {value}" for key, value in order.items() if found.get(key) != value
    ]
    if changed:
        raise ConfigurationError(
            f"the run cannot continue with another order of examples ({'; '.join(changed)}); set them back, or give "
            "another workdir"
        )
    return restored.state


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
        self._since: float | None = None  # until the first step is through, which compiles
        self._steps, self._waited_seconds = 0, 0.0

    def restart_clock(self) -> None:
        """Leaves what was not training, such as an evaluation, out of the speed."""
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
        """Records the pending step, waiting for it.

        Raises:
            NonFiniteLossError: if its loss or its gradient is not a number.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(value := float(metrics[name])):
                raise NonFiniteLossError(
                    f"the {name} is {value} at step {step}; lower the learning rate or clip the gradient "
                    "(--optimizer.clip-norm), then run the same command to continue from the last checkpoint"
                )
        self._telemetry.advance(step)
        self._steps += 1
        if self._experiment.log.due(step):
            self._quarantine.check()
            values = {key: float(value) for key, value in metrics.items()}
            values["learning_rate"] = float(np.asarray(self._learning_rate(step - 1)))
            if self._since is not None:
                elapsed = time.monotonic() - self._since
                values["pairs_per_second"] = self._steps * self._experiment.batch_size / elapsed
                values["data_wait_share"] = min(1.0, self._waited_seconds / elapsed)
            self._telemetry.log(step, values)
        if self._experiment.log.due(step) or self._since is None:
            self.restart_clock()
