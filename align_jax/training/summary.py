"""Collects what a run's report shows from its workdir and its last evaluation."""

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path

from align_jax.parallel.sharding import parameter_count
from align_jax.training import showcase
from align_jax.training.evaluations import RetrievalOutcome
from align_jax.training.experiment import Experiment
from align_jax.training.metrics_log import read_metrics
from align_jax.training.report import Report, write_report
from align_jax.training.state import TrainState


def write_run_report(
    experiment: Experiment, workdir: Path, state: TrainState, outcomes: Mapping[str, RetrievalOutcome]
) -> Path:
    """Writes `report.html` of a run and returns its path; pictures come from the first evaluation."""
    metrics = read_metrics(workdir / "metrics.jsonl")
    speeds = sorted(line["pairs_per_second"] for line in metrics if "pairs_per_second" in line)
    devices = list(state.step.sharding.device_set)
    summary = {
        "parameters": f"{parameter_count(state.params):,}",
        "steps": f"{int(state.step):,} of {experiment.total_steps:,}",
        "batch": f"{experiment.batch_size:,} pairs",
        "speed": f"{speeds[len(speeds) // 2]:,.0f} pairs/s (median)" if speeds else "not measured",
        "hardware": f"{len(devices)} x {devices[0].device_kind} ({platform.machine()})",
    }
    outcome = next(iter(outcomes.values()), None)
    temperature = float(state.variables()["params"].get("temperature", 1.0))
    report = Report(
        title=experiment.name,
        summary=summary,
        experiment=dataclasses.asdict(experiment),
        metrics=metrics,
        image_queries=showcase.image_queries(outcome) if outcome else (),
        text_queries=showcase.text_queries(outcome) if outcome else (),
        zero_shot=showcase.zero_shot(outcome, temperature) if outcome else (),
    )
    path = workdir / "report.html"
    write_report(path, report)
    return path
