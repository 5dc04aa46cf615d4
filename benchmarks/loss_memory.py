"""Peak temporary memory of the contrastive loss and its gradient, in every form, as the TPU compiler plans it.

Nothing runs: the loss alone is compiled for topologies of which no chip is here; it needs the extra `tpu` and no TPU.
Embeddings and their gradients are arguments and results, and are not counted.

    python benchmarks/loss_memory.py
    python benchmarks/loss_memory.py --topologies v5e:4x8 --batch-sizes 16384 --forms chunked ring
"""

import argparse
import os
from functools import partial
from typing import Any

# Before JAX is imported: there is no TPU to ask for its kind, and another process may be compiling.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from align_jax.losses import LOSS_FORMS, LossForm, contrastive_loss, sigmoid_loss
from align_jax.parallel.mesh import BATCH_AXES, MeshShape, batch_sharding, replicated

OBJECTIVES = ("softmax", "sigmoid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", nargs="+", default=["v5e:16x16", "v3:16x32"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16_384, 65_536], help="global")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES)
    parser.add_argument("--forms", nargs="+", choices=LOSS_FORMS, default=LOSS_FORMS)
    parser.add_argument("--width", type=int, default=640, help="of an embedding")
    parser.add_argument("--chunk-size", type=int, help="of the chunked form; its default when absent")
    arguments = parser.parse_args()
    jax.config.update("jax_exec_time_optimization_effort", -1.0)  # the same memory, in half of the time
    print("| topology | batch | logits MB | objective | " + " | ".join(f"{form} MB" for form in arguments.forms) + " |")
    print("|---" * (4 + len(arguments.forms)) + "|")
    for topology in arguments.topologies:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        mesh = MeshShape().build(devices)
        for batch_size in arguments.batch_sizes:
            logits_bytes = 2 * (batch_size // len(devices)) * batch_size * 4
            for objective in arguments.objectives:
                row = [
                    temporary_bytes(objective, form, mesh, batch_size, arguments.width, arguments.chunk_size)
                    for form in arguments.forms
                ]
                cells = " | ".join("does not fit" if size is None else f"{size / 1e6:,.2f}" for size in row)
                print(
                    f"| {topology} | {batch_size:,} | {logits_bytes / 1e6:,.1f} | {objective} | {cells} |", flush=True
                )


def temporary_bytes(
    objective: str, form: LossForm, mesh: jax.sharding.Mesh, batch_size: int, width: int, chunk_size: int | None
) -> int | None:
    """What a device needs at most besides arguments and results; `None` if that is more than it has."""
    try:
        return compile_loss(objective, form, mesh, batch_size, width, chunk_size).memory_analysis().temp_size_in_bytes
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise


def compile_loss(
    objective: str, form: LossForm, mesh: jax.sharding.Mesh, batch_size: int, width: int, chunk_size: int | None = None
) -> Any:
    """Value and gradients of the loss for embeddings that lie on a mesh as in training."""
    function = contrastive_loss if objective == "softmax" else sigmoid_loss
    scalars = 1 if objective == "softmax" else 2
    rows, everywhere = PartitionSpec(BATCH_AXES), PartitionSpec()
    compare = partial(function, form=form, chunk_size=chunk_size)
    if form != "dense":
        compare = jax.shard_map(
            partial(compare, axis_names=BATCH_AXES),
            mesh=mesh,
            in_specs=(rows, rows, *[everywhere] * scalars),
            out_specs=everywhere,
        )
    shardings = (batch_sharding(mesh), batch_sharding(mesh), *[replicated(mesh)] * scalars)

    def abstract(shape: tuple[int, ...], sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    shapes = [(batch_size, width)] * 2 + [()] * scalars
    inputs = [abstract(shape, sharding) for shape, sharding in zip(shapes, shardings, strict=True)]
    gradient = jax.value_and_grad(lambda *values: compare(*values).loss, argnums=tuple(range(2 + scalars)))
    return jax.jit(gradient, out_shardings=(replicated(mesh), shardings)).lower(*inputs).compile()


if __name__ == "__main__":
    main()
