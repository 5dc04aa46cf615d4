"""Several processes that train together, each with some CPU devices."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

CONFIG = """
from align_jax.training.experiment import Experiment


def get_config(*, debug: bool = False) -> Experiment:
    return Experiment.from_json({path!r})
"""


@dataclass(frozen=True)
class Finished:
    """How one process ended."""

    status: int
    output: str
    errors: str


def run_together(
    arguments: Sequence[Sequence[str]], *, devices: int, limit_seconds: float, cache: Path | None = None
) -> list[Finished]:
    """Runs Python with each list of arguments at the same time, and ends what is left after `limit_seconds`.

    Args:
        arguments: of each process.
        devices: CPU devices of each process.
        limit_seconds: for all of them together; a process that is ended then has a negative status.
        cache: a folder for compiled programs, which several runs may share.
    """
    environment = environment_on_cpu(devices, cache)
    end = time.monotonic() + limit_seconds
    with contextlib.ExitStack() as resources:
        processes, texts = [], []
        for each in arguments:
            output, errors = (resources.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
            process = subprocess.Popen([sys.executable, *each], cwd=ROOT, env=environment, stdout=output, stderr=errors)
            resources.callback(process.wait)
            resources.callback(process.kill)
            processes.append(process)
            texts.append((output, errors))
        finished = []
        for process, files in zip(processes, texts, strict=True):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            process.kill()
            status = process.wait()
            for file in files:
                file.seek(0)
            finished.append(Finished(status, *(file.read() for file in files)))
    return finished


def environment_on_cpu(devices: int, cache: Path | str | None = None) -> dict[str, str]:
    """Variables of a process without torch that computes on simulated devices and compiles as quickly as the tests do.

    Args:
        devices: how many it has.
        cache: a folder for compiled programs, which several processes may share.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_cpu_use_fusion_emitters=false",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "without_torch"), str(ROOT)]),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if cache is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "JAX_COMPILATION_CACHE_MAX_SIZE": str(4 * 2**30),  # with a limit, entries are written under a lock
        }
    return environment


def start_flags(processes: int) -> list[list[str]]:
    """For each of several processes, the flags that tell it where the others are; none for a single one."""
    if processes == 1:
        return [[]]
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        ["--coordinator", coordinator, "--processes", str(processes), "--process-id", str(index)]
        for index in range(processes)
    ]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def write_config(experiment, path: Path) -> Path:
    """A configuration file of the experiment, for processes that know only files."""
    experiment.to_json(path.with_suffix(".json"))
    path.write_text(CONFIG.format(path=str(path.with_suffix(".json"))))
    return path
