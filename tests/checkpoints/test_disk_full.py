"""A disk that fills up while a step is written costs that step only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAINING = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from align_jax.checkpoints import Checkpoints, SaveError
from jax.sharding import SingleDeviceSharding

def state(step, count):
    return {"kernel": jax.random.normal(jax.random.key(step), (count,))}

directory = Path(sys.argv[1], "checkpoints")
place = SingleDeviceSharding(jax.devices()[0])
with Checkpoints(directory, keep_latest=3) as checkpoints:
    checkpoints.restore(None)
    checkpoints.save(10, state(10, 1000), {})
    checkpoints.wait()
    checkpoints.save(20, state(20, 2_000_000), {})  # 8 MB
    try:
        checkpoints.wait()
    except SaveError as error:
        print(error, file=sys.stderr)
    print(sorted(path.name for path in directory.iterdir()), checkpoints.latest_step())
    checkpoints.save(20, state(20, 1000), {})  # what is needed is there again
    restored = checkpoints.restore({"kernel": jax.ShapeDtypeStruct((1000,), "float32", sharding=place)})
    print(restored.step, bool((restored.state["kernel"] == state(20, 1000)["kernel"]).all()), restored.rejected)
    checkpoints.check_errors()
    checkpoints.save(30, state(30, 2_000_000), {})  # not waited for: the end of the block says it
"""


def test_full_disk_is_one_clear_error_and_the_earlier_step_stays(tmp_path):
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets no user mount a small disk")
    script = (
        'mount -t tmpfs -o size=5m tmpfs "$1" && "$2" -c "$3" "$1"; status=$?; ls -A "$1/checkpoints"; exit $status'
    )
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", tmp_path, sys.executable, TRAINING]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, env=environment)
    full = (
        f"could not be written: the disk of {tmp_path}/checkpoints is full; make room; "
        "the earlier checkpoints are as they were"
    )
    assert done.stderr.splitlines()[0] == f"checkpoint 20 {full}", done.stderr
    assert done.stderr.splitlines()[-1] == f"align_jax.checkpoints.steps.SaveError: checkpoint 30 {full}", done.stderr
    assert done.stdout.splitlines() == ["['10'] 10", "20 True ()", "10", "20"], done.stdout
    assert done.returncode == 1
