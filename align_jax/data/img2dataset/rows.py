"""The rows of one shard: what can be a record of a data set, and why the rest cannot."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from align_jax.data.collections import CollectionError, Item, Refused
from align_jax.data.collections.names import shown
from align_jax.data.collections.parquet import IMAGE_COLUMNS, ParquetFile
from align_jax.data.collections.single_files import Folder
from align_jax.data.collections.tar import IMAGE_MEMBERS, TarFile
from align_jax.data.images import ImageDecodeError, decode_image
from align_jax.data.img2dataset.columns import Column, ValueProblemError, columns_of_schema, columns_of_values
from align_jax.data.img2dataset.shards import Layout, Shard, Shards
from align_jax.data.img2dataset.side_table import (
    CAPTION,
    ERROR,
    SHA256,
    STATUS,
    URL,
    read_schema,
    read_table,
)
from align_jax.data.img2dataset.tf_record import read_records
from align_jax.data.records import Example

TEXT = "txt"
SUCCESS = "success"
NOT_KEPT = "the filter has not kept it"
_SAMPLED_ROWS = 100


class Row(NamedTuple):
    """A pair, or a labelled image, that has been checked.

    Attributes:
      key: as img2dataset has numbered it.
      image: an encoded image that decodes.
      text: its caption; "" where none is wanted.
      values: of the columns that are kept, for `tf.train.Example`.
      url: where the image came from, or "".
      sha256: of the image as it was downloaded, or "".
    """

    key: str
    image: bytes
    text: str
    values: dict[str, list[Any]]
    url: str
    sha256: str


class Unusable(NamedTuple):
    """A row that is left out.

    Attributes:
      key: of the row.
      reason: in words that many rows share.
      detail: what is particular about this one.
    """

    key: str
    reason: str
    detail: str = ""


class Damage(NamedTuple):
    """What is wrong with the files of a shard at a place that is no row.

    Attributes:
      reason: in words; what it costs are rows that are not in the data.
    """

    reason: str


def find_columns(shards: Shards, names: Sequence[str]) -> tuple[Column, ...]:
    """The types of columns, by the first shard that can tell.

    Without a table, what stands in the JSON beside an image is kept as text.

    Raises:
      CollectionError: none can, or one that can says that there is no such column.
    """
    if not names:
        return ()
    schema = table_schema(shards)
    if schema is not None:
        return columns_of_schema(names, schema, "the table of the first shard")
    shard = next(shard for shard in shards.shards if shard.data is not None)
    entries = islice(_entries(shard, shards.layout, names), _SAMPLED_ROWS)
    return columns_of_values(names, (dict(one.columns) for one in entries if isinstance(one, Item)), str(shard.data))


def table_schema(shards: Shards) -> Any | None:
    """The Arrow schema of the first table that can be read; `None` where there is no such table."""
    for table in filter(None, (shard.table for shard in shards.shards)):
        with contextlib.suppress(CollectionError):  # this one is damaged, the next need not be
            return read_schema(table)
    return None


def read_rows(
    shard: Shard, layout: Layout, columns: Sequence[Column], captioned: bool
) -> Iterator[Row | Unusable | Damage]:
    """Every row of a shard once.

    With a table, its rows are those of the shard, and images that it does not know. What else cannot be read in the
    data is damage, and the rows that this takes away count as not being there.

    Args:
      shard: its files; the data may be missing.
      layout: of the data.
      columns: that are kept.
      captioned: whether a row without a caption is left out.

    Raises:
      CollectionError: the table of the shard is damaged, or has other types than `columns`.
    """
    names = [column.name for column in columns]
    table = read_table(shard.table, names) if shard.table else None
    if table is not None and table.columns != tuple(columns):
        raise CollectionError(f"{shard.table} has columns of other types than the first shard: {table.columns}")
    open_rows = dict(table.rows) if table else {}
    kept = None if shard.kept is None else set(shard.kept.splitlines())
    repeated = Counter(table.repeated if table else ())
    for key in repeated.elements():
        yield Unusable(shown(key), "an earlier row of the shard has the same key, or it has none")
    for entry in _entries(shard, layout, names) if shard.data else ():
        key = entry.id.rpartition("/")[2] if layout != "files" else Path(entry.id).stem
        row, wanted = open_rows.pop(key, None), kept is None or key in kept
        if kept is not None:
            kept.discard(key)
        if row is not None and row.get(STATUS) not in (SUCCESS, None):
            yield _failed(key, row)
        elif row is None and repeated[key]:  # counted with the table
            repeated[key] -= 1
        elif isinstance(entry, Refused) and table is not None and row is None:
            yield Damage(f"{shown(key)}: {entry.reason}")
        elif isinstance(entry, Refused):
            yield Unusable(shown(key), _shared(entry.reason), entry.reason)
        elif table is not None and key in table.rows and row is None:
            yield Unusable(key, "an earlier row of the shard has the same key, or it has none")
        elif not wanted:
            yield Unusable(key, NOT_KEPT)
        else:
            yield _checked(key, entry, row or {}, columns, captioned)
    if kept:
        yield Damage(f"{len(kept)} rows that the filter has kept are not in it, such as {shown(min(kept))}")
    where = "the data of its shard" if shard.data else "the shard, which is missing"
    for key, row in open_rows.items():
        failed = row.get(STATUS) not in (SUCCESS, None)
        yield _failed(key, row) if failed else Unusable(shown(key), f"it is not in {where}")


def _checked(
    key: str, item: Item, row: Mapping[str, Any], columns: Sequence[Column], captioned: bool
) -> Row | Unusable:
    found = {**item.columns, **row}
    text = found.get(TEXT)
    text = " ".join(_text(found.get(CAPTION) if text is None else text).split()) if captioned else ""
    if captioned and not text:
        return Unusable(key, "it has no caption")
    try:
        values = {column.name: column.values(found.get(column.name)) for column in columns}
    except ValueProblemError as error:
        return Unusable(key, str(error))
    try:
        decode_image(item.content)
    except ImageDecodeError as error:
        return Unusable(key, "the image does not decode", str(error))
    return Row(key, item.content, text, values, _text(found.get(URL)), _text(found.get(SHA256)))


def _failed(key: str, row: Mapping[str, Any]) -> Unusable:
    message = str(row.get(ERROR) or "no reason given")
    return Unusable(shown(key), f"img2dataset: {row.get(STATUS)}: {_shared(message, numbers=True)}", message)


def _shared(reason: str, numbers: bool = False) -> str:
    """The words of a reason, without names and (unless they are wanted, as of an HTTP status) numbers.

    >>> _shared("the tar is cut: 31 bytes were declared, and 7 are there")
    'the tar is cut'
    """
    reason = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", reason)
    reason = reason if numbers else re.sub(r"\d+", "#", re.sub(r":\D*\d.*", "", reason))
    return shown(" ".join(reason.split())[:120])


def _entries(shard: Shard, layout: Layout, names: Sequence[str]) -> Iterator[Item | Refused]:
    assert shard.data is not None
    carried = [TEXT, *names] if shard.table else [*dict.fromkeys([TEXT, CAPTION, URL, SHA256, *names])]
    return _READERS[layout](shard.data, shard.name, carried)


def _tar(path: Path, name: str, carried: Sequence[str]) -> Iterator[Item | Refused]:
    try:
        yield from TarFile(path, name, "image", None, carried).read(0)
    except CollectionError as error:
        yield Refused(name, f"the shard cannot be read: {_reason(error, path)}")


def _files(path: Path, name: str, carried: Sequence[str]) -> Iterator[Item | Refused]:
    return Folder(path, "image", carried).read(0)


def _parquet(path: Path, name: str, carried: Sequence[str]) -> Iterator[Item | Refused]:
    schema = read_schema(path)
    own = [TEXT] if TEXT in schema.names else []
    yield from ParquetFile(path, name, "", "image", column=None, id_column="key", columns=own).read(0)


def _tf_record(path: Path, name: str, carried: Sequence[str]) -> Iterator[Item | Refused]:
    for number, record in enumerate(read_records(path)):
        if isinstance(record, Refused):
            yield record._replace(id=f"{name}/{record.id}")
            continue
        try:
            features = Example.FromString(record).features.feature
        except Exception:  # protobuf's DecodeError is made at run time
            yield Refused(f"{name}/record {number}", "the record is no tf.train.Example")
            continue
        values = {one: _feature(features[one]) for one in ("key", *IMAGE_COLUMNS, *carried) if one in features}
        key = _text(values.get("key"))
        image = next(
            (values[one] for one in (*IMAGE_MEMBERS, *IMAGE_COLUMNS) if isinstance(values.get(one), bytes)), None
        )
        if not key or not isinstance(image, bytes):
            yield Refused(f"{name}/{key or f'record {number}'}", f"the record has no {'image' if key else 'key'}")
        else:
            yield Item(f"{name}/{key}", image, {one: values.get(one) for one in carried})


_READERS: Mapping[Layout, Callable[[Path, str, Sequence[str]], Iterator[Item | Refused]]] = {
    "webdataset": _tar, "tfrecord": _tf_record, "parquet": _parquet, "files": _files,
}  # fmt: skip


def _feature(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    return values[0] if len(values) == 1 else values or None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) if value is not None else ""


def _reason(error: Exception, path: Path) -> str:
    return str(error).replace(f"{path} ", "")
