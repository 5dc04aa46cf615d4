"""How many cores there are to work on."""

import os


def usable_cores() -> int:
    """Cores that this process may run on; all of the machine's where the system does not say, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
