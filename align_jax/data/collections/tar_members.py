"""The members of a tar file, by their headers; bodies are skipped, and nothing is ever extracted.

Reads what POSIX (ustar and pax) and GNU tar write. Python's `tarfile` would do for honest files; this reader takes
memory for nothing but one header, whatever sizes and names the file claims, can begin at any member, and says of
everything that is no plain file what it is. Format: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual,
"Basic Tar Format".
"""

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
MAX_EXTENSION_BYTES = 64 * 1024
"""Of a header that carries a long name; real ones have some hundred bytes."""

_MAX_PADDING_BYTES = 2**20
_PLAIN = (b"0", b"\0", b"7")
_WITHOUT_BODY = (b"1", b"2", b"3", b"4", b"5", b"6")  # whatever size they claim
_KINDS = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device", b"6": "a pipe",
    b"S": "a sparse file", b"M": "a part of a file of several volumes", b"D": "a GNU directory dump",
    b"N": "an old GNU long name",
}  # fmt: skip


class Member(NamedTuple):
    """One member, or in its place what is wrong with the file there.

    Attributes:
        name: as it stands in the file; what is not UTF-8 in it is escaped (`surrogateescape`).
        header: where its first header begins.
        body: where its contents begin.
        size_bytes: of its contents.
        checksum: of its header.
        problem: why it cannot be used, or `None` for a plain file.
    """

    name: str
    header: int
    body: int
    size_bytes: int
    checksum: int
    problem: str | None


class _DamagedError(ValueError):
    """The file cannot be read beyond this place."""


def members(file: BinaryIO, start: int = 0) -> Iterator[Member]:
    """The members from a header on, but for folders, labels and the like, which hold nothing.

    Args:
        file: open, not buffered or buffered; its position is moved.
        start: where a member's first header begins.

    Yields:
        Members in order. Where the file is cut or damaged, the last one has the problem.
    """
    end = file.seek(0, io.SEEK_END)
    position, header_start = start, start
    long_name: str | None = None
    size: int | None = None
    problem: str | None = None
    while True:
        try:
            header = _header(file, position, end)
        except _DamagedError as error:
            yield Member(long_name or f"byte {position}", header_start, position, 0, 0, str(error))
            return
        if header is None:
            return
        name, kind, declared, checksum = header
        body = position + BLOCK
        try:
            if kind in (b"L", b"K", b"x", b"g"):
                extension = _extension(file, body, declared, end)
                if kind == b"L":
                    long_name = _decoded(extension.split(b"\0", 1)[0])
                elif kind == b"x":
                    found_name, found_size, problem = _pax(extension)
                    long_name, size = found_name or long_name, found_size
                position = body + _padded(declared)
                continue
        except _DamagedError as error:
            yield Member(long_name or name, header_start, body, 0, 0, str(error))
            return
        declared = declared if size is None else size
        declared = 0 if kind in _WITHOUT_BODY else declared
        member = Member(long_name or name, header_start, body, declared, checksum, problem or _kind_problem(kind))
        if body + declared > end:
            problem = f"the tar is cut: {declared} bytes were declared, and {max(0, end - body)} are there"
            yield member._replace(problem=problem, size_bytes=0)
            return
        if kind not in (b"5", b"V") and not (kind in _PLAIN and member.name.endswith("/")):
            yield member
        position = header_start = body + _padded(declared)
        long_name = size = problem = None


def _header(file: BinaryIO, position: int, end: int) -> tuple[str, bytes, int, int] | None:
    """Name, kind, size and checksum in the header at a place; `None` at the end of the archive."""
    block = _read_at(file, position, BLOCK)
    if not block:
        if position > end:
            raise _DamagedError("the tar is cut")
        return None
    if len(block) < BLOCK:
        raise _DamagedError("the tar is cut within a header")
    if not any(block):
        return _after_the_end(file, position, end)
    checksum = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    signed = checksum - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    if _number(block[148:156]) not in (checksum, signed):
        raise _DamagedError(f"no header of a tar at byte {position}")
    size = _number(block[124:136])
    if size is None:
        raise _DamagedError(f"the header at byte {position} has no size")
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    return _decoded(name), block[156:157], size, checksum


def _after_the_end(file: BinaryIO, position: int, end: int) -> None:
    """Nothing but zeros may follow the end of an archive, or something would be passed over without a word."""
    while position < end:
        following = _read_at(file, position, min(_MAX_PADDING_BYTES, end - position))
        if any(following):
            raise _DamagedError(
                "more follows behind the end of the archive; tars that were joined must be taken apart again"
            )
        if len(following) == _MAX_PADDING_BYTES:  # no writer pads as much
            return
        position += len(following)


def _extension(file: BinaryIO, body: int, declared: int, end: int) -> bytes:
    if declared > MAX_EXTENSION_BYTES:
        raise _DamagedError(f"a header with a name of {declared} bytes is more than the limit of {MAX_EXTENSION_BYTES}")
    if body + declared > end:
        raise _DamagedError("the tar is cut within a header")
    return _read_at(file, body, declared)


def _pax(content: bytes) -> tuple[str | None, int | None, str | None]:
    """Name, size and problem in the records of an extended header: length, blank, key=value, line feed."""
    name = size = problem = None
    while content:
        length, space, _ = content.partition(b" ")
        if not space or not length.isdigit() or len(length) > 8 or not len(length) + 1 < int(length) <= len(content):
            raise _DamagedError("an extended header is not of the form of pax")
        key, _, value = content[len(length) + 1 : int(length)].removesuffix(b"\n").partition(b"=")
        if key == b"path":
            name = _decoded(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise _DamagedError("an extended header has no number as the size")
            size = int(value)
        elif key.startswith(b"GNU.sparse."):
            problem = "it is a sparse file"
        content = content[int(length) :]
    return name, size, problem


def _kind_problem(kind: bytes) -> str | None:
    if kind in (*_PLAIN, b"5", b"V"):
        return None
    return f"it is {_KINDS[kind]}" if kind in _KINDS else f"it is of a kind that is not known ({kind!r})"


def _number(field: bytes) -> int | None:
    """An octal number, or one in base 256 as GNU tar writes large ones."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if all(digit in b"01234567" for digit in digits) else None


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
