"""Files that are whole at every moment."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
