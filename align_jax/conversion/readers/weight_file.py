"""Ranges of a weight file, as arrays.

Every reader comes here for its bytes, so that no range is read, and no memory taken, before it was checked against the
size of the file. Plain reads keep the resident memory small: the pages of a mapped file would count as the process's.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np

from align_jax.conversion.readers.tensors import SourceError

ByteOrder = Literal["little", "big"]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_POINTER_START = b"version https://git-lfs"


class WeightFile:
    """An open file.

    Attributes:
        path: where it lies, for messages.
        size_bytes: how much can be read.
        stream: for those who read from the start; `read` moves it.
    """

    def __init__(self, path: Path, stream: io.BufferedReader) -> None:
        self.path = path
        self.stream = stream
        self.size_bytes = os.fstat(stream.fileno()).st_size

    def read(self, start: int, count: int) -> np.ndarray:
        """Bytes as an array of uint8.

        Raises:
            SourceError: if the file does not reach that far.
        """
        if not 0 <= start <= start + count <= self.size_bytes:
            raise SourceError(
                f"{self.path} is truncated: bytes {start} to {start + count} are needed, it has {self.size_bytes}; "
                "fetch it again"
            )
        buffer = np.empty(count, np.uint8)
        self.stream.seek(start)
        if self.stream.readinto(buffer.data) != count:
            raise SourceError(f"{self.path} became shorter while it was read")
        return buffer


@contextlib.contextmanager
def open_weight_file(path: Path) -> Iterator[WeightFile]:
    """Opens a file that holds weights.

    Raises:
        SourceError: if it is missing, empty, no ordinary file, cannot be read, or stands for a file elsewhere.
    """
    try:
        if not path.is_file():
            raise SourceError(_why_no_file(path))
        with path.open("rb") as stream:
            file = WeightFile(path, stream)
            if file.size_bytes == 0:
                raise SourceError(f"{path} is empty; fetch it again")
            if stream.read(len(_POINTER_START)) == _POINTER_START:
                raise SourceError(f"{path} is a git-LFS pointer, not the file itself; run `git lfs pull` in its folder")
            stream.seek(0)
            yield file
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None


def as_array(buffer: np.ndarray, dtype: np.dtype, byte_order: ByteOrder = "little") -> np.ndarray:
    """Interprets bytes, without copying them where that can be avoided, as a flat array."""
    if dtype.kind == "b":
        return buffer != 0  # any other byte than 0 and 1 would be a value that NumPy does not have
    if byte_order != sys.byteorder and dtype.itemsize > 1:
        buffer.view(f"u{dtype.itemsize}").byteswap(inplace=True)  # in place: bfloat16 has no swapped type
    return buffer.view(dtype)


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder, not a weight file"
    if path.is_symlink():
        return f"{path} links to a file that is not there; fetch it again"
    return f"{path} is not an ordinary file" if path.exists() else f"{path} does not exist"
