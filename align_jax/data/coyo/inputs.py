"""The Parquet files of a release, found and checked before a row is read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_jax.data.arrow import parquet
from align_jax.data.coyo.releases import COYO_700M, COYO_LABELED_300M, CoyoError, Release, type_problem

_BUFFER_BYTES = 2**20
_SHOWN_PROBLEMS = 5
_MOST_ROWS_PER_BYTE = 1000


@dataclass(frozen=True)
class Inputs:
    """Files of one release.

    Attributes:
        release: which.
        files: in the order of their names.
        rows: of each.
    """

    release: Release
    files: tuple[Path, ...]
    rows: tuple[int, ...]


def open_inputs(paths: Sequence[Path]) -> Inputs:
    """Finds Parquet files, and checks the columns of every one.

    Args:
        paths: files, or folders of files with the suffix `.parquet`.

    Raises:
        FileNotFoundError: if a path does not exist.
        CoyoError: if a folder is empty, a file is damaged, or its columns are not those of a release.
    """
    files = [file for path in paths for file in _files(path)]
    if twice := next((file for index, file in enumerate(files) if file in files[:index]), None):
        raise CoyoError(f"{twice} is named twice; its rows would be in the list twice")
    checked = [_check(file) for file in files]
    release = checked[0][0]
    for file, (other, _) in zip(files, checked, strict=True):
        if other != release:
            raise CoyoError(f"{file} is of {other.name}, and {files[0]} of {release.name}; select from one at a time")
    return Inputs(release, tuple(files), tuple(rows for _, rows in checked))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` that reads a page after the other, whose errors name it.

    Raises:
        CoyoError: if the file is damaged, when it is opened or within the block.
    """
    arrow, files = parquet(f"reading {path}")
    try:
        with files.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            yield file
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise CoyoError(f"{path} cannot be read as Parquet: {error}; download it again") from error


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"input {str(path)!r} does not exist")
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise CoyoError(f"{path} holds no file with the suffix .parquet; give the folder with the published files")
    return files


def _check(path: Path) -> tuple[Release, int]:
    """The release of a file and the number of its rows."""
    arrow, _ = parquet(f"reading {path}")
    with opened(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    if sum(groups) != rows or rows > _MOST_ROWS_PER_BYTE * path.stat().st_size:
        raise CoyoError(f"{path} claims {rows} rows, which it cannot hold; download it again")
    release = max(
        (COYO_700M, COYO_LABELED_300M),
        key=lambda one: sum(column.name in schema.names for column in one.columns),
    )
    problems = []
    for column in release.columns:
        if schema.names.count(column.name) != 1:
            problems.append(f"{column.name} is {'missing' if column.name not in schema.names else 'there twice'}")
        elif problem := type_problem(column.kind, schema.field(column.name).type, arrow.types):
            problems.append(f"{column.name} {problem}")
    if problems:
        more = f" and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise CoyoError(
            f"{path} does not have the columns of {release.name}: {', '.join(problems[:_SHOWN_PROBLEMS])}{more}; "
            "give the published files"
        )
    return release, rows
