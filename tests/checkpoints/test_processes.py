"""Two processes agree on the step that they continue from."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from align_jax.checkpoints import Checkpoints
from align_jax.files import write_manifest
from tests.checkpoints.small_state import abstract

PROCESS = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
directory, number, port = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
from align_jax.checkpoints import CheckpointError, Checkpoints
from align_jax.parallel.mesh import MeshShape

mesh = MeshShape(data=2, fsdp=4).build()
places = {"kernel": NamedSharding(mesh, PartitionSpec("fsdp")), "step": NamedSharding(mesh, PartitionSpec())}
make = jax.jit(
    lambda step: {"kernel": jnp.arange(16.0).reshape(8, 2) + step, "step": jnp.int32(step)},
    static_argnums=0, out_shardings=places,
)
abstract = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    jax.eval_shape(make.__wrapped__, 0), places,
)
found = []
with Checkpoints(directory, keep_latest=2) as checkpoints:
    def restore():
        restored = checkpoints.restore(abstract)
        found.append(restored and [restored.step, int(restored.state["step"]), [r.step for r in restored.rejected]])

    restore()
    for step in (10, 20, 30):
        checkpoints.save(step, make(step), {})
    checkpoints.wait()
    restore()
    if number == 0:
        (directory / "30" / "position" / "metadata").unlink()
    restore()
    checkpoints.save(30, make(30), {})
    restore()
    if number == 0:
        for step in (20, 30):
            (directory / str(step) / "SHA256SUMS").unlink()
    try:
        restore()
    except CheckpointError as error:
        found.append("SHA256SUMS is missing" in str(error))
print(json.dumps(found))
"""


def test_two_processes_save_fall_back_and_fail_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path / "run"), str(number), port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    expected = "[null, [30, 30, []], [20, 20, [30]], [30, 30, []], true]"
    assert [out.splitlines()[-1:] for out, _ in outputs] == [[expected]] * 2, outputs
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["20", "30", "30.damaged"]

    write_manifest(tmp_path / "run" / "30")  # its files are those that both processes wrote
    kernel = jnp.arange(16.0).reshape(8, 2) + 30
    with Checkpoints(tmp_path / "run") as checkpoints:
        restored = checkpoints.restore(abstract({"kernel": kernel, "step": jnp.int32(30)}))
    np.testing.assert_array_equal(restored.state["kernel"], kernel)
