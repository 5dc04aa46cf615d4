import jax
import pytest

from align_jax.parallel import distributed
from align_jax.parallel.distributed import Cluster
from align_jax.parallel.register import DistributedError
from tests.processes import free_port, run_together, start_flags

SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "node[07-09],big2", "SLURM_NTASKS": "4", "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}  # fmt: skip

TOGETHER = """
import os, signal, sys
import numpy as np

from align_jax.parallel import distributed
from align_jax.parallel.mesh import MESH_AXES, MeshShape, batch_sharding, place_batch, process_rows

distributed.start(sys.argv[2], int(sys.argv[4]), int(sys.argv[6]), 60)
import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

devices = jax.devices()
apart = np.array([devices[0], devices[2], devices[1], devices[3]]).reshape(4, 1, 1)
meshes = {
    "together": MeshShape().build(),
    "apart": Mesh(apart, MESH_AXES, axis_types=(AxisType.Auto,) * 3),
    "shared": MeshShape(tensor=4).build(),
    "halved": Mesh(apart.reshape(2, 1, 2), MESH_AXES, axis_types=(AxisType.Auto,) * 3),
}
whole = np.arange(24).reshape(8, 3)
for name, mesh in meshes.items():
    rows = process_rows(batch_sharding(mesh), 8)
    placed = place_batch(whole[rows], batch_sharding(mesh))
    assert placed.shape == (8, 3)
    print(name, rows, np.array_equal(multihost_utils.process_allgather(placed, tiled=True), whole))
distributed.barrier("placed", 60)
for step in range(1, 1000):
    if step == 3 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    multihost_utils.sync_global_devices("step")
    if multihost_utils.reached_preemption_sync_point(step):
        print("both stop after step", step)
        break
distributed.finish()
"""

WAITING = """
import sys, time

import jax

from align_jax.parallel import distributed

distributed.start(sys.argv[2], int(sys.argv[4]), int(sys.argv[6]), 60)
jax.devices()  # all processes must do this for any of them to go on
time.sleep(150)
"""

CONFIGS = """
import sys
import jax
from align_jax.cli.train import load_config, override

for path in sys.argv[2:]:
    override(load_config(path + ":debug"), ["--seed", "1"])
jax.distributed.initialize(sys.argv[1], 1, 0)  # refuses to start once anything has touched a device
"""


def test_two_processes_place_their_rows_and_stop_at_the_same_step():
    """Consecutive rows, rows of devices that lie apart, and rows that both processes provide."""
    first, second = run_together([["-c", TOGETHER, *flags] for flags in start_flags(2)], devices=2, limit_seconds=200)
    assert first.status == second.status == 0, first.errors + second.errors
    lines = [
        [line for line in process.output.splitlines() if line.split()[0] in ("together", "apart", "shared", "halved")]
        for process in (first, second)
    ]
    assert lines[0] == [
        "together [0, 1, 2, 3] True",
        "apart [0, 1, 4, 5] True",
        "shared [0, 1, 2, 3, 4, 5, 6, 7] True",
        "halved [0, 1, 2, 3, 4, 5, 6, 7] True",
    ]
    assert lines[1] == [
        "together [4, 5, 6, 7] True",
        "apart [2, 3, 6, 7] True",
        "shared [0, 1, 2, 3, 4, 5, 6, 7] True",
        "halved [0, 1, 2, 3, 4, 5, 6, 7] True",
    ]
    stops = [[line for line in process.output.splitlines() if "both stop" in line] for process in (first, second)]
    assert len(stops[0]) == 1
    assert stops[0] == stops[1]


def test_process_that_refuses_its_input_ends_the_others_with_its_reason(tmp_path):
    """Before anything is trained: one host does not see the data."""
    command = ["-m", "align_jax", "train", "--workdir", str(tmp_path / "run"), "--config"]
    flags = start_flags(2)
    absent = "configs/openmoji.py:debug,data_dir=" + str(tmp_path / "absent")
    first, second = run_together(
        [["-c", WAITING, *flags[0]], [*command, absent, *flags[1]]], devices=1, limit_seconds=150
    )
    assert second.status == 2
    assert second.errors.splitlines()[-1].startswith("align-jax train (process 1): ")
    assert str(tmp_path / "absent") in second.errors
    assert first.status == 1
    assert "align-jax: process 0 ends: process 1 (" in first.errors
    assert str(tmp_path / "absent") in first.errors


def test_released_configurations_leave_the_devices_alone():
    paths = ["configs/openmoji.py", "configs/align_b3_mini_cc3m.py", "configs/align_b7_base_coyo.py"]
    (process,) = run_together([["-c", CONFIGS, f"127.0.0.1:{free_port()}", *paths]], devices=1, limit_seconds=100)
    assert process.status == 0, process.errors


def test_plain_host_starts_nothing():
    assert distributed.start() is None
    assert distributed.start(processes=1) is None
    assert not jax.distributed.is_initialized()
    distributed.barrier("alone", 0.001)
    distributed.finish()


def test_slurm_is_found(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert distributed._detected(None, 1.0) == Cluster("node07:61441", 4, 2, [0])
    assert distributed.start(processes=1) is None  # a process by itself in the midst of a cluster


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10.0.0.1:1234",), "processes and process id must be given too"),
        ((None, 2, 1), "coordinator must be given too"),
        (("10.0.0.1", 2, 1), "'10.0.0.1' is not HOST:PORT"),
        (("10.0.0.1:0", 2, 1), "is not HOST:PORT"),
        (("10.0.0.1:1234", 2, 2), "process id 2 is not one of 2 processes"),
        ((None, 0), "processes 0 is not positive"),
        ((None, None, None, 0.0), "start timeout 0 is not positive"),
    ],
)
def test_flags_that_do_not_fit_together_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        distributed.start(*arguments)


def test_only_errors_of_collectives_are_taken_for_the_echo_of_another_end(monkeypatch):
    class Roll:
        def reason_of_end(self, seconds):
            return "process 3 has ended"

    own, echo = ValueError("mine"), jax.errors.JaxRuntimeError("connection closed by peer")
    assert distributed.cause(echo) is echo
    monkeypatch.setattr(distributed, "_roll_call", Roll())
    assert distributed.cause(own) is own
    assert isinstance(distributed.cause(echo), DistributedError)
    assert str(distributed.cause(echo)) == "process 3 has ended"
