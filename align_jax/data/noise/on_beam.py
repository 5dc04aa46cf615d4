"""The same rules as a pipeline of Apache Beam (extra `beam`), here or on the workers of Dataflow, Flink or Spark.

Everything that rules must know of the whole collection is counted and joined by shuffles, so no worker needs more
memory than its share. The results are those of `one_machine.py`.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from align_jax.data.beam import beam, new_pipeline
from align_jax.data.collections import FileRecord, Refused
from align_jax.data.noise.audit import Audit, events
from align_jax.data.noise.one_machine import require_different
from align_jax.data.noise.output import AUDIT_FILE, dropped_row, kept_row, schemas
from align_jax.data.noise.pairs import Pair, PairSource
from align_jax.data.noise.rules import Facts, Rule, allowed_tokens, broken_rules
from align_jax.data.noise.tokens import common_count, tokens
from align_jax.files import new_folder

_SLICE_ENTRIES = 4096
_COUNTS = "counts.json"


def filter_on_beam(
    source: PairSource,
    rules: Sequence[Rule],
    output: Path,
    near: Any = None,
    options: Sequence[str] = ("--runner=DirectRunner",),
) -> Audit:
    """As `filter_collection`, by a pipeline.

    Args:
        source: of the pairs; all workers must see its files.
        rules: in the order in which a pair counts as dropped.
        output: a folder that is not there yet, which all workers see.
        near: gives the ids of near-duplicates of evaluation images, applied to the pipeline.
        options: of Beam, such as `--runner=FlinkRunner`.

    Raises:
        ValueError: if `output` is there already.
        CollectionError: if the collection cannot be read.
    """
    require_different(rules)
    source, collection = source.open()
    records, size = collection.records, collection.size
    slices = [(start, min(start + _SLICE_ENTRIES, size)) for start in range(0, size, _SLICE_ENTRIES)]
    with new_folder(output) as folder:
        with new_pipeline(options) as pipeline:
            entries = (
                pipeline
                | "slices" >> beam.Create(slices)
                | "spread" >> beam.Reshuffle()
                | "read" >> beam.ParDo(ReadPairs(source, {record.name: record for record in records}))
            )
            near_ids = None if near is None else pipeline | "near-duplicates" >> near
            columns = None if source.sizes is None else collection.column_types
            _write(NoiseFilter(rules, near_ids).judged(entries), folder, schemas(columns))
        audit = Audit.of(json.loads((folder / _COUNTS).read_text()), rules)
        (folder / _COUNTS).unlink()
        (folder / AUDIT_FILE).write_bytes(audit.to_json())
    return audit


def near_duplicates(parts: Sequence[Path], ids: Callable[[Path], Iterable[str]]) -> Any:
    """The ids of near-duplicates, part by part.

    Args:
        parts: files with embeddings, which all workers see.
        ids: finds the near-duplicates in a file.
    """
    return "parts" >> beam.Create(list(parts)) | "spread parts" >> beam.Reshuffle() | "search" >> beam.FlatMap(ids)


class ReadPairs(beam.DoFn):
    """Reads slices of a collection.

    Args:
        source: of the pairs.
        known: what is known of its files, so that no worker looks through them again.
    """

    def __init__(self, source: PairSource, known: dict[str, FileRecord]):
        self._source, self._known = source, known

    def setup(self) -> None:
        self._opened = self._source.open(self._known)

    def process(self, element: tuple[int, int]) -> Iterator[Pair | Refused]:
        source, collection = self._opened
        yield from source.read(collection, *element)


class NoiseFilter:
    """Rules on a `PCollection`.

    Args:
        rules: in their order.
        near_ids: ids of near-duplicates of evaluation images.
    """

    def __init__(self, rules: Sequence[Rule], near_ids: Any = None):
        self._rules, self._near_ids = tuple(rules), near_ids

    def judged(self, entries: Any) -> Any:
        """Entries with the names of the rules that they break, `None` for those that are refused.

        Args:
            entries: a `PCollection` of `Pair` and `Refused`; ids differ.
        """
        pairs = entries | "pairs" >> beam.Filter(lambda entry: isinstance(entry, Pair))
        refused = (
            entries
            | "refused" >> beam.Filter(lambda entry: isinstance(entry, Refused))
            | "as they are" >> beam.Map(lambda entry: (entry, None))
        )
        rules, needs = self._rules, {rule.needs for rule in self._rules}
        joined = {"pair": pairs | "by id" >> beam.Map(lambda pair: (pair.id, pair))}
        if needs & {"texts_of_image", "images_of_text"}:
            different = pairs | "image and text" >> beam.Map(lambda pair: (pair.image, pair.text)) | beam.Distinct()
            if "texts_of_image" in needs:
                joined["texts_of_image"] = _count_of(pairs, different, "image", 0)
            if "images_of_text" in needs:
                joined["images_of_text"] = _count_of(pairs, different, "text", 1)
        common = 0
        if (allowed := allowed_tokens(rules)) is not None:
            joined["rarest_token"], common = _rarest_token(pairs, allowed)
        if self._near_ids is not None:
            joined["near_evaluation"] = self._near_ids | "near" >> beam.Map(lambda name: (name, True))
        judged = joined | "facts" >> beam.CoGroupByKey() | "judge" >> beam.ParDo(Judge(rules), common)
        return (judged, refused) | "all" >> beam.Flatten()


class Judge(beam.DoFn):
    """Finds out which rules a pair breaks.

    Args:
        rules: in their order.
    """

    def __init__(self, rules: Sequence[Rule]):
        self._rules = rules

    def process(self, element: tuple[str, dict[str, Any]], common: int) -> Iterator[Any]:
        _, found = element
        known = {name: value for name in found if name != "pair" for value in itertools.islice(found[name], 1)}
        facts = Facts(**known, common_count=common)
        for pair in found["pair"]:  # an id of an embedding may belong to no pair
            yield pair, broken_rules(pair, facts, self._rules)


def _count_of(pairs: Any, different: Any, field: str, position: int) -> Any:
    """For each id, in how many different pairs of image and text its image, or its text, stands."""
    counts = (
        different
        | f"{field} alone" >> beam.Map(lambda both: both[position])
        | f"count {field}s" >> beam.combiners.Count.PerElement()
    )
    ids = pairs | f"{field} and id" >> beam.Map(lambda pair: (getattr(pair, field), pair.id))
    return (
        {"counts": counts, "ids": ids}
        | f"join {field}s" >> beam.CoGroupByKey()
        | f"{field} facts" >> beam.FlatMap(_spread)
    )


def _rarest_token(pairs: Any, allowed: int) -> tuple[Any, Any]:
    """For each id, how often the rarest token of its text occurs; and how often common ones do, as a side input."""
    counts = (
        pairs
        | "tokens" >> beam.FlatMap(lambda pair: tokens(pair.text))
        | "count tokens" >> beam.combiners.Count.PerElement()
    )
    by_count = (
        counts
        | "counts of tokens" >> beam.Map(lambda both: both[1])
        | "count counts" >> beam.combiners.Count.PerElement()
        | "all counts" >> beam.combiners.ToList()
        | "common count" >> beam.Map(common_count, allowed)
    )
    ids = pairs | "token and id" >> beam.FlatMap(lambda pair: [(token, pair.id) for token in set(tokens(pair.text))])
    rarest = (
        {"counts": counts, "ids": ids}
        | "join tokens" >> beam.CoGroupByKey()
        | "token facts" >> beam.FlatMap(_spread)
        | "rarest token" >> beam.CombinePerKey(min)
    )
    return rarest, beam.pvalue.AsSingleton(by_count)


def _spread(element: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[tuple[str, int]]:
    _, found = element
    (count,) = found["counts"]
    for name in found["ids"]:
        yield name, count


def _write(judged: Any, folder: Path, schemas_by_name: dict[str, Any]) -> None:
    kept = judged | "kept" >> beam.Filter(lambda one: one[1] == []) | "kept rows" >> beam.Map(_kept_row)
    dropped = judged | "dropped" >> beam.Filter(lambda one: one[1] != []) | "dropped rows" >> beam.Map(_dropped_row)
    for (name, schema), rows in zip(schemas_by_name.items(), (kept, dropped), strict=True):
        (folder / name).mkdir()
        files = str(folder / name / "part")
        rows | f"write {name}" >> beam.io.WriteToParquet(files, schema, file_name_suffix=".parquet")
    _ = (
        judged
        | "events" >> beam.FlatMap(lambda one: events(one[1]))
        | "count events" >> beam.combiners.Count.PerElement()
        | "all events" >> beam.combiners.ToDict()
        | "as JSON" >> beam.Map(json.dumps)
        | "write counts" >> beam.io.WriteToText(str(folder / _COUNTS), num_shards=1, shard_name_template="")
    )


def _kept_row(judged: tuple[Pair, list[str]]) -> dict[str, Any]:
    return kept_row(judged[0])


def _dropped_row(judged: tuple[Pair | Refused, list[str] | None]) -> dict[str, Any]:
    entry, broken = judged
    if isinstance(entry, Refused) or not broken:
        return dropped_row(entry.id, f"unreadable: {getattr(entry, 'reason', '')}")
    return dropped_row(entry.id, f"not {broken[0]}")
