"""The list of URLs, in Parquet files of a limited number of rows.

img2dataset takes a folder of files, reads one file as a whole, and resumes by it: files of some million rows suit it.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from align_jax.data.arrow import parquet
from align_jax.data.coyo.releases import Release

ROWS_PER_FILE = 5_000_000
_ROWS_PER_GROUP = 2**18
CAPTION = "caption"


class UrlList:
    """Writes `part-00000.parquet` … into a folder.

    Args:
        folder: that exists and is empty.
        schema: of the rows, in Arrow.
        rows_per_file: most rows of one file.

    Attributes:
        files: names of those that were written.
    """

    def __init__(self, folder: Path, schema: Any, rows_per_file: int = ROWS_PER_FILE):
        self._arrow, self._parquet = parquet("writing a list of URLs")
        self._folder, self._schema, self._rows_per_file = folder, schema, rows_per_file
        self._waiting: list[Any] = []
        self._waiting_rows = self._rows_in_file = 0
        self._writer: Any = None
        self.files: list[str] = []

    def __enter__(self) -> "UrlList":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if kind is None:
            self._write()
            if not self.files:  # a list without rows is a list
                self._open()
        if self._writer is not None:
            self._writer.close()

    def add(self, batch: Any) -> None:
        """Takes rows with the columns of the schema, in any order and of types that can be cast to it."""
        if batch.schema != self._schema:
            table = self._arrow.Table.from_batches([batch]).select(self._schema.names).cast(self._schema)
            batches = table.to_batches()
        else:
            batches = [batch]
        for one in batches:
            self._waiting.append(one)
            self._waiting_rows += len(one)
        if self._waiting_rows >= _ROWS_PER_GROUP:
            self._write()

    def _write(self) -> None:
        table = self._arrow.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._waiting_rows = [], 0
        while len(table):
            if self._writer is None or self._rows_in_file == self._rows_per_file:
                self._open()
            part = table.slice(0, self._rows_per_file - self._rows_in_file)
            self._writer.write_table(part, row_group_size=_ROWS_PER_GROUP)
            self._rows_in_file += len(part)
            table = table.slice(len(part))

    def _open(self) -> None:
        if self._writer is not None:
            self._writer.close()
        name = f"part-{len(self.files):05d}.parquet"
        # No two URLs are equal, and nobody looks for one: dictionaries and statistics cost time and save nothing.
        self._writer = self._parquet.ParquetWriter(
            self._folder / name, self._schema, compression="snappy", use_dictionary=False, write_statistics=False
        )
        self._rows_in_file = 0
        self.files.append(name)


def list_schema(release: Release, columns: Sequence[str], source: Any) -> tuple[Any, dict[str, str]]:
    """The Arrow schema of the list, and its columns by the published ones.

    Args:
        release: whose URLs, and captions where it has some, are written.
        columns: that are written besides.
        source: the Arrow schema of one of its files.
    """
    arrow, _ = parquet("writing a list of URLs")
    names = {"url": "url"} | ({release.caption: CAPTION} if release.caption else {})
    names |= {column: column for column in columns if column not in names}
    return arrow.schema([(new, source.field(old).type) for old, new in names.items()]), names
