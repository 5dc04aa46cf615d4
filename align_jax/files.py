"""Files that are whole at every moment, and folders that are as they were written."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "SHA256SUMS"
"""The checksums of a folder's files, as `sha256sum --check` reads them too."""


class ManifestError(ValueError):
    """A folder is not as it was written."""


class DiskFullError(ValueError):
    """There is no room for what is to be written."""


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new, never a part."""
    with replaced(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """As `replace_file`, for what writes the file itself: yields the name to write under until the block ends."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_manifest(folder: Path) -> None:
    """Writes the checksum of every file below `folder` into `folder/SHA256SUMS`."""
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)]
    replace_file(folder / MANIFEST, "".join(lines).encode())


def check_manifest(folder: Path) -> None:
    """Compares a folder with its manifest.

    Raises:
        ManifestError: if there is no manifest, or files are missing, added or altered; all are named.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ManifestError(f"{folder} has no {MANIFEST}, so it was not written whole; convert or save the model again")
    lines = manifest.read_text(errors="replace").splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} was added" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} was altered"
        for name in sorted(expected.keys() & found.keys())
        if _digest(found[name]) != expected[name]
    ]
    if problems:
        raise ManifestError(f"{folder} is damaged: {'; '.join(problems)}; copy, convert or save the model again")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(path: Path, size_bytes: int = 0) -> Iterator[Path]:
    """Makes a folder that appears under its name only when everything in it is written.

    Args:
        path: the folder; an empty one may be there.
        size_bytes: about what will be written.

    Yields:
        A hidden folder beside it, which is renamed at the end of the block, and deleted if the block fails.

    Raises:
        ValueError: if there is something of that name already, or no folder can be made there.
        DiskFullError: if the disk has less room, or is full before the end.
    """
    path = path.absolute()
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ValueError(f"{path} exists already; give another name, or remove it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}; give another place") from error
    try:
        _require_room(path.parent, size_bytes)
        yield temporary
        _flush_to_disk(*temporary.rglob("*"), temporary)
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
        _flush_to_disk(path.parent)
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise DiskFullError(f"the disk of {path.parent} is full; make room, or write elsewhere") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require_room(folder: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise DiskFullError(
            f"the disk of {folder} has {free / 1e6:,.1f} MB left and {size_bytes / 1e6:,.1f} MB are needed; "
            "make room, or write elsewhere"
        )


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says so; libraries have errors of their own, with the system's words."""
    words = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    while error is not None and not isinstance(error, DiskFullError):
        if any(text in str(error) for text in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _flush_to_disk(*paths: Path) -> None:
    """Waits until files, and the names in folders, are on disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
