"""Weights in several files, with an index that says which tensor lies in which.

{"metadata": {…}, "weight_map": {"text_model.pooler.dense.bias": "model-00002-of-00002.safetensors", …}}
"""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePath, PureWindowsPath

import numpy as np

from align_jax.conversion.readers.strict_json import parse_object
from align_jax.conversion.readers.tensors import SourceError, TensorInfo, Tensors, listing
from align_jax.conversion.readers.weight_file import open_weight_file

_LONGEST_INDEX_BYTES = 100_000_000


class ShardedTensors(Tensors):
    """The tensors of all shards.

    Args:
        index: the index file; the shards lie beside it.
        open_shard: reads one shard.

    Attributes:
        files: the shards, sorted by name.

    Raises:
        SourceError: if shards are missing or damaged, or hold other tensors than the index says.
    """

    def __init__(self, index: Path, open_shard: Callable[[Path], Tensors]) -> None:
        self._shard_names = read_index(index)
        names = sorted(set(self._shard_names.values()))
        missing = [name for name in names if not (index.parent / name).is_file()]
        if missing:
            raise SourceError(f"{index.parent} lacks {len(missing)} of {len(names)} shards: {listing(missing)}")
        self.files = tuple(index.parent / name for name in names)
        self._shards = {path.name: open_shard(path) for path in self.files}
        self._check_places(index)

    def info(self, name: str) -> TensorInfo:
        return self._shards[self._shard_names[name]].info(name)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shards[self._shard_names[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_names)

    def __len__(self) -> int:
        return len(self._shard_names)

    def _check_places(self, index: Path) -> None:
        absent = [f"{name} ({shard})" for name, shard in self._shard_names.items() if name not in self._shards[shard]]
        elsewhere = [
            f"{name} ({shard})"
            for shard, tensors in self._shards.items()
            for name in tensors
            if self._shard_names.get(name) != shard
        ]
        problems = []
        if absent:
            problems.append(f"shards lack tensors that it names: {listing(absent)}")
        if elsewhere:
            problems.append(f"shards hold tensors that it places elsewhere or nowhere: {listing(elsewhere)}")
        if problems:
            raise SourceError(f"{index} and its shards do not belong together: {'; '.join(problems)}")


def read_index(index: Path) -> dict[str, str]:
    """The name of the file that each tensor lies in.

    Raises:
        SourceError: if the index is damaged, or names files outside its folder.
    """
    with open_weight_file(index) as file:
        if file.size_bytes > _LONGEST_INDEX_BYTES:
            raise SourceError(f"{index} has {file.size_bytes} bytes, too many for an index")
        text = file.read(0, file.size_bytes).tobytes()
    try:
        weight_map = parse_object(text).get("weight_map")
    except ValueError as error:
        raise SourceError(f"{index} is damaged: it is not the JSON expected ({error}); fetch it again") from None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise SourceError(f"{index} has no weight_map from tensors to files; fetch it again")
    outside = sorted({name for name in weight_map.values() if not _is_plain(name)})
    if outside:
        raise SourceError(f"{index} is refused: it names files outside its folder: {listing(outside)}")
    return weight_map


def _is_plain(name: str) -> bool:
    """Whether a name stays within the folder, on every system."""
    return name not in ("", "..") and name == PurePath(name).name == PureWindowsPath(name).name and name.isprintable()
