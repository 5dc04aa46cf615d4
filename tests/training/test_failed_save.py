"""A disk of checkpoints that is full: the experiment says whether that ends the run."""

import dataclasses
import subprocess
import sys

import jax
import pytest

from align_jax.training.evaluations import Every
from align_jax.training.metrics_log import read_metrics
from tests.processes import ROOT, environment_on_cpu, write_config

# A disk for one checkpoint and a half; the rest of the run has room.
SCRIPT = """
mount -t tmpfs -o size=$1 tmpfs "$2/checkpoints" || exit 9
"$3" train.py --config "$4" --workdir "$2"
status=$?
ls "$2/checkpoints"
exit $status
"""


def train_on_a_small_disk(experiment, half_run, folder):
    """Trains with a checkpoint at every fifth step, of which the disk takes one."""
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets no user mount a small disk")
    experiment = dataclasses.replace(experiment, checkpoint=Every(5), total_steps=20)
    (checkpoint,) = (half_run / "checkpoints").iterdir()
    blocks = checkpoint.rglob("*")
    size_bytes = sum(-(-path.stat().st_size // 4096) * 4096 for path in blocks)
    config = write_config(experiment, folder / "config.py")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", str(size_bytes * 3 // 2)]
    return subprocess.run(
        [*command, str(folder / "run"), sys.executable, str(config)],
        capture_output=True,
        text=True,
        env=environment_on_cpu(1, jax.config.jax_compilation_cache_dir),
        cwd=ROOT,
        check=False,
    )


def steps(folder):
    return [line["step"] for line in read_metrics(folder / "run" / "metrics.jsonl")]


def only_line(errors):
    """What the program says, where libraries say nothing."""
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    return lines[0]


def test_full_disk_ends_the_run_with_one_line_and_costs_no_earlier_checkpoint(experiment, half_run, tmp_path):
    done = train_on_a_small_disk(experiment, half_run, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "checkpoint 10 could not be written: the disk of" in only_line(done.stderr)
    assert done.stdout.splitlines()[-1] == "5"
    assert 10 <= max(steps(tmp_path)) < 20


def test_run_goes_on_without_checkpoints_if_told_to_and_says_so_in_the_end(experiment, half_run, tmp_path):
    done = train_on_a_small_disk(dataclasses.replace(experiment, failed_save="continue"), half_run, tmp_path)
    assert done.returncode == 1, done.stderr
    assert steps(tmp_path) == list(range(1, 21))
    assert "checkpoint 10 could not be written: the disk of" in done.stdout
    assert "checkpoint 15 could not be written: the disk of" in done.stdout
    assert "checkpoint 20 could not be written: the disk of" in only_line(done.stderr)
    assert done.stdout.splitlines()[-1] == "5"
