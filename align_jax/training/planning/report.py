"""Plans on the screen: compiles them for a topology, says what it is doing, and prints a table of each."""

import dataclasses
import time

import jax
from rich.console import Console
from rich.table import Table

from align_jax.parallel.mesh import batch_shards
from align_jax.parallel.topologies import devices_per_chip, is_tpu, topology_devices
from align_jax.training.experiment import Experiment
from align_jax.training.hardware import CHIPS
from align_jax.training.planning.plan import Plan, available_memory, plan_step
from align_jax.training.planning.search import batch_unit, search

_GIB = 2**30
# Halves the time of compilation; memory, FLOPs and collectives stay as they are.
_LEAST_EFFORT = -1.0


def plan_for_topology(
    experiment: Experiment,
    topology: str,
    *,
    slices: int = 1,
    memory_bytes: int | None = None,
    searching: bool = False,
    quiet: bool = False,
) -> dict[str, Plan | None]:
    """Compiles the step of an experiment for a topology, or searches for what fits, and prints tables of it.

    Args:
        experiment: as it would be trained.
        topology: see `align_jax.parallel.topologies.topology_devices`.
        slices: TPU slices of that size.
        memory_bytes: of one device that the step may take, where that is less than there is.
        searching: look for the largest batch and the cheapest rematerialisation.
        quiet: print progress alone, on standard error.

    Returns:
        Plans by title, in the order they are printed; `None` where nothing fits.
    """
    devices = topology_devices(topology, slices=slices)
    progress, output = Console(stderr=True, highlight=False, soft_wrap=True), Console(highlight=False)
    if is_tpu(topology):
        jax.config.update("jax_exec_time_optimization_effort", _LEAST_EFFORT)
    available = min(filter(None, (available_memory(devices), memory_bytes)), default=None)

    def attempt(tried: Experiment) -> Plan:
        parts = ", ".join(tried.task.rematerialize) or "nothing"
        progress.print(
            f"{time.strftime('%H:%M:%S')} compiling batch {tried.batch_size:,} for {topology}, {parts} rematerialised"
        )
        plan = plan_step(tried, devices, available)
        progress.print(f"{time.strftime('%H:%M:%S')} {_verdict(plan)} (compiled in {plan.compile_seconds:.0f} s)")
        return plan

    plans: dict[str, Plan | None] = {}
    if searching:
        mesh = experiment.mesh.build(devices)
        found = search(experiment, batch_unit(experiment, batch_shards(mesh)), attempt)
        plans = {"least rematerialisation": found.as_configured, "largest batch": found.largest}
    else:
        plans = {"step": attempt(experiment)}
    if not quiet:
        cores = devices_per_chip(topology, len(devices), slices=slices)
        name = topology if slices == 1 else f"{slices} x {topology}"
        for title, plan in plans.items():
            output.print(f"{title}: nothing fits" if plan is None else _table(plan, f"on {name}: {title}", cores))
    return plans


def _verdict(plan: Plan) -> str:
    available = "" if plan.available_bytes is None else f" of {plan.available_bytes / _GIB:.2f}"
    if plan.memory is None:
        return f"does not fit: temporaries alone need {plan.needed_bytes / _GIB:.2f}{available} GiB"
    return f"{'fits' if plan.fits else 'does not fit'}: {plan.needed_bytes / _GIB:.2f}{available} GiB a device"


def _table(plan: Plan, where: str, cores: int | None) -> Table:
    table = Table(title=f"{plan.experiment} {where}", title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in _rows(plan, cores):
        table.add_row(name, value)
    return table


def _rows(plan: Plan, cores: int | None) -> list[tuple[str, str]]:
    rows = [
        ("devices", f"{plan.devices} x {plan.device_kind}"),
        (f"{plan.examples} a step", f"{plan.batch_size:,}, {plan.batch_size / plan.devices:,.0f} a device"),
        ("rematerialised", ", ".join(plan.rematerialize) or "nothing"),
        ("memory a device", _verdict(plan)),
    ]
    if plan.memory is not None:
        shares = dataclasses.asdict(plan.memory)
        rows += [(f"  {share}", f"{amount / _GIB:9.3f} GiB") for share, amount in shares.items()]
    rows += [
        (f"FLOPs of one of the {plan.examples}", f"{plan.training_flops_per_example / 1e9:,.1f} G to train"),
        ("  forward", f"{plan.forward_flops_per_example / 1e9:,.1f} G"),
        ("  computed twice", f"{plan.recomputed_flops_per_example / 1e9:,.1f} G"),
    ]
    if plan.compiled_flops is not None:
        rows.append(("FLOPs a device", f"{plan.compiled_flops / 1e12:,.2f} T a step, as the compiler counts"))
    if plan.memory_traffic_bytes is not None:
        rows.append(("memory traffic", f"{plan.memory_traffic_bytes / _GIB:,.1f} GiB a device and step"))
    rows += [
        (kind, f"{traffic.count} of {traffic.arrays} arrays, {traffic.bytes / 2**20:,.1f} MiB")
        for kind, traffic in plan.collectives.items()
    ]
    if plan.embedding_collectives:
        counts = [f"{traffic.arrays} by {kind}" for kind, traffic in plan.embedding_collectives.items()]
        rows.append(("  embeddings", f"and their gradients: {', '.join(counts)}"))
    rows += _least_times(plan, cores)
    rows.append(("compiled in", f"{plan.compile_seconds:.0f} s"))
    return rows


def _least_times(plan: Plan, cores: int | None) -> list[tuple[str, str]]:
    """Seconds that a step cannot be faster than, by the data sheet; no prediction of how long it takes."""
    chip = CHIPS.get(plan.device_kind)
    if chip is None:
        return []
    cores = cores or chip.devices
    flops = (plan.training_flops_per_example + plan.recomputed_flops_per_example) * plan.batch_size / plan.devices
    lines = [("least time", f"{flops * cores / chip.flops_per_second * 1e3:,.0f} ms for the FLOPs at the chip's peak")]
    if plan.memory_traffic_bytes is not None:
        traffic = plan.memory_traffic_bytes * cores / chip.memory_bytes_per_second
        lines.append(("", f"{traffic * 1e3:,.0f} ms for the memory traffic"))
    return lines
