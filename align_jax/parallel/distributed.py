"""Start of a run on several hosts, and its end on all of them, through `jax.distributed`.

On TPU pods, and under SLURM, Kubernetes and Open MPI, JAX finds out by itself which processes there are; elsewhere they
are given. On a single host nothing happens. A process that is missing at the start or at a barrier, that fails or that
dies is named on all others, which then end as well (`parallel/roll_call.py`): the collectives of JAX would wait for it.
"""

import os
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from align_jax.parallel.register import DistributedError
from align_jax.parallel.roll_call import RollCall

START_SECONDS = 300
BARRIER_SECONDS = 1800
NEWS_SECONDS = 5.0  # within which the end of another process is known here

_roll_call: RollCall | None = None


class Cluster(NamedTuple):
    """Where process 0 is, and which process this is."""

    coordinator: str
    processes: int
    process_id: int
    local_device_ids: list[int] | None = None


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    start_seconds: float = START_SECONDS,
) -> RollCall | None:
    """Joins the other processes of the run, if there are any; to be called before anything touches a device.

    Args:
        coordinator: `host:port` of process 0; found out by JAX, as are the next two, where none is given.
        processes: how many there are; 1 alone starts a process by itself, whatever the surroundings.
        process_id: which one this is, from 0.
        start_seconds: how long to wait for the others.

    Returns:
        Their roll, which is left by `finish` or `fail`; None for a single process.

    Raises:
        ValueError: if the arguments do not fit together.
        DistributedError: if processes are missing when the time is over; they are named.
    """
    global _roll_call
    cluster = _given(coordinator, processes, process_id, start_seconds) or _detected(processes, start_seconds)
    if cluster is None or cluster.processes == 1:
        return None
    _roll_call = RollCall(cluster.coordinator, cluster.processes, cluster.process_id, start_seconds)
    try:
        jax.distributed.initialize(
            *cluster, cluster_detection_method="deactivate", initialization_timeout=max(1, round(start_seconds))
        )
    except (RuntimeError, ValueError) as error:
        message = f"process {cluster.process_id} could not join {cluster.coordinator}: {error}"
        _roll_call.fail(message)
        raise DistributedError(message) from error
    return _roll_call


def barrier(name: str, timeout_seconds: float = BARRIER_SECONDS) -> None:
    """Returns when every process of the run has called it with this name; does nothing in a single process.

    Raises:
        DistributedError: if some have not in that time, or have ended; they are named.
    """
    if _roll_call is not None:
        _roll_call.barrier(name, timeout_seconds)
    elif jax.process_count() > 1:  # whoever called `jax.distributed.initialize` before us
        multihost_utils.sync_global_devices(name)


def finish(timeout_seconds: float = BARRIER_SECONDS) -> None:
    """Ends the run together with the other processes: none of them leaves before the last has done its work."""
    if _roll_call is not None:
        _roll_call.finish(timeout_seconds)


def cause(error: BaseException) -> BaseException:
    """The error itself, or where it is the echo of another process's end in a collective, an error that names that."""
    if _roll_call is None or not isinstance(error, jax.errors.JaxRuntimeError):
        return error
    reason = _roll_call.reason_of_end(NEWS_SECONDS)
    return error if reason is None else DistributedError(reason)


def fail(error: BaseException) -> None:
    """Tells the other processes why this one ends, so that they end too; the caller ends the process."""
    if _roll_call is not None:
        _roll_call.fail(f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}")


def _given(
    coordinator: str | None, processes: int | None, process_id: int | None, start_seconds: float
) -> Cluster | None:
    """The cluster of the arguments, if there are any."""
    if not start_seconds > 0:
        raise ValueError(f"start timeout {start_seconds:g} is not positive; give seconds")
    if processes is not None and processes < 1:
        raise ValueError(f"processes {processes} is not positive; 1 is a process by itself")
    given = {"coordinator": coordinator, "processes": processes, "process id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3 or (processes == 1 and coordinator is None and not process_id):
        return None
    if coordinator is None or processes is None or process_id is None:
        raise ValueError(
            f"{' and '.join(missing)} must be given too: --coordinator HOST:PORT, --processes N and --process-id I "
            "belong together; without any, they are found out on TPU pods, SLURM, Kubernetes and Open MPI"
        )
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"coordinator {coordinator!r} is not HOST:PORT, such as 10.0.0.1:8476")
    if not 0 <= process_id < processes:
        raise ValueError(f"process id {process_id} is not one of {processes} processes; they count from 0")
    return Cluster(coordinator, processes, process_id)


def _detected(processes: int | None, start_seconds: float) -> Cluster | None:
    """The cluster that JAX finds itself in, if there is one."""
    if processes == 1:
        return None
    try:
        found = _search(round(start_seconds))
    except (ImportError, AttributeError, TypeError):
        return _start_without_roll_call(round(start_seconds))
    except Exception as error:  # requests to metadata servers and to Kubernetes fail in many ways
        raise DistributedError(
            f"the other processes could not be found: {error}; give --coordinator, --processes and --process-id, or "
            "--processes 1 on a single host"
        ) from error
    coordinator, processes, process_id, local_device_ids = found
    if coordinator is None or processes is None or process_id is None:
        return None
    return Cluster(coordinator, processes, process_id, None if local_device_ids is None else list(local_device_ids))


def _search(timeout_seconds: int) -> tuple[Any, ...]:
    """The search of `jax.distributed.initialize`, which has no public name.

    The processes must find each other before that is called: it aborts where partners are missing, and does not say
    which.
    """
    from jax._src.clusters import ClusterEnv  # noqa: PLC0415  (an internal name, which may be gone)

    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    return ClusterEnv.auto_detect_unset_distributed_params(address, None, None, None, None, timeout_seconds)


def _start_without_roll_call(timeout_seconds: int) -> None:
    """What is left to do under a version of JAX that does not tell what it finds."""
    try:
        jax.distributed.initialize(initialization_timeout=timeout_seconds)
    except ValueError:  # no cluster
        return
