"""Checkpoints in a bucket, on an emulator of Google Cloud Storage that runs beside the test."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import os, sys
from gcp_storage_emulator.server import create_server

server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
server.start()
host = "http://127.0.0.1:%d" % server._api._httpd.socket.getsockname()[1]
os.environ |= {"STORAGE_EMULATOR_HOST": host, "TENSORSTORE_GCS_HTTP_URL": host}

from etils import epath
from tests.checkpoints.small_state import Checkpoints, abstract, assert_is_step, position, state

directory = epath.Path("gs://bucket/run/checkpoints")

def names():
    return sorted(path.name for path in directory.iterdir())

def restored():
    return checkpoints.restore(abstract(state(0)))

with Checkpoints("gs://bucket/run/checkpoints", keep_latest=2) as checkpoints:
    assert restored() is None
    for step in (10, 20, 30):
        checkpoints.save(step, state(step), position(step))
    checkpoints.wait()
    assert names() == ["20", "30"], names()
    assert checkpoints.latest_step() == 30
    assert_is_step(restored(), 30)

    path = directory / "30" / "position" / "metadata"
    path.write_bytes(path.read_bytes() + b" ")
    assert float(checkpoints.restore_variables()["params"]["bias"][0]) == 20
    found = restored()
    assert_is_step(found, 20)
    assert [str(one) for one in found.rejected] == ["checkpoint 30 is not used: position/metadata was altered"]
    assert names() == ["20", "30.damaged"], names()

    checkpoints.save(30, state(30), position(30))
    assert_is_step(restored(), 30)
    (directory / "40" / "state").mkdir(parents=True)
    (directory / "40" / "state" / "part").write_bytes(b"killed while writing")
    (directory / "40.unfinished").write_bytes(b"")
    assert_is_step(restored(), 30)
    assert names() == ["20", "30", "30.damaged"], names()
print("all good", flush=True)
os._exit(0)
"""


def test_save_fall_back_and_retention_in_a_bucket():
    for module in ("gcp_storage_emulator", "gcsfs"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}; pip install gcp-storage-emulator 'align_jax[gcs]'")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)]),
        "XLA_FLAGS": "",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks Google what kind of bucket it is
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.stdout.splitlines()[-1:] == ["all good"], done.stderr[-3000:]
