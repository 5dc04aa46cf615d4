"""What a training step will need on hardware that need not exist: the real step, compiled and weighed.

The TPU numbers come from the TPU compiler, which knows every buffer and every instruction but measures no time.
"""

import dataclasses
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from align_jax.parallel.mesh import batch_sharding, check_batch_size
from align_jax.training.experiment import Experiment
from align_jax.training.flops import forward_flops_per_example, recomputed_flops_per_example, training_flops_per_example
from align_jax.training.planning.collectives import Traffic, collectives, of_arrays, traffic_by_kind
from align_jax.training.state import TrainState, abstract_state, state_initializer
from align_jax.training.step import compile_step, train_step
from align_jax.training.tasks import Contrastive

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# The two ways in which the TPU compiler says that a program is too large: needed, then available.
_TOO_LARGE = (
    re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while it runs the step."""

    arguments: int  # parameters, optimizer, statistics, and the device's rows of the batch
    outputs: int
    temporaries: int  # activations kept for the gradient, and scratch
    aliased: int  # outputs that lie where arguments lay
    program: int

    @property
    def peak(self) -> int:
        """All of them together."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the compiler says of one step. Bytes and FLOPs are of one device and one step, unless they say otherwise."""

    experiment: str
    examples: str  # what a batch is made of: pairs or images
    device_kind: str
    devices: int
    batch_size: int
    rematerialize: tuple[str, ...]
    fits: bool
    available_bytes: int | None  # to a program on one device; None where that is not known
    needed_bytes: int  # the peak; of temporaries alone where the compiler gave up
    memory: Memory | None  # None where the compiler gave up
    forward_flops_per_example: float
    training_flops_per_example: float
    recomputed_flops_per_example: float
    compiled_flops: float | None  # with everything elementwise; a loop's body counts once
    memory_traffic_bytes: float | None
    collectives: dict[str, Traffic]
    embedding_collectives: dict[str, Traffic]  # of these, the loss's: embeddings of the whole batch, or their gradients
    compile_seconds: float


def plan_step(experiment: Experiment, devices: Sequence[jax.Device], available_bytes: int | None) -> Plan:
    """Compiles the training step of an experiment for some devices; neither data nor tokenizer need exist.

    Args:
        experiment: as it would be trained.
        devices: of a topology (`align_jax.parallel.topologies`).
        available_bytes: memory of one device, see `available_memory`.

    Raises:
        ValueError: if mesh and batch do not fit the devices.
    """
    program, arguments = _step_and_arguments(experiment, experiment.mesh.build(devices))
    began = time.monotonic()
    compiled, needed = None, 0
    try:
        compiled = program.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        needed, available_bytes = _too_large(error)
    seconds = time.monotonic() - began
    memory = None if compiled is None else _memory(compiled)
    needed = needed if memory is None else memory.peak
    costs = {} if compiled is None else compiled.cost_analysis() or {}
    communication = [] if compiled is None else collectives(compiled.as_text() or "")
    embeddings_bytes = _embeddings_bytes(experiment)
    return Plan(
        experiment=experiment.name,
        examples=experiment.task.examples,
        device_kind=devices[0].device_kind,
        devices=len(devices),
        batch_size=experiment.batch_size,
        rematerialize=experiment.task.rematerialize,
        fits=memory is not None and (available_bytes is None or needed <= available_bytes),
        available_bytes=available_bytes,
        needed_bytes=needed,
        memory=memory,
        forward_flops_per_example=forward_flops_per_example(experiment),
        training_flops_per_example=training_flops_per_example(experiment),
        recomputed_flops_per_example=recomputed_flops_per_example(experiment),
        compiled_flops=costs.get("flops"),
        memory_traffic_bytes=costs.get("bytes accessed"),
        collectives=traffic_by_kind(communication),
        embedding_collectives=traffic_by_kind(of_arrays(communication, embeddings_bytes)),
        compile_seconds=seconds,
    )


def _embeddings_bytes(experiment: Experiment) -> int:
    """Size of the embeddings of a batch, which the contrastive loss gathers; 0 where there is nothing to gather."""
    if not isinstance(experiment.task, Contrastive):
        return 0
    return 4 * experiment.batch_size * experiment.task.model.projection_dim  # float32


def available_memory(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that a program can have on one of the devices; `None` where nobody knows."""
    device = devices[0]
    if device.platform == "cpu":  # all of them share the memory of the host
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    if device.platform == "tpu":
        return _refused_at(device)
    return (device.memory_stats() or {}).get("bytes_limit")


def _step_and_arguments(experiment: Experiment, mesh: Mesh) -> tuple[Any, tuple[TrainState, Any]]:
    check_batch_size(experiment.batch_size, mesh)
    optimizer = experiment.optimizer.build(experiment.total_steps)
    init = state_initializer(
        experiment.task.init, optimizer, seed=experiment.seed, averaged=experiment.ema_decay is not None
    )
    state, rows = abstract_state(init, mesh), batch_sharding(mesh)
    shapes = experiment.task.abstract_batch(experiment.data, experiment.batch_size)  # pyrefly: ignore[bad-argument-type]
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows), shapes)
    return compile_step(train_step(experiment, optimizer, mesh), state, rows), (state, batch)


def _memory(compiled: jax.stages.Compiled) -> Memory:
    found: Any = compiled.memory_analysis()
    return Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        program=found.generated_code_size_in_bytes,
    )


def _too_large(error: Exception) -> tuple[int, int]:
    """Bytes needed and available, from the compiler's refusal; any other error is raised again."""
    if "RESOURCE_EXHAUSTED" in str(error):
        for pattern in _TOO_LARGE:
            if (found := pattern.search(str(error))) is not None:
                needed, needed_unit, available, available_unit = found.groups()
                return int(float(needed) * _UNITS[needed_unit]), int(float(available) * _UNITS[available_unit])
    raise error


def _refused_at(device: jax.Device) -> int | None:
    """The memory that the TPU compiler names when it refuses a program of a terabyte."""
    huge = jax.ShapeDtypeStruct((2**20, 2**18), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda array: array * 2).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        return _too_large(error)[1]
    return None
