"""Times a checkpoint of the full-size state: how long the training loop waits, and what goes on behind it.

    PYTHONPATH=. python benchmarks/checkpoint.py [--directory runs/disk] [--saves 3]

The state is that of `configs/align_b7_base_coyo.py` with averaged parameters: B7 + BERT-base, LAMB's two moments and
the average, float32, random. The step is a stand-in that overwrites every array of the (donated) state.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax.checkpoints import Checkpoints
from align_jax.files import manifest_problems, write_manifest
from align_jax.parallel.host_memory import keep_freed_memory
from align_jax.parallel.mesh import MeshShape
from align_jax.training.state import abstract_state, state_initializer
from configs.align_b7_base_coyo import get_config

PART = 100  # arrays of one program; a program of all 4,000 takes minutes to compile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="on the disk to be measured; the system's temporary folder when absent")
    parser.add_argument("--saves", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()  # as `align-jax train` does, before JAX starts its threads
    abstract = _abstract()
    state = _random(abstract)
    size_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(f"{len(jax.tree.leaves(state)):,} arrays, {size_bytes / 1e9:.2f} GB, on {jax.device_count()} device(s)")
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        _measure(Path(folder), abstract, state, arguments.saves)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def _measure(folder: Path, abstract: Any, state: Any, saves: int) -> None:
    overwrite = jax.jit(
        lambda leaves: [leaf * jnp.asarray(0.5, leaf.dtype) for leaf in leaves],
        donate_argnums=0,
    )

    def step(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        parts = [overwrite(leaves[start : start + PART]) for start in range(0, len(leaves), PART)]
        return jax.tree.unflatten(structure, [leaf for part in parts for leaf in part])

    rows: dict[str, list[tuple[float, float]]] = {}

    def timed(what: str, call: Any) -> Any:
        began, worked = time.perf_counter(), time.thread_time()
        result = call()
        rows.setdefault(what, []).append((time.perf_counter() - began, time.thread_time() - worked))
        return result

    state = jax.block_until_ready(step(state))
    with Checkpoints(folder, keep_latest=1) as checkpoints:
        checkpoints.restore(abstract)
        for number in range(1, saves + 1):
            for _ in range(3):
                state = timed("a step without a save", lambda now=state: jax.block_until_ready(step(now)))
            timed("`save` returns", lambda now=state, number=number: checkpoints.save(number, now, {}))
            state = timed("the step after it", lambda now=state: jax.block_until_ready(step(now)))
            timed("until it is on disk, with its manifest", checkpoints.wait)
        newest = folder / str(saves)
        timed("of which the manifest", lambda: write_manifest(newest))
        timed("checking it", lambda: manifest_problems(newest))
        del state
        timed("checking and restoring it", lambda: jax.block_until_ready(checkpoints.restore(abstract)))
    print("| | seconds (median) | slowest | processor seconds of the calling thread |\n|---|---|---|---|")
    for what, row in rows.items():
        seconds, worked = zip(*row, strict=True)
        print(f"| {what} | {statistics.median(seconds):.2f} | {max(seconds):.2f} | {statistics.median(worked):.2f} |")


def _abstract() -> Any:
    experiment = get_config()
    init = state_initializer(
        experiment.task.init, experiment.optimizer.build(experiment.total_steps), seed=0, averaged=True
    )
    return abstract_state(init, MeshShape(data=1, fsdp=jax.device_count()).build())


def _random(abstract: Any) -> Any:
    generator = np.random.default_rng(0)

    def fill(leaf: Any) -> Any:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        values = generator.standard_normal(leaf.shape, np.float32) if floating else np.zeros(leaf.shape)
        return jax.device_put(np.asarray(values, leaf.dtype), leaf.sharding)

    return jax.tree.map(fill, abstract)


if __name__ == "__main__":
    main()
