"""Memory of the host process, where the host is also the device."""

import ctypes
import os
import sys
from importlib.util import find_spec

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """On hosts without an accelerator, lets the process reuse the memory of one step for the next.

    XLA:CPU allocates every step's buffers anew. glibc returns blocks of that size to the system, and the page faults
    of taking them back are a third of a small training step (`benchmarks/RESULTS.md`, "host memory"). Must be called
    before JAX starts its threads, which would otherwise get arenas of their own that cannot grow.

    Returns:
        Whether anything was changed: False with an accelerator's plug-in, or without glibc.
    """
    accelerators = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(find_spec, accelerators))
    if not on_cpu or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # A threshold of -1 is the largest there is: no top of the heap is ever given back.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) for parameter, value in settings)
