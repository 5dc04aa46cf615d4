"""The training loop: mesh, data, state, restore, steps, evaluations. The only loop there is."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from align_jax.checkpoints import Checkpoints, SaveError
from align_jax.data.loader import TrainLoader
from align_jax.data.quarantine import Quarantine
from align_jax.parallel.mesh import batch_sharding, check_batch_size, place_batch, process_rows
from align_jax.parallel.sharding import parameter_count
from align_jax.training.evaluations import OpenEvaluation, Outcome, open_evaluation
from align_jax.training.experiment import Experiment
from align_jax.training.interruption import Interrupted, InterruptedRunError, Interruption
from align_jax.training.non_finite import NonFiniteLossError
from align_jax.training.position import Position, order_of_examples
from align_jax.training.profiling import Profiler, Steps
from align_jax.training.recorder import Recorder
from align_jax.training.start import positions_of, start_from
from align_jax.training.state import TrainState, abstract_state, compile_init, state_initializer
from align_jax.training.step import StepFunction, compile_step, compile_together, train_step
from align_jax.training.summary import write_run_report
from align_jax.training.telemetry import Telemetry
from align_jax.training.workdir import check_same_model, write_model_folder


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    stop_at: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    profile: Steps | None = None,
    checkpoint_folder: str | Path | None = None,
) -> TrainState:
    """Trains, or continues where the newest good checkpoint of the workdir stands.

    Args:
        experiment: everything that the result depends on.
        workdir: gets `checkpoints/`, `metrics.jsonl`, `report.html` and the files of a model folder.
        stop_at: ends after this many steps in all, without changing the schedule, which spans `total_steps`.
        devices: to train on; all there are when absent.
        profile: steps to record with JAX's profiler, into `profile/`.
        checkpoint_folder: for the checkpoints, which may be remote (`gs://bucket/run`); `checkpoints/` of the workdir
            when absent, which makes the workdir a model folder.

    Returns:
        The state at the end.

    Raises:
        ValueError: if batch, mesh and data do not fit together.
        NonFiniteLossError: with the step at which the loss was no longer a number; checkpoints are from before it.
        InterruptedRunError: after SIGTERM, when the state is saved.
    """
    if "://" in str(workdir):
        raise ValueError(
            f"workdir {str(workdir)!r} is remote, and metrics are appended to files there; give a local or mounted "
            "folder, and the remote one for the checkpoints alone (--checkpoints)"
        )
    if stop_at is not None and stop_at < 1:
        raise ValueError(f"stop_at {stop_at} is not positive; use 1 or more")
    workdir = Path(workdir)
    last_step = min(experiment.total_steps, stop_at or experiment.total_steps)
    primary = jax.process_index() == 0
    mesh = experiment.mesh.build(devices)
    check_batch_size(experiment.batch_size, mesh)
    task, data = experiment.task, experiment.data
    batching: Any = task.batching(data)  # pyrefly: ignore[bad-argument-type]  (the experiment has checked that they fit)
    described = task.described(data)  # pyrefly: ignore[bad-argument-type]
    quarantine = Quarantine(workdir / f"quarantine-{jax.process_index()}.jsonl", data.max_bad_records)
    loader = data.loader(
        batching,
        quarantine,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        rows=process_rows(batch_sharding(mesh), experiment.batch_size),
    )
    evaluations = [
        open_evaluation(settings, described.module(), mesh, batching, data, quarantine)
        for settings in experiment.evaluations
    ]
    optimizer = experiment.optimizer.build(experiment.total_steps)
    init = state_initializer(task.init, optimizer, seed=experiment.seed, averaged=experiment.ema_decay is not None)
    abstract = abstract_state(init, mesh)
    step_function = compile_step(train_step(experiment, optimizer, mesh), abstract, batch_sharding(mesh))
    position = Position(order_of_examples(experiment, len(loader.source)))
    with ExitStack() as resources:
        interruption = resources.enter_context(Interruption())
        checkpoints = resources.enter_context(
            Checkpoints(
                checkpoint_folder or workdir / "checkpoints",
                keep_latest=experiment.keep_checkpoints,
                keep_every=experiment.keep_checkpoints_every,
            )
        )
        if checkpoints.latest_step() is not None:
            check_same_model(experiment, workdir)
        restored = checkpoints.restore(abstract)
        if restored is not None:
            position = Position.from_json(restored.position, position.order)
        if restored is None:
            state, notes = _first_state(experiment, compile_init(init, abstract))
        else:
            state, notes = restored.state, tuple(map(str, restored.casts))
        if primary:  # only now: a refused run leaves what the workdir says of the earlier one
            write_model_folder(experiment, workdir)
        telemetry = resources.enter_context(
            Telemetry(workdir, total_steps=last_step, start_step=int(state.step), primary=primary)
        )
        for note in (*checkpoints.rejected, *notes):
            telemetry.message(str(note))
        telemetry.message(_opening(experiment, state, mesh, len(loader.source)))
        run = _Run(
            experiment=experiment,
            workdir=workdir,
            last_step=last_step,
            mesh=mesh,
            loader=loader,
            evaluations=evaluations,
            abstract=abstract,
            step_function=step_function,
            checkpoints=checkpoints,
            interruption=interruption,
            telemetry=telemetry,
            recorder=Recorder(experiment, telemetry, quarantine, mesh=mesh, non_finite=position.non_finite),
            profiler=resources.enter_context(Profiler(workdir / "profile", profile)),
            state=state,
            position=position,
        )
        while int(run.state.step) < last_step:
            try:
                run.train()
            except NonFiniteLossError as error:
                run.roll_back(error)
        outcomes = run.evaluate_at_the_end()
        if quarantine.count:
            telemetry.message(f"{quarantine.count} records could not be used; they are named in {quarantine.path}")
        if primary:
            telemetry.message(f"report: {write_run_report(experiment, workdir, run.state, outcomes)}")
    return run.state


def _first_state(experiment: Experiment, init: Callable[[], TrainState]) -> tuple[TrainState, tuple[str, ...]]:
    """The state at step 0, and what is to be said of it."""
    if experiment.start is None:
        return init(), ()
    started = start_from(experiment.start, init(), positions_of(experiment.task.model))
    return started.state, (started.note,)


def _opening(experiment: Experiment, state: TrainState, mesh: Mesh, records: int) -> str:
    begins = f"continues after step {int(state.step):,}" if int(state.step) else "starts"
    return (
        f"{experiment.name} {begins}: {parameter_count(state.params):,} parameters, {records:,} "
        f"{experiment.task.examples}, "
        f"batch {experiment.batch_size:,} on {mesh.size} {mesh.devices.flat[0].platform} device(s), "
        f"{experiment.total_steps:,} steps"
    )


@dataclasses.dataclass
class _Run:
    """The parts of a run, and what its steps change: the state, and where it stands in the data."""

    experiment: Experiment
    workdir: Path
    last_step: int
    mesh: Mesh
    loader: TrainLoader
    evaluations: Sequence[OpenEvaluation]
    abstract: TrainState
    step_function: StepFunction
    checkpoints: Checkpoints
    interruption: Interruption
    telemetry: Telemetry
    recorder: Recorder
    profiler: Profiler
    state: TrainState
    position: Position

    def train(self) -> None:
        """Takes the steps from the state at hand to the last one.

        Raises:
            NonFiniteLossError: if a loss or gradient is not a number.
            InterruptedRunError: if asked to stop, when the state is saved.
        """
        start, rows = int(self.state.step), batch_sharding(self.mesh)
        if not self.position.evaluated:  # the run was stopped before it could
            self._evaluate(start)
        with closing(self.loader.iterate(start + self.position.skipped_batches)) as batches:
            for step in range(start + 1, self.last_step + 1):
                with self._saved_if_interrupted(step - 1), self.recorder.data_wait():
                    batch = place_batch(next(batches), rows)
                if step == start + 1:
                    self.step_function = compile_together(self.step_function, self.state, batch)
                self.profiler.before(step)
                self.state, metrics = self.step_function(self.state, batch)
                self.recorder.dispatched(step, metrics)
                if self.profiler.after(step, metrics["loss"]):
                    self.recorder.restart_clock()
                    self.telemetry.message(f"the profile is in {self.workdir / 'profile'}")
                if self.interruption.due() and step < self.last_step:
                    self._save_and_stop(step, evaluated=not self._due(step))
                self._check_saves(self.checkpoints.check_errors)
                self._evaluate(step)
                if step == self.last_step or self.experiment.checkpoint.due(step):
                    self._save(step)

    def roll_back(self, error: NonFiniteLossError) -> None:
        """Goes back to the newest good checkpoint and leaves out the batches up to the one that failed.

        Raises:
            NonFiniteLossError: if that is not what the experiment wants, or there is nothing to go back to.
        """
        if (
            self.experiment.non_finite.action != "rollback"
            or self.recorder.non_finite > self.experiment.non_finite.limit
        ):
            raise error
        self._check_saves(self.checkpoints.wait)
        restored = self.checkpoints.restore(self.abstract)
        if restored is None:
            raise NonFiniteLossError(f"{error}; there is no checkpoint to go back to yet", error.step) from error
        self.state = restored.state
        left_out = error.step - restored.step
        self.position = dataclasses.replace(
            self.position, skipped_batches=self.position.skipped_batches + left_out, evaluated=True
        )
        self.recorder.forget()
        self.telemetry.rewind(restored.step)
        for note in self.checkpoints.rejected:
            self.telemetry.message(str(note))
        self.telemetry.message(f"{error}: back to step {restored.step}, and {left_out} batches are left out")

    def evaluate_at_the_end(self) -> dict[str, Outcome]:
        """All evaluations, of the last state, by name."""
        outcomes = {}
        for evaluation in self.evaluations:
            try:
                with self.interruption.waiting():
                    outcome = evaluation.run(self.state.variables(), self.interruption.check)
            except Interrupted:
                raise InterruptedRunError(self.last_step) from None
            outcomes[evaluation.settings.name] = outcome
            self._log_evaluation(self.last_step, evaluation, outcome)
        return outcomes

    def _due(self, step: int) -> list[OpenEvaluation]:
        """The evaluations to be made on the way at a step; those of the last step are made at the end."""
        return [
            evaluation
            for evaluation in self.evaluations
            if evaluation.settings.every.due(step) and step < self.last_step
        ]

    def _evaluate(self, step: int) -> None:
        for evaluation in self._due(step):
            self.recorder.settle()
            with self._saved_if_interrupted(step, evaluated=False):
                outcome = evaluation.run(self.state.variables(), self.interruption.check)
            self._log_evaluation(step, evaluation, outcome)
            self.recorder.restart_clock()

    def _log_evaluation(self, step: int, evaluation: OpenEvaluation, outcome: Outcome) -> None:
        self.telemetry.log_evaluation(step, evaluation.settings.name, outcome.numbers)

    def _save(self, step: int, *, evaluated: bool = True) -> None:
        self.recorder.settle()  # what is no longer a number must not be saved
        self.position = dataclasses.replace(self.position, non_finite=self.recorder.non_finite, evaluated=evaluated)
        self._check_saves(self.checkpoints.wait)  # the next save would wait for the last one anyway
        self.telemetry.sync()
        self.checkpoints.save(step, self.state, self.position.to_json(step))

    def _check_saves(self, check: Callable[[], None]) -> None:
        """Ends the run if an earlier save failed in the background, or says so, as the experiment wants."""
        try:
            check()
        except SaveError as error:
            if self.experiment.failed_save == "stop":
                raise
            self.telemetry.message(str(error))

    @contextmanager
    def _saved_if_interrupted(self, step: int, *, evaluated: bool = True) -> Iterator[None]:
        """A wait, at the state of `step`, that SIGTERM ends; worker processes that it ended do not count as errors."""
        try:
            with self.interruption.waiting():
                yield
        except (Interrupted, Exception):
            if not self.interruption.received:
                raise
            self._save_and_stop(step, evaluated=evaluated)

    def _save_and_stop(self, step: int, *, evaluated: bool) -> None:
        if step > 0:
            self._save(step, evaluated=evaluated)
            self.checkpoints.wait()
        raise InterruptedRunError(step) from None
