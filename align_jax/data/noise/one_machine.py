"""Filters a collection on one machine.

The collection is read once; what the rules look at is kept in a temporary file, and goes by a second time when
everything is counted. The counts are in memory: about 100 bytes for each pair and rule that counts, and for each
different unigram and bigram. For more than some ten million pairs there is Beam.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align_jax.data.arrow import parquet
from align_jax.data.collections import Refused
from align_jax.data.coyo.url_list import ROWS_PER_FILE
from align_jax.data.noise.audit import Audit, events
from align_jax.data.noise.output import AUDIT_FILE, DROPPED, KEPT, dropped_row, kept_row, schemas
from align_jax.data.noise.pairs import Pair, PairSource
from align_jax.data.noise.rules import Facts, Rule, allowed_tokens, broken_rules
from align_jax.data.noise.tokens import common_count, tokens
from align_jax.files import new_folder

_BATCH_ROWS = 4096
_SPOOL = ".pairs"
_ROW = "row"


class Counts:
    """Counts what rules must know of a whole collection.

    Args:
        rules: that will be followed; what none of them needs is not counted.
        near: ids of the images that are near-duplicates of those of an evaluation.
    """

    def __init__(self, rules: Sequence[Rule], near: Collection[str] = frozenset()):
        self._needs = {rule.needs for rule in rules}
        self._allowed = allowed_tokens(rules)
        self._near = frozenset(near)
        self._seen: set[bytes] = set()
        self._texts_of_image: Counter[bytes] = Counter()
        self._images_of_text: Counter[bytes] = Counter()
        self._tokens: Counter[str] = Counter()
        self._common: int | None = None

    def add(self, pair: Pair) -> None:
        """Counts a pair."""
        self._common = None
        if self._needs & {"texts_of_image", "images_of_text"}:
            image, text = _digest(pair.image), _digest(pair.text)
            if image + text not in self._seen:
                self._seen.add(image + text)
                self._texts_of_image[image] += 1
                self._images_of_text[text] += 1
        if self._allowed is not None:
            self._tokens.update(tokens(pair.text))

    def facts(self, pair: Pair) -> Facts:
        """What is known of a pair, once all are counted."""
        if self._common is None:
            by_count = Counter(self._tokens.values())
            self._common = 0 if self._allowed is None else common_count(by_count.items(), self._allowed)
        default = Facts()
        counted = [self._tokens[token] for token in tokens(pair.text)] if self._allowed is not None else []
        return Facts(
            self._texts_of_image[_digest(pair.image)] if "texts_of_image" in self._needs else default.texts_of_image,
            self._images_of_text[_digest(pair.text)] if "images_of_text" in self._needs else default.images_of_text,
            min(counted, default=default.rarest_token),
            self._common,
            pair.id in self._near,
        )


def filter_collection(
    source: PairSource,
    rules: Sequence[Rule],
    output: Path,
    near: Collection[str] = frozenset(),
    advance: Callable[[float], None] = lambda pairs: None,
) -> Audit:
    """Writes which pairs are kept, which are not and why, into a folder that appears when it is whole.

    Args:
        source: of the pairs.
        rules: in the order in which a pair counts as dropped.
        output: a folder that is not there yet.
        near: ids of near-duplicates of evaluation images.
        advance: is called with the number of pairs just read.

    Raises:
        ValueError: if `output` is there already.
        DiskFullError: if it does not fit on the disk.
        CollectionError: if the collection cannot be read.
    """
    require_different(rules)
    source, collection = source.open()
    columns = None if source.sizes is None else collection.column_types
    counts, events_counted = Counts(rules, near), Counter[str]()
    with new_folder(output) as folder:
        written = {name: _Writer(folder / name, schema) for name, schema in schemas(columns).items()}
        spool = _Writer(folder / _SPOOL, _spool_schema(columns))
        for entry in source.read(collection):
            if isinstance(entry, Refused):
                written[DROPPED].add(dropped_row(entry.id, f"unreadable: {entry.reason}"))
                events_counted.update(events(None))
            else:
                counts.add(entry)
                spool.add(kept_row(entry._replace(row=None)) | {_ROW: entry.row})
            advance(1)
        spool.close()
        for pair in _spooled(folder / _SPOOL):
            broken = broken_rules(pair, counts.facts(pair), rules)
            events_counted.update(events(broken))
            if broken:
                written[DROPPED].add(dropped_row(pair.id, f"not {broken[0]}"))
            else:
                written[KEPT].add(kept_row(pair))
        for writer in written.values():
            writer.close()
        shutil.rmtree(folder / _SPOOL)
        audit = Audit.of(events_counted, rules)
        (folder / AUDIT_FILE).write_bytes(audit.to_json())
    return audit


def require_different(rules: Sequence[Rule]) -> None:
    """Checks that each rule is there once.

    Raises:
        ValueError: if two are of a kind, which would count as one.
    """
    names = [type(rule).__name__ for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"rule {twice} is given twice; give it once")


class _Writer:
    """Rows to the Parquet files of a new folder, some thousand at a time."""

    def __init__(self, folder: Path, schema: Any):
        self._arrow, self._files = parquet(f"writing {folder}")
        self._folder, self._schema, self._rows = folder, schema, []
        self._written = self._number = 0
        folder.mkdir()
        self._file = self._open()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._written >= ROWS_PER_FILE:
            self._file.close()
            self._written, self._number = 0, self._number + 1
            self._file = self._open()
        self._file.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
        self._written, self._rows = self._written + len(self._rows), []

    def _open(self) -> Any:
        return self._files.ParquetWriter(self._folder / f"part-{self._number:05d}.parquet", self._schema)


def _spool_schema(columns: Mapping[str, Any] | None) -> Any:
    """What is kept of each pair until all are counted: what rules look at, and the row of its table."""
    arrow, _ = parquet("keeping pairs")
    pair = schemas(None)[KEPT]
    if columns is None:
        return pair
    return pair.append(arrow.field(_ROW, arrow.struct(list(schemas(columns)[KEPT]))))


def _spooled(folder: Path) -> Iterator[Pair]:
    _, files = parquet(f"reading {folder}")
    for path in sorted(folder.iterdir()):
        with files.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for batch in file.iter_batches(_BATCH_ROWS):
                columns = [batch.column(name).to_pylist() for name in names]
                yield from (Pair(*row) for row in zip(*columns, strict=True))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
