"""Memory of the host process, where the host is also the device."""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8

_SMALL_BYTES = 2**18

_GOOGLE_PCI_VENDOR = "0x1ae0"


def keep_freed_memory() -> bool:
    """On hosts without an accelerator, lets the process reuse the memory of one step for the next.

    XLA:CPU allocates every step's buffers anew. glibc returns blocks of that size to the system, and the page faults
    of taking them back are a third of a small training step (`benchmarks/RESULTS.md`, "host memory"). Must be called
    before JAX starts its threads, which would otherwise get arenas of their own that cannot grow.

    Returns:
        Whether anything was changed: False with a TPU, with a GPU's plug-in, or without glibc.
    """
    gpus = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not (any(map(find_spec, gpus)) or _has_tpu())
    # A threshold of -1 is the largest there is: no top of the heap is ever given back.
    return on_cpu and _set_allocator({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_ARENA_MAX: 1})


def return_freed_memory() -> bool:
    """Gives every freed block but the small ones back to the system at once, for work that passes through memory once.

    glibc otherwise keeps what it thinks will be wanted again, a sixth of a model while it is converted.

    Returns:
        Whether anything was changed: False without glibc.
    """
    return _set_allocator({_M_MMAP_THRESHOLD: _SMALL_BYTES})


def _has_tpu(pci_devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether there is a TPU to run on; libtpu alone says nothing, since it serves as a compiler without one."""
    if find_spec("libtpu") is None:
        return False
    google = [
        vendor.with_name("class").read_text()
        for vendor in pci_devices.glob("*/vendor")
        if vendor.read_text().strip() == _GOOGLE_PCI_VENDOR
    ]
    # The disks (0x01) and network cards (0x02) of Google's virtual machines have the same vendor.
    return not all(kind.startswith(("0x01", "0x02")) for kind in google)


def _set_allocator(parameters: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in parameters.items())
