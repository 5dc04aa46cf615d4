"""All shards of an input: parts by many workers, then the shards of the data set, without duplicates.

Everything is written whole or not at all, so a preparation that was killed at any moment is continued by the same
call. Records stand in the order of shards and keys: neither the number of workers, nor the order in which img2dataset
downloaded them, nor its layout matters.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Bool, UInt64

from align_jax.data.audit import Audit
from align_jax.data.img2dataset.part import RECORD_OPTIONS, PartState, Settings, read_index, read_state, write_part
from align_jax.data.img2dataset.shards import Shard, Shards
from align_jax.data.stall import set_worker
from align_jax.files import replaced

Run = Callable[[Callable[..., None], Sequence[tuple[Any, ...]]], Iterable[None]]
"""Calls a function of this file with each of the arguments, in any order and anywhere, and yields after each call. A
call may be made again, also at the same time.
"""

_COPIED_RECORDS = 64
_IDENTITY_WORDS = {"key": "key", "url": "URL", "sha256": "image", "pair": "image and caption"}


@dataclass(frozen=True)
class Prepared:
    """A finished preparation.

    Attributes:
      folder: of the files; to be moved, not copied.
      files: in the order of the data set, with the number of records in each.
      audit: of all rows.
      left_out: key and reason of what was left out for a fault of its own, and name and damage of shards.
    """

    folder: Path
    files: tuple[tuple[Path, int], ...]
    audit: Audit
    left_out: tuple[tuple[str, str], ...]


@contextmanager
def processes(workers: int) -> Iterator[Run]:
    """Runs calls in so many processes of this machine; 1 is this process."""
    if workers == 1:
        yield starmap
        return
    # Threads of this process (of ArrayRecord's, say) would not survive a fork.
    spawning = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawning, initializer=set_worker, initargs=(1,)) as pool:

        def run(function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> Iterable[None]:
            futures = [pool.submit(function, *call) for call in calls]
            return (future.result() for future in as_completed(futures))

        yield run


def prepare_records(
    shards: Shards,
    settings: Settings,
    folder: Path,
    *,
    name: str,
    run: Run,
    advance: Callable[[float], None] = lambda amount: None,
) -> Prepared:
    """Writes the records of all shards.

    Args:
      shards: of the input.
      settings: of the records.
      folder: for all that is written; what an earlier call has left there is used.
      name: of the files, before their numbers.
      run: does the work that belongs to one shard.
      advance: is told of each shard that is finished: two steps of half a shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    states = {shard.name: read_state(shard, settings, folder) for shard in shards.shards}
    advance(0.5 * sum(state is not None for state in states.values()))
    open_parts = [(shard, settings, folder) for shard in shards.shards if states[shard.name] is None]
    for _ in run(_write_part, open_parts):
        advance(0.5)
    finished = [_finished(shard, settings, folder) for shard in shards.shards]
    kept, duplicates = _without_duplicates([read_index(shard, folder) for shard in shards.shards], settings)
    target = folder / f"finished-{_digest(shards, settings, kept)}"
    target.mkdir(exist_ok=True)
    full = [(shard, places) for shard, places in zip(shards.shards, kept, strict=True) if len(places)]
    files = [target / f"{name}.array_record-{number:05}-of-{len(full):05}" for number in range(len(full))]
    copies = [
        (shard, settings, folder, places, file)
        for (shard, places), file in zip(full, files, strict=True) if not file.exists()
    ]  # fmt: skip
    advance(0.5 * (len(shards.shards) - len(copies)))
    for _ in run(_copy, copies):
        advance(0.5)
    for left in target.glob(".*.tmp"):  # by a worker that was killed
        left.unlink()
    audit = sum((state.audit for state in finished), Audit())
    audit.left_out.update(duplicates)
    audit.kept -= duplicates.total()
    audit.check()
    left_out = tuple(one for state in finished for one in state.left_out)
    return Prepared(target, tuple(zip(files, (len(places) for _, places in full), strict=True)), audit, left_out)


def first_of_each(
    identities: UInt64[np.ndarray, "N I"],
) -> tuple[Bool[np.ndarray, " N"], list[int]]:
    """Which rows share no identity with an earlier row, and how many each identity leaves out that the ones before it
    did not.
    """
    kept, counts = np.ones(len(identities), np.bool_), []
    for column in identities.T:
        first = np.zeros(len(column), np.bool_)
        first[np.unique(column, return_index=True)[1]] = True
        counts.append(int((kept & ~first).sum()))
        kept &= first
    return kept, counts


def _without_duplicates(
    indexes: Sequence[UInt64[np.ndarray, "_ _"]], settings: Settings
) -> tuple[list[UInt64[np.ndarray, " _"]], Counter[str]]:
    """The places of the records of each shard that stay, and how many do not, by reason."""
    joined = np.concatenate([index[:, 1:] for index in indexes])
    stays, counts = first_of_each(joined)
    parts = np.split(stays, np.cumsum([len(index) for index in indexes])[:-1])
    kept = [index[part, 0] for index, part in zip(indexes, parts, strict=True)]
    words = _IDENTITY_WORDS if settings.captioned else _IDENTITY_WORDS | {"pair": "image"}
    reasons = [f"an earlier record has the same {words[one]}" for one in settings.identities]
    return kept, Counter({reason: count for reason, count in zip(reasons, counts, strict=True) if count})


def _copy(shard: Shard, settings: Settings, folder: Path, places: UInt64[np.ndarray, " K"], file: Path) -> None:
    """Copies records in the given order, and removes where they came from."""
    if file.exists():  # this call was made before
        return
    part = folder / f"{shard.name}.records"
    if not part.exists():  # an earlier call went further with other duplicates
        write_part(shard, settings, folder)
    reader = ArrayRecordReader(str(part))
    try:
        with replaced(file) as temporary:
            writer = ArrayRecordWriter(str(temporary), RECORD_OPTIONS)
            for start in range(0, len(places), _COPIED_RECORDS):
                for record in reader.read(places[start : start + _COPIED_RECORDS].tolist()):
                    writer.write(record)
            writer.close()
    finally:
        reader.close()
    part.unlink(missing_ok=True)


def _write_part(shard: Shard, settings: Settings, folder: Path) -> None:
    if read_state(shard, settings, folder) is None:
        write_part(shard, settings, folder)


def _finished(shard: Shard, settings: Settings, folder: Path) -> PartState:
    state = read_state(shard, settings, folder)
    if state is None:
        raise RuntimeError(f"shard {shard.name} has changed while it was read; run the same command again")
    return state


def _digest(shards: Shards, settings: Settings, kept: Sequence[UInt64[np.ndarray, " _"]]) -> str:
    digest = hashlib.sha256(json.dumps([shard.stamp() for shard in shards.shards]).encode())
    digest.update(repr(settings).encode())
    for places in kept:
        digest.update(places.tobytes())
    return digest.hexdigest()[:16]
