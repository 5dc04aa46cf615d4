"""Chooses rows of a release by rules, in memory that does not depend on how many there are.

Every row group is read twice, and each time only what is wanted of it: first the columns that the rules and histograms
are about, until no row is left or the statistics in the file say that none will be; then URLs, texts and metadata, if
rows are left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from align_jax.data.arrow import parquet
from align_jax.data.coyo.conditions import kept_rows, numbers, verdict
from align_jax.data.coyo.download import download_command
from align_jax.data.coyo.histograms import Histogram, histograms_of
from align_jax.data.coyo.inputs import Inputs, opened
from align_jax.data.coyo.picture import draw
from align_jax.data.coyo.releases import CoyoError, Release
from align_jax.data.coyo.rules import COMPARISONS, Rule
from align_jax.data.coyo.summary import Summary
from align_jax.data.coyo.url_list import ROWS_PER_FILE, UrlList, list_schema
from align_jax.files import new_folder

URLS, SUMMARY, PICTURE, IMAGES = "urls", "summary.json", "histograms.png", "images"
_BATCH_ROWS = 2**17


@dataclass(frozen=True)
class Selection:
    """What is wanted of a release.

    Attributes:
        rules: in the order in which rows are dropped.
        columns: of the list besides URL and caption; what the release suggests where `None`.
        histograms: columns to count; those of the rules where `None`.
        label_threshold: labels that are less probable do not count in rules on `labels`.
        rows_per_file: most rows of one file of the list.
    """

    rules: Sequence[Rule] = ()
    columns: Sequence[str] | None = None
    histograms: Sequence[str] | None = None
    label_threshold: float = 0.0
    rows_per_file: int = ROWS_PER_FILE

    def __post_init__(self) -> None:
        if self.rows_per_file < 1:
            raise CoyoError(f"{self.rows_per_file} rows in a file are not positive; use 1 or more")
        if not 0 <= self.label_threshold <= 1:
            raise CoyoError(f"label threshold {self.label_threshold} is not between 0 and 1")
        if self.label_threshold and not any(rule.column.name == "labels" for rule in self.rules):
            raise CoyoError(
                f"label threshold {self.label_threshold} has no effect without a rule on labels, "
                "such as 'labels in classes.txt' of COYO-Labeled-300M; add one, or leave it out"
            )

    def columns_of(self, release: Release) -> tuple[str, ...]:
        """The columns of the list besides URL and caption.

        Raises:
            CoyoError: if one is not published.
        """
        names = release.saved if self.columns is None else self.columns
        for name in names:
            if release.column(name).sources:
                raise CoyoError(f"column {name} is computed; choose {' and '.join(release.column(name).sources)}")
        return tuple(dict.fromkeys(name for name in names if name not in ("url", release.caption)))

    def histograms_of(self, release: Release) -> list[Histogram]:
        """Empty histograms.

        Raises:
            CoyoError: if a column is named that does not exist or has no numbers.
        """
        if self.histograms is None:
            return histograms_of(list(dict.fromkeys(rule.column for rule in self.rules)))
        columns = [release.column(name) for name in dict.fromkeys(self.histograms)]
        if without := [column.name for column in columns if column.bins is None]:
            raise CoyoError(f"column {without[0]} has no histogram; choose among columns of numbers")
        return histograms_of(columns)


def select(
    inputs: Inputs, selection: Selection, output: Path, advance: Callable[[float], None] = lambda rows: None
) -> Summary:
    """Writes the list of URLs, `summary.json` and `histograms.png` into a folder, which appears when it is whole.

    Args:
        inputs: checked files.
        selection: what to keep of them.
        output: a folder that is not there yet.
        advance: is called with the number of rows just read.

    Raises:
        ValueError: if `output` is there already.
        DiskFullError: if it does not fit on the disk.
        CoyoError: if a column does not exist, or a file is damaged.
    """
    columns = selection.columns_of(inputs.release)
    counted = _Counted(selection, inputs.release)
    with opened(inputs.files[0]) as file:
        schema, names = list_schema(inputs.release, columns, file.schema_arrow)
    with new_folder(output) as folder:
        (folder / URLS).mkdir()
        kept = []
        with UrlList(folder / URLS, schema, selection.rows_per_file) as urls:
            for path in inputs.files:
                kept.append(_select_file(path, selection, counted, names, urls, advance))
        summary = Summary(
            inputs.release.name, sum(inputs.rows), tuple(counted.dropped.items()), sum(kept),
            tuple(zip(map(str, inputs.files), inputs.rows, kept, strict=True)),
            tuple(urls.files), tuple(schema.names), tuple(counted.histograms), selection.label_threshold,
        )  # fmt: skip
        command = download_command(output / URLS, output / IMAGES, inputs.release, columns)
        (folder / SUMMARY).write_bytes(summary.to_json(command))
        if summary.histograms:
            draw(summary, selection.rules, folder / PICTURE)
    return summary


class _Counted:
    """What is counted while rows go by."""

    def __init__(self, selection: Selection, release: Release):
        self.dropped = {rule.text: 0 for rule in selection.rules}
        if len(self.dropped) < len(selection.rules):
            raise CoyoError("a rule is given twice; give it once")
        self.histograms = selection.histograms_of(release)
        columns = [one.column for one in self.histograms]
        self.columns = [name for column in columns for name in column.sources or (column.name,)]


def _select_file(
    path: Path, selection: Selection, counted: _Counted, names: Mapping[str, str], urls: UrlList,
    advance: Callable[[float], None],
) -> int:  # fmt: skip
    """Selects from one file, and returns the number of rows that were kept."""
    total = 0
    with opened(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            try:
                alive = _choose(file, group, selection, counted, advance)
                if (kept := int(np.count_nonzero(alive))) and len(alive) == rows:
                    _copy(file, group, alive, names, urls)
            except CoyoError as error:
                raise CoyoError(f"{path}, row group {group}: {error}; download it again") from error
            if len(alive) != rows:
                raise CoyoError(f"{path}, row group {group} has {len(alive)} rows instead of {rows}; download it again")
            total += kept
    return total


def _choose(
    file: Any, group: int, selection: Selection, counted: _Counted, advance: Callable[[float], None]
) -> Bool[np.ndarray, " rows"]:
    """Which rows of a row group to keep."""
    total = file.metadata.row_group(group).num_rows
    statistics = _statistics(file, group, selection.rules)
    undecided: list[Rule] = []
    none_left: Rule | None = None
    for rule in selection.rules:
        decided = verdict(rule, statistics)
        if decided == "none":
            none_left = rule
            break
        if decided is None:
            undecided.append(rule)
    wanted = [*counted.columns, *(name for rule in undecided for name in rule.reads(selection.label_threshold))]
    chosen = []
    for batch in _batches(file, group, list(dict.fromkeys(wanted)), total):
        alive = np.ones(len(batch), bool)
        left = len(batch)
        for rule in undecided:
            alive = kept_rows(rule, batch, alive, selection.label_threshold)
            now = int(np.count_nonzero(alive))
            counted.dropped[rule.text] += left - now
            left = now
            if not left:
                break
        if none_left is not None:
            counted.dropped[none_left.text] += left
            alive = np.zeros(len(batch), bool)
        for histogram in counted.histograms:
            histogram.add(*numbers(histogram.column, batch), alive)
        chosen.append(alive)
        advance(len(batch))
    return np.concatenate(chosen) if chosen else np.zeros(0, bool)


def _statistics(file: Any, group: int, rules: Sequence[Rule]) -> dict[str, Any]:
    """What a row group's footer says of the published columns that rules compare."""
    wanted = {name for rule in rules if rule.operator in COMPARISONS for name in rule.reads()}
    # Arrow ends the process where a damaged footer contradicts itself, but not when it reads: so it reads a row first.
    for _ in file.iter_batches(1, row_groups=[group], columns=sorted(wanted)) if wanted else ():
        break
    paths = [file.schema.column(index).path for index in range(len(file.schema))]
    metadata = file.metadata.row_group(group)
    return {path: metadata.column(index).statistics for index, path in enumerate(paths) if path in wanted}


def _copy(file: Any, group: int, alive: Bool[np.ndarray, " rows"], names: Mapping[str, str], urls: UrlList) -> None:
    """Adds the rows that are kept to the list."""
    arrow, _ = parquet("writing a list of URLs")
    start = 0
    for batch in _batches(file, group, list(names), len(alive)):
        mask = alive[start : start + len(batch)]
        start += len(batch)
        if mask.any():
            kept = batch if mask.all() else batch.filter(arrow.array(mask))
            urls.add(kept.rename_columns([names[name] for name in kept.schema.names]))
    if start != len(alive):
        raise CoyoError(f"there are {start} URLs in {len(alive)} rows")


def _batches(file: Any, group: int, columns: list[str], rows: int) -> Iterator[Any]:
    """The rows of a group, in batches of the same sizes whatever the columns are."""
    if columns:
        yield from file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns)
        return
    arrow, _ = parquet("reading rows")
    for start in range(0, rows, _BATCH_ROWS):  # nothing needs to be read: only their number counts
        yield arrow.record_batch({"": arrow.nulls(min(_BATCH_ROWS, rows - start))})
