"""The run that fills an embedding folder, part by part, and goes on where another one was killed.

A part is a function of its slice of the input alone: batches never straddle two parts, and a part appears whole or not
at all. So whatever happens, and however many processes work on it, every folder made from the same ends the same.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from align_jax.data.collections import Collection, CollectionError, Item, Refused
from align_jax.files import naming_full_disk, replace_file
from align_jax.inference.embedder import Embedder
from align_jax.inference.embedding.folder import METADATA_FILE, EmbeddingFolderError, read_metadata
from align_jax.inference.embedding.identity import Identity, described, require_same
from align_jax.inference.embedding.part import FULL_DISK_ADVICE, Part, PartError, part_name, read_part, write_part
from align_jax.inference.embedding.summary import Summary, summarize

SHARD_SIZE = 16_384
"""Inputs of a part: 40 MB of embeddings of the released model."""

Advance = Callable[[int], None]


class EmbeddingRun:
    """One process's part of filling a folder.

    Args:
        embedder: with a mesh of this process's own devices.
        collection: of images or texts.
        output: the folder.
        content: "images" or "texts", what the collection holds.
        source: the input as its user named it.
        model_source: the model as its user named it.
        shard_size: inputs of a part.

    Raises:
        CollectionError: if the collection is empty.
        ValueError: if `shard_size` is not positive.
    """

    def __init__(
        self,
        embedder: Embedder,
        collection: Collection,
        output: Path,
        *,
        content: str,
        source: list[str],
        model_source: str,
        shard_size: int = SHARD_SIZE,
    ):
        if shard_size < 1:
            raise ValueError(f"shard size {shard_size} is not positive; use 1 or more")
        if not collection.size:
            raise CollectionError(f"{', '.join(source)} holds no {content}; give another input")
        self.identity = Identity.of(embedder, collection, content, shard_size)
        self._embedder, self._collection, self.output = embedder, collection, output
        self._source, self._model_source = source, model_source
        self._resources = contextlib.ExitStack()

    def claim(self, process: int = 0, processes: int = 1) -> list[int]:
        """Makes the folder ready, or checks that it can be continued, and locks this process's share of it.

        Args:
            process: which one this is, from 0. Process 0 has to be through before the others begin.
            processes: how many work on the folder; each takes parts that follow one another.

        Returns:
            The parts that are to be made.

        Raises:
            EmbeddingFolderError: if the folder holds something else, or another command is filling it.
        """
        if process == 0:
            self._make_folder()
        self._lock(process)
        if process == 0:
            self._begin()
        made = read_metadata(self.output)
        require_same(made, self.identity, self._collection, self.output)
        share = self.share(process, processes)
        for index in share:
            for left in self.output.glob(f".{part_name(index)}.*.tmp"):
                left.unlink(missing_ok=True)
        missing = [index for index in share if not self._is_made(index)]
        if missing and made["finished"]:  # somebody took parts away
            self._write_metadata(made | {"finished": False, "counts": None})
        return missing

    def share(self, process: int, processes: int) -> range:
        """The parts that one of several processes makes."""
        parts = self.identity.parts
        return range(parts * process // processes, parts * (process + 1) // processes)

    def slice(self, index: int) -> range:
        """The positions of a part's inputs."""
        size = self.identity.shard_size
        return range(index * size, min((index + 1) * size, self.identity.entries))

    def embed(self, parts: list[int], advance: Advance = lambda amount: None) -> None:
        """Makes parts.

        Args:
            parts: which, in order.
            advance: is told of inputs that are done.

        Raises:
            DiskFullError: if there is no room; the parts before are whole.
        """
        entries: Iterator[Item | Refused] = iter(())
        position = -1
        written: Future[None] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="parts") as writer:
            for index in parts:
                positions = self.slice(index)
                if position != positions.start:
                    entries = self._collection.read(positions.start)
                write = self._embedded(positions, islice(entries, len(positions)), advance)
                position = positions.stop
                if written is not None:
                    written.result()
                written = writer.submit(write, self.output / part_name(index))
            if written is not None:
                written.result()

    def finish(self) -> Summary:
        """Writes what the parts hold together, and says that the folder is finished; by process 0, after all others.

        Raises:
            PartError: if a part is missing or damaged.
        """
        paths = [self.output / part_name(index) for index in range(self.identity.parts)]
        with naming_full_disk(self.output, FULL_DISK_ADVICE):
            summary = summarize(self.output, paths)
        metadata = read_metadata(self.output) | {"finished": True, "counts": summary.counts()}
        self._write_metadata(metadata)
        for left in self.output.glob(".lock-*"):  # of processes that were killed, when there were more of them
            if left.name != ".lock-0":
                left.unlink(missing_ok=True)
        return summary

    def close(self) -> None:
        """Unlocks the folder."""
        self._resources.close()

    def _make_folder(self) -> None:
        """Makes the folder, or checks that nothing else lies in it; what is there stays as it is."""
        if (self.output / METADATA_FILE).exists():
            return
        foreign = [path.name for path in self.output.iterdir() if not _is_ours(path)] if self.output.is_dir() else []
        if foreign:
            raise EmbeddingFolderError(
                f"{self.output} holds other things, such as {foreign[0]}; give an empty folder, or a new one"
            )
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise EmbeddingFolderError(f"{self.output} cannot be a folder: {error.strerror}; name another") from error

    def _begin(self) -> None:
        """Says what the folder is made from, where nothing says so yet; under the lock."""
        for left in self.output.glob(f".{METADATA_FILE}.*.tmp"):
            left.unlink(missing_ok=True)
        if (self.output / METADATA_FILE).exists():
            return
        metadata = described(
            self.identity, self._collection, source=self._source, model_source=self._model_source,
            embedding_size=self._embedder.embedding_size,
        )  # fmt: skip
        self._write_metadata(metadata)

    def _write_metadata(self, metadata: dict[str, Any]) -> None:
        with naming_full_disk(self.output, FULL_DISK_ADVICE):
            replace_file(self.output / METADATA_FILE, (json.dumps(metadata, indent=1) + "\n").encode())

    def _lock(self, process: int) -> None:
        """Holds a lock that ends with this process, however it ends."""
        path = self.output / f".lock-{process}"
        file = self._resources.enter_context(path.open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EmbeddingFolderError(f"another command is filling {self.output}; wait for its end") from error
        except OSError:  # a file system without locks
            return
        self._resources.callback(path.unlink, missing_ok=True)

    def _is_made(self, index: int) -> bool:
        try:
            part = read_part(self.output / part_name(index))
        except (FileNotFoundError, PartError):
            return False
        positions = self.slice(index)
        return (part.run, part.start, part.stop) == (self.identity.digest, positions.start, positions.stop)

    def _embedded(
        self, positions: range, entries: Iterator[Item | Refused], advance: Advance
    ) -> Callable[[Path], None]:
        """Embeds a slice, and gives what writes its part."""
        items: dict[int, Item] = {}
        refused: dict[int, Refused] = {}

        def usable() -> Iterator[tuple[int, bytes]]:
            """Taken by a thread of the embedder."""
            for position, entry in zip(positions, entries, strict=True):
                if isinstance(entry, Refused):
                    refused[position] = entry
                else:
                    items[position] = entry._replace(content=b"")  # the embedder lets go of it when it is through
                    yield position, entry.content

        rows: list[int] = []
        embeddings = [np.zeros((0, self._embedder.embedding_size), np.float32)]
        done = 0
        for keys, vectors, undecodable in self._stream(usable()):
            rows += keys
            embeddings.append(vectors)
            for position, reason in undecodable:
                refused[position] = Refused(items[position].id, reason)
            done += len(keys) + len(undecodable)
            advance(len(keys) + len(undecodable))
        advance(len(positions) - done)
        part = Part(
            self.identity.digest, positions.start, positions.stop, len(rows),
            tuple(tuple(refused[position]) for position in sorted(refused)),
        )  # fmt: skip
        types = self._collection.column_types
        columns = {name: [items[row].columns.get(name) for row in rows] for name in types}
        ids = [items[row].id for row in rows]
        return lambda path: write_part(path, part, ids, np.concatenate(embeddings), columns, types)

    def _stream(
        self, items: Iterator[tuple[int, bytes]]
    ) -> Iterator[tuple[list[int], np.ndarray, list[tuple[int, str]]]]:
        if self.identity.content == "images":
            with closing(self._embedder.stream_images(items)) as batches:
                yield from batches
            return
        texts = ((position, content.decode()) for position, content in items)
        with closing(self._embedder.stream_texts(texts)) as batches:
            for keys, vectors in batches:
                yield keys, vectors, []


def _is_ours(path: Path) -> bool:
    """Whether a file may lie in a folder that nothing has been written to yet: what a killed start leaves."""
    return path.name.startswith((f".{METADATA_FILE}.", ".lock-"))
