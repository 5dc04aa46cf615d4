"""Lines of a file, from any of them on, without ever taking more of one into memory than makes sense."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from align_jax.data.collections.item import MAX_TEXT_BYTES, CollectionError

_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "compressed", b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip file",
}  # fmt: skip


class Line(NamedTuple):
    """One line.

    Attributes:
        offset: of its first byte in the file.
        end: of the byte behind its end.
        content: without the end of the line; cut behind the limit where it is longer.
    """

    offset: int
    end: int
    content: bytes


def lines(file: BinaryIO, offset: int = 0, limit_bytes: int = MAX_TEXT_BYTES) -> Iterator[Line]:
    """The lines from an offset on; they end with a line feed, before which a carriage return is dropped.

    Args:
        file: open and buffered.
        offset: of the first byte of a line.
        limit_bytes: of a line that is longer, one byte more than this is given.
    """
    file.seek(offset)
    while content := file.readline(limit_bytes + 2):
        rest = content
        length = len(content)
        while len(rest) == limit_bytes + 2 and not rest.endswith(b"\n"):
            rest = file.readline(limit_bytes + 2)
            length += len(rest)
        start = len(_BOM) if offset == 0 and content.startswith(_BOM) else 0
        end = offset + length
        yield Line(offset, end, content[start:].removesuffix(b"\n").removesuffix(b"\r")[: limit_bytes + 1])
        offset = end


def require_text(path: Path) -> None:
    """Checks by its first bytes that a file can be one of lines in UTF-8.

    Raises:
        CollectionError: if it is something that is known to be none.
    """
    with path.open("rb") as file:
        start = file.read(4)
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise CollectionError(f"{path} is {what}, not text in UTF-8; convert it first")
