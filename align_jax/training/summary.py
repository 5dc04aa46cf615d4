"""Collects what a run's report shows from its workdir and its last evaluation."""

import dataclasses
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align_jax.parallel.sharding import parameter_count
from align_jax.training import showcase
from align_jax.training.evaluations import ClassificationOutcome, Outcome, RetrievalOutcome
from align_jax.training.experiment import Experiment
from align_jax.training.metrics_log import read_metrics
from align_jax.training.report import Report, write_report
from align_jax.training.state import TrainState


def write_run_report(experiment: Experiment, workdir: Path, state: TrainState, outcomes: Mapping[str, Outcome]) -> Path:
    """Writes `report.html` of a run and returns its path; pictures come from the first evaluation."""
    metrics = read_metrics(workdir / "metrics.jsonl")
    examples = experiment.task.examples
    devices = list(state.step.sharding.device_set)
    summary = {
        "parameters": f"{parameter_count(state.params):,}",
        "steps": f"{int(state.step):,} of {experiment.total_steps:,}",
        "batch": f"{experiment.batch_size:,} {examples}",
        "speed": _median(metrics, f"{examples}_per_second", f"{{:,.0f}} {examples}/s"),
        "speed of a device": _median(metrics, f"{examples}_per_second_per_device", f"{{:,.4g}} {examples}/s"),
        "share of peak FLOP/s": _median(metrics, "flop_utilization", "{:.1%}"),
        "waiting for data": _median(metrics, "data_wait_share", "{:.1%}"),
        "hardware": f"{len(devices)} x {devices[0].device_kind} ({platform.machine()})",
    }
    outcome = next(iter(outcomes.values()), None)
    found = outcome if isinstance(outcome, RetrievalOutcome) else None
    temperature = float(state.variables()["params"].get("temperature", 1.0))
    report = Report(
        title=experiment.name,
        summary={name: text for name, text in summary.items() if text is not None},
        experiment=dataclasses.asdict(experiment),
        metrics=metrics,
        image_queries=showcase.image_queries(found) if found else (),
        text_queries=showcase.text_queries(found) if found else (),
        zero_shot=showcase.zero_shot(found, temperature) if found else (),
        classified=showcase.classified(outcome) if isinstance(outcome, ClassificationOutcome) else (),
    )
    path = workdir / "report.html"
    write_report(path, report)
    return path


def _median(metrics: Sequence[Mapping[str, Any]], key: str, form: str) -> str | None:
    """The median over the run, or None where it was not measured."""
    values = [line[key] for line in metrics if key in line]
    return f"{form.format(statistics.median(values))} (median)" if values else None
