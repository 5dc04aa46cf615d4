"""The largest batch, and the cheapest rematerialisation, that fit a device's memory; each try is a compilation."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from align_jax.training.experiment import Experiment
from align_jax.training.flops import costs_of_parts
from align_jax.training.planning.plan import Plan

Try = Callable[[Experiment], Plan]


class SearchResult(NamedTuple):
    """What fits; `None` where nothing does."""

    as_configured: Plan | None  # at the experiment's batch size, with the cheapest rematerialisation
    largest: Plan | None  # the largest batch, with the cheapest rematerialisation for it


def search(experiment: Experiment, unit: int, attempt: Try) -> SearchResult:
    """Looks for both by bisection.

    Args:
        experiment: whose batch size is where the search starts, and whose own rematerialisation is ignored.
        unit: batch sizes are multiples of it, see `batch_unit`.
        attempt: compiles an experiment; it is called once for each that is in question.
    """
    ladder = rematerialization_ladder(experiment)
    tried: dict[tuple[int, int], Plan] = {}

    def plan(batch_size: int, rung: int) -> Plan:
        if (batch_size, rung) not in tried:
            task = dataclasses.replace(experiment.task, rematerialize=ladder[rung])
            tried[batch_size, rung] = attempt(dataclasses.replace(experiment, batch_size=batch_size, task=task))
        return tried[batch_size, rung]

    def cheapest(batch_size: int) -> Plan | None:
        rung = _lowest(range(len(ladder)), lambda rung: plan(batch_size, rung).fits)
        return None if rung is None else plan(batch_size, rung)

    as_configured = cheapest(experiment.batch_size)
    size = largest_batch(experiment.batch_size, unit, lambda batch_size: plan(batch_size, len(ladder) - 1).fits)
    return SearchResult(as_configured, None if size is None else cheapest(size))


def rematerialization_ladder(experiment: Experiment) -> list[tuple[str, ...]]:
    """Ever more parts to rematerialise, from none to all; every rung saves memory and costs FLOPs.

    The parts join in the order of the activations that they save for each FLOP they compute twice.
    """
    costs = costs_of_parts(experiment)
    joining = sorted(costs, key=lambda part: costs[part].forward_flops / costs[part].inner_activations)
    rungs = itertools.accumulate(joining, lambda rung, part: (*rung, part), initial=())
    return [tuple(part for part in costs if part in rung) for rung in rungs]


def batch_unit(experiment: Experiment, shards: int) -> int:
    """The smallest batch whose micro-batches on every device are whole groups of batch norm."""
    return shards * experiment.task.accumulation * (experiment.task.examples_together or 1)


def largest_batch(start: int, unit: int, fits: Callable[[int], bool]) -> int | None:
    """The largest multiple of `unit` that fits, found by doubling and halving from `start`; `None` if none does."""
    units = max(1, start // unit)
    if fits(units * unit):
        while fits(2 * units * unit):
            units *= 2
        lower, upper = units, 2 * units
    else:
        lower, upper = 0, units
    while upper - lower > 1:
        middle = (lower + upper) // 2
        lower, upper = (middle, upper) if fits(middle * unit) else (lower, middle)
    return lower * unit if lower else None


def _lowest(rungs: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The first rung that fits, where every later one does too; the first is tried first, since it often fits."""
    if fits(rungs[0]):
        return rungs[0]
    if not fits(rungs[-1]):
        return None
    lower, upper = 0, len(rungs) - 1
    while upper - lower > 1:
        middle = (lower + upper) // 2
        lower, upper = (lower, middle) if fits(rungs[middle]) else (middle, upper)
    return rungs[upper]
