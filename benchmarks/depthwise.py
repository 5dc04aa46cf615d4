"""Depthwise convolution on this machine: XLA's grouped convolution against the forms that `align_jax` chooses.

    python benchmarks/depthwise.py --threads 1

Prints a Markdown table: median milliseconds of the output, the input gradient and the kernel gradient, each compiled by
itself, and how many times faster the chosen form is. The two variants take turns, so a disturbance meets both.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from align_jax.ops.depthwise_conv import (
    choose_forms,
    forward_by_grouping,
    input_gradient_by_grouping,
    kernel_gradient_by_grouping,
)

# Batch, height = width, channels, kernel, stride.
LAYERS = {
    "quickstart": [
        (64, 32, 16, 3, 1),
        (64, 32, 32, 3, 1),
        (64, 16, 96, 3, 1),
        (64, 16, 144, 3, 2),
        (64, 16, 144, 5, 2),
        (64, 8, 240, 5, 1),
        (64, 4, 480, 3, 1),
        (64, 4, 480, 5, 1),
    ],
    "b7": [
        (4, 144, 64, 3, 1),
        (4, 144, 192, 3, 2),
        (4, 72, 288, 3, 1),
        (4, 72, 288, 5, 2),
        (4, 36, 480, 5, 1),
        (4, 18, 960, 3, 1),
        (4, 18, 960, 5, 1),
        (4, 9, 2304, 5, 1),
        (4, 9, 3840, 3, 1),
    ],
}


@dataclass(frozen=True)
class Arguments:
    """Time the depthwise convolution's forms, layer by layer."""

    layers: Literal["quickstart", "b7", "all"] = "all"
    """Which network's layers: the quickstart's small tower, or EfficientNet-B7 at 289 pixels."""
    repeats: int = 5
    """Timed runs of each variant, each after one that is not timed."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = None
    """Processor cores to run on; by default, those of the process."""


def main(arguments: Arguments) -> None:
    if arguments.threads is not None:  # XLA sizes its thread pool by the cores that are allowed when it starts
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    cores, platform = len(os.sched_getaffinity(0)), jax.default_backend()
    print(f"{platform}, {cores} core(s), {arguments.dtype}, medians of {arguments.repeats}; grouped / chosen in ms\n")
    print("| batch × px × channels | k | stride | forward | | input gradient | | kernel gradient | | all three |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    networks = LAYERS if arguments.layers == "all" else {arguments.layers: LAYERS[arguments.layers]}
    for layers in networks.values():
        for layer in layers:
            print(row(*layer, dtype=jnp.dtype(arguments.dtype), repeats=arguments.repeats), flush=True)


def row(batch: int, pixels: int, channels: int, size: int, stride: int, dtype: jnp.dtype, repeats: int) -> str:
    """One layer's line of the table."""
    before = size // 2 if stride == 1 else size // 2 - 1
    padding = ((before, size // 2),) * 2
    images = jax.random.normal(jax.random.key(0), (batch, pixels, pixels, channels), dtype)
    kernel = jax.random.normal(jax.random.key(1), (size, size, 1, channels), dtype)
    gradient = jnp.cos(forward_by_grouping(images, kernel, stride, padding))
    chosen = choose_forms(jax.default_backend(), size, stride)

    def directions(forward: Callable, input_gradient: Callable, kernel_gradient: Callable) -> list[Callable]:
        return [
            partial(jax.jit(lambda x, k: forward(x, k, stride, padding)), images, kernel),
            partial(jax.jit(lambda g, k: input_gradient(g, k, stride, padding, (pixels, pixels))), gradient, kernel),
            partial(jax.jit(lambda x, g: kernel_gradient(x, g, stride, padding, size)), images, gradient),
        ]

    grouped = directions(forward_by_grouping, input_gradient_by_grouping, kernel_gradient_by_grouping)
    cells, totals = [], [0.0, 0.0]
    for old, new in zip(grouped, directions(*chosen), strict=True):
        milliseconds = interleaved_medians([old, new], repeats)
        totals = [total + each for total, each in zip(totals, milliseconds, strict=True)]
        cells += [f"{milliseconds[0]:.1f} / {milliseconds[1]:.2f}", f"{milliseconds[0] / milliseconds[1]:.1f}×"]
    cells.append(f"{totals[0] / totals[1]:.1f}×")
    return f"| {batch} × {pixels} × {channels} | {size} | {stride} | " + " | ".join(cells) + " |"


def interleaved_medians(variants: list[Callable], repeats: int) -> list[float]:
    """Median milliseconds of each variant; they take turns."""
    times = [[] for _ in variants]
    for _ in range(repeats):
        for run, measured in zip(variants, times, strict=True):
            jax.block_until_ready(run())  # compiles, and lets the other variant's memory go back to the system untimed
            start = time.perf_counter()
            jax.block_until_ready(run())
            measured.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(measured) for measured in times]


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
