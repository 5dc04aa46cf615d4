"""Whether a file is still the one that was looked through."""

from pathlib import Path


def stamp_of(path: Path) -> str:
    """Size and time of change of a file."""
    status = path.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns"
