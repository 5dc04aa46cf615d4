"""Memory of the host process, where the host is also the device."""

import ctypes
import os
import sys
from importlib.util import find_spec

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8

_SMALL_BYTES = 2**18


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
    # A threshold of -1 is the largest there is: no top of the heap is ever given back.
    return on_cpu and _set_allocator({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_ARENA_MAX: 1})


def return_freed_memory() -> bool:
    """Gives every freed block but the small ones back to the system at once, for work that passes through memory once.

    glibc otherwise keeps what it thinks will be wanted again, a sixth of a model while it is converted.

    Returns:
        Whether anything was changed: False without glibc.
    """
    return _set_allocator({_M_MMAP_THRESHOLD: _SMALL_BYTES})


def _set_allocator(parameters: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in parameters.items())
