"""Training steps compiled by the TPU compiler, which needs no TPU: `pip install 'align_jax[tpu]'`.

Each runs the command in a process of its own, as a user would; the compiler sets up the process that loads it.
`benchmarks/plan.py` prints more of the settings of full size.
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RELEASED = "configs/align_b7_base_coyo.py"
TINY = f"{RELEASED}:debug"

pytestmark = pytest.mark.skipif(
    find_spec("libtpu") is None, reason="the TPU compiler is not installed: pip install 'align_jax[tpu]'"
)


def run_plan(config: str, topology: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "align_jax", "plan", "--config", config, "--topology", topology, *flags]
    # Eight CPU devices, which the tests have, would only cost time.
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def planned(config: str, topology: str, *flags: str) -> dict[str, Any]:
    finished = run_plan(config, topology, "--json", *flags)
    assert finished.returncode in (0, 1), finished.stderr
    plan = json.loads(finished.stdout)["step"]
    assert plan["fits"] is (finished.returncode == 0)
    return plan


def test_step_has_the_collectives_of_the_design_and_no_others():
    """With batch-norm groups that fit on a device: 16 examples on each of four."""
    plan = planned(TINY, "v5e:2x2", "--batch-size", "64")
    embeddings_bytes = 4 * 64 * 32
    gathered = {"count": 2, "arrays": 2, "bytes": 2 * embeddings_bytes}
    assert plan["collectives"].pop("all-gather") == gathered  # images and texts
    assert plan["collectives"].pop("reduce-scatter") == gathered  # their gradients
    assert plan["embedding_collectives"] == {"all-gather": gathered, "reduce-scatter": gathered}
    summed = plan["collectives"].pop("all-reduce")
    assert not plan["collectives"]
    state_bytes = plan["memory"]["aliased"] // 3  # parameters, besides LAMB's two moments
    assert summed["arrays"] >= 92 + 24  # the gradient of all but the pooler, and the batch statistics
    assert summed["bytes"] < 1.2 * state_bytes
    assert summed["count"] <= 4


def test_a_batch_that_is_too_large_is_refused_with_what_it_needs():
    plan = planned(TINY, "v5e:2x2", "--batch-size", str(2**17))
    assert not plan["fits"]
    assert plan["needed_bytes"] > plan["available_bytes"] > 15 * 2**30


def test_a_layout_that_does_not_exist_is_one_line_with_good_ones():
    finished = run_plan(TINY, "v5e:3x5")
    assert finished.returncode == 2
    assert "v5e:16x16" in finished.stderr
    assert finished.stderr.count("\n") == 1


def full_size(config: str, topology: str, *flags: str) -> dict[str, Any]:
    """A setting of full size, which takes minutes and up to ten GB; only one at a time on a machine."""
    with (Path(tempfile.gettempdir()) / "align_jax-tpu-compiler.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = planned(config, topology, *flags)
    assert plan["fits"]
    assert plan["needed_bytes"] < plan["available_bytes"] < 16 * 2**30
    return plan


def loss_collectives(plan: dict[str, Any]) -> dict[str, int]:
    """How many times embeddings of the whole batch, or their gradients, travel in which way."""
    batch_bytes = 4 * plan["batch_size"] * 640
    assert all(each["bytes"] == each["arrays"] * batch_bytes for each in plan["embedding_collectives"].values())
    return {kind: each["arrays"] for kind, each in plan["embedding_collectives"].items()}


def test_the_paper_s_setting_fits_1024_v3_cores():
    """B7 and BERT-large, 16,384 pairs, LAMB, nothing rematerialised."""
    plan = full_size("configs/align_l2_large.py:image_tower=b7", "v3:16x32")
    assert (plan["devices"], plan["device_kind"], plan["batch_size"]) == (1024, "TPU v3", 16_384)
    assert plan["rematerialize"] == []
    assert loss_collectives(plan) == {"all-gather": 2, "reduce-scatter": 2}
    assert set(plan["collectives"]) == {"all-gather", "reduce-scatter", "all-reduce"}


def test_the_released_setting_fits_512_v3_cores():
    """B7 and BERT-base, 65,536 pairs, LAMB, the image tower's stem and first four stages rematerialised."""
    plan = full_size(RELEASED, "v3:16x16")
    assert (plan["devices"], plan["device_kind"], plan["batch_size"]) == (512, "TPU v3", 65_536)
    # Of this size the compiler gathers one side again rather than keep it, and scatters by summing all.
    assert loss_collectives(plan) == {"all-gather": 3, "all-reduce": 2}
    assert set(plan["collectives"]) == {"all-gather", "all-reduce"}


def test_a_quarter_of_the_released_batch_fits_256_chips_of_v5e():
    """B7 and BERT-base, 16,384 pairs, LAMB, nothing rematerialised."""
    plan = full_size(RELEASED, "v5e:16x16", "--batch-size", "16384", "--task.rematerialize")
    assert (plan["devices"], plan["device_kind"], plan["batch_size"]) == (256, "TPU v5 lite", 16_384)
    assert plan["rematerialize"] == []
    assert loss_collectives(plan) == {"all-gather": 2, "all-reduce": 2}
    assert set(plan["collectives"]) == {"all-gather", "all-reduce"}
