"""Files that are whole at every moment, and folders that are as they were written."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec.config
from etils import epath

PathLike = str | os.PathLike[str]

MANIFEST = "SHA256SUMS"
"""The checksums of a folder's files, as `sha256sum --check` reads them too."""


class ManifestError(ValueError):
    """A folder is not as it was written."""


class DiskFullError(ValueError):
    """There is no room for what is to be written."""


def is_remote(path: PathLike) -> bool:
    """Whether a path is in an object store, such as `gs://bucket/run`."""
    return "://" in os.fspath(path)


def any_path(path: PathLike) -> Path | epath.Path:
    """A path of this machine, or of an object store, where what was listed once is listed again."""
    if not is_remote(path):
        return Path(path)
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(path)


def replace_file(path: PathLike, content: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new, never a part."""
    path = any_path(path)
    if not isinstance(path, Path):  # an object appears when all of it is there
        path.write_bytes(content)
        return
    with replaced(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """As `replace_file`, for what writes the file itself: yields the name to write under until the block ends."""
    # Processes of two machines that write the same file on a disk of both may have the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_manifest(folder: PathLike) -> None:
    """Writes the checksum of every file below `folder` into `folder/SHA256SUMS`; the folder may be remote."""
    files = files_below(folder)
    files.pop(MANIFEST, None)
    replace_file(any_path(folder) / MANIFEST, _manifest({name: _digest(path) for name, path in files.items()}))


def check_manifest(folder: PathLike) -> None:
    """Compares a folder with its manifest.

    Raises:
        ManifestError: if there is no manifest, or files are missing, added or altered; all are named.
    """
    problems = manifest_problems(folder)
    if problems == [f"{MANIFEST} is missing"]:
        raise ManifestError(f"{folder} has no {MANIFEST}, so it was not written whole; convert or save the model again")
    if problems:
        raise ManifestError(f"{folder} is damaged: {'; '.join(problems)}; copy, convert or save the model again")


def manifest_problems(folder: PathLike) -> list[str]:
    """How a folder differs from its manifest, a phrase for each file; empty if it is as it was written."""
    files = files_below(folder)
    if MANIFEST not in files:
        return [f"{MANIFEST} is missing"]
    content = files.pop(MANIFEST).read_bytes()
    lines = content.decode(errors="replace").splitlines()
    expected = {name: listed for listed, _, name in (line.partition("  ") for line in lines)}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        found = dict(zip(files, threads.map(_digest, files.values()), strict=True))
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} was added" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} was altered" for name in sorted(expected.keys() & found.keys()) if found[name] != expected[name]
    ]
    # The manifest itself must be, to the byte, what would be written now: nothing protects it but that.
    return problems or ([] if content == _manifest(found) else [f"{MANIFEST} was altered"])


def _manifest(digests: dict[str, str]) -> bytes:
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def files_below(folder: PathLike) -> dict[str, Path | epath.Path]:
    """The files of a folder and its folders, by relative name, in order."""
    path = any_path(folder)
    if isinstance(path, Path):
        relative = [entry.relative_to(path) for entry in path.rglob("*") if entry.is_file()]
    else:  # what is walked through may have another spelling than `path`, without the scheme
        walked = [(PurePosixPath(parent), names) for parent, _, names in path.walk()]
        relative = [parent.relative_to(walked[0][0]) / name for parent, names in walked for name in names]
    return {name: path / name for name in sorted(entry.as_posix() for entry in relative)}


def _digest(path: Path | epath.Path) -> str:
    opened: Any = path.open("rb")  # etils declares less than its files can do
    with opened as file:
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
        with naming_full_disk(path.parent):
            yield temporary
            _flush_to_disk(*temporary.rglob("*"), temporary)
            if path.is_dir():
                path.rmdir()
            temporary.rename(path)
            _flush_to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require_room(folder: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise DiskFullError(
            f"the disk of {folder} has {free / 1e6:,.1f} MB left and {size_bytes / 1e6:,.1f} MB are needed; "
            "make room, or write elsewhere"
        )


@contextmanager
def naming_full_disk(folder: Path, advice: str = "make room, or write elsewhere") -> Iterator[None]:
    """Turns what says that there is no room, in whatever words, into a `DiskFullError` that names the folder."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(f"the disk of {folder} is full; {advice}") from error


def is_disk_full(error: BaseException | None) -> bool:
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
