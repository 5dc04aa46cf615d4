"""The same experiment in one process and in two, through the command line."""

import dataclasses
import os
import shutil

import jax
import numpy as np

from align_jax.parallel.mesh import MeshShape
from align_jax.training.evaluations import Every
from align_jax.training.loop import train
from align_jax.training.metrics_log import read_metrics
from tests.processes import run_together, start_flags, write_config

TERMINATED_WHILE_IT_EVALUATES = """
import os, signal, sys, time
from align_jax.cli import main
from align_jax.data.loader import EvaluationLoader

iterate = EvaluationLoader.iterate


def slowly(self):
    for number, batch in enumerate(iterate(self)):
        if number == 1 and sys.argv[-1] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        yield batch


EvaluationLoader.iterate = slowly
sys.exit(main(sys.argv[1:]))
"""


def losses(workdir):
    return {line["step"]: line["loss"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line}


def recalls(workdir):
    return [line for line in read_metrics(workdir / "metrics.jsonl") if "discs/image_to_text_recall@1" in line]


def train_in_two_processes(config, workdir, *flags):
    """The command of two hosts with four devices each; both must end well, and only the first says anything."""
    command = ["-m", "align_jax", "train", "--config", str(config), "--workdir", str(workdir), *flags]
    cache = jax.config.jax_compilation_cache_dir
    first, second = run_together(
        [[*command, *where] for where in start_flags(2)], devices=4, limit_seconds=600, cache=cache
    )
    assert first.status == second.status == 0, first.errors + second.errors
    assert "report" in first.output
    said = [line for line in second.output.splitlines() if "Gloo" not in line and "connected peer" not in line]
    assert said == []


def assert_losses_of(workdir, expected):
    found = losses(workdir)
    assert list(found) == list(expected) == list(range(1, 21))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


def test_two_processes_train_as_one_does(evaluated, finished_evaluated_run, tmp_path):
    _, on_eight = finished_evaluated_run
    expected = losses(on_eight)
    train_in_two_processes(write_config(evaluated, tmp_path / "config.py"), tmp_path / "two")
    assert_losses_of(tmp_path / "two", expected)
    assert abs(expected[20] - expected[1]) > 0.1  # it moves, so the agreement is about more than the first step
    assert [line["step"] for line in recalls(tmp_path / "two")] == [10, 20]
    for found, wanted in zip(recalls(tmp_path / "two"), recalls(on_eight), strict=True):
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose(list(found.values()), list(wanted.values()), atol=1 / 64 + 1e-6)  # one rank may flip


def test_run_stopped_on_eight_devices_continues_on_other_machines(experiment, finished_run, half_run, tmp_path):
    """On one device, on four, and on two processes that share every parameter."""
    expected = losses(finished_run[1])
    for name in ("one", "four", "two"):
        shutil.copytree(half_run, tmp_path / name)
    split = dataclasses.replace(experiment, mesh=MeshShape(fsdp=4, tensor=2))
    train_in_two_processes(write_config(split, tmp_path / "config.py"), tmp_path / "two")
    train(experiment, tmp_path / "one", devices=jax.devices()[:1])
    train(experiment, tmp_path / "four", devices=jax.devices()[:4])
    for name in ("one", "four", "two"):
        assert losses(tmp_path / name)[10] == expected[10]
        assert_losses_of(tmp_path / name, expected)


def test_sigterm_to_one_of_two_processes_ends_an_evaluation_on_both(evaluated, tmp_path):
    """After the same batch; the evaluation is made when the run continues."""
    often = dataclasses.replace(evaluated.evaluations[0], every=Every(2), batch_size=8)
    config = write_config(dataclasses.replace(evaluated, evaluations=(often,)), tmp_path / "config.py")
    flags = ["--config", str(config), "--workdir", str(tmp_path / "run")]
    commands = [["-c", TERMINATED_WHILE_IT_EVALUATES, "train", *flags, *where] for where in start_flags(2)]
    cache = jax.config.jax_compilation_cache_dir
    finished = run_together(commands, devices=4, limit_seconds=300, cache=cache)
    assert [process.status for process in finished] == [143, 143], [process.errors for process in finished]
    assert all("saved at step 2" in process.errors for process in finished)
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert recalls(tmp_path / "run") == []


def test_hung_data_of_a_worker_is_named_and_ends_the_command(experiment, data_dir, tmp_path):
    """A file server that does not answer: here a pipe that nobody writes into."""
    shutil.copytree(data_dir, tmp_path / "data")
    (file,) = (tmp_path / "data" / "discs").rglob("*.array_record*")
    file.unlink()
    os.mkfifo(file)
    discs = dataclasses.replace(experiment.data.train, data_dir=str(tmp_path / "data"))
    data = dataclasses.replace(experiment.data, train=discs, workers=1, stall_seconds=40.0)
    config = write_config(dataclasses.replace(experiment, data=data), tmp_path / "config.py")
    command = ["-m", "align_jax", "train", "--config", str(config), "--workdir", str(tmp_path / "run")]
    (found,) = run_together([command], devices=1, limit_seconds=200, cache=jax.config.jax_compilation_cache_dir)
    assert found.status == 1, found.errors
    assert "DataStalledError: no batch for 40 s: worker process 1 reads record " in found.errors
    assert f"of {file} since" in found.errors
