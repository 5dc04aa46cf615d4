"""Opens the weights of a model: a folder, a file, or a model on the Hub, in any of the formats that are read.

    format        one file                     in shards
    safetensors   model.safetensors            model.safetensors.index.json
    pytorch       pytorch_model.bin, .pt .pth  pytorch_model.bin.index.json
    tensorflow                                 NAME.index and NAME.data-…

Where a folder holds several, the first in this list is read. No tensor is read before it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from align_jax.conversion import hub
from align_jax.conversion.readers import SourceError, TensorInfo, Tensors
from align_jax.conversion.readers.pytorch import PytorchFile
from align_jax.conversion.readers.safetensors import SafetensorsFile
from align_jax.conversion.readers.sharded import ShardedTensors, read_index
from align_jax.conversion.readers.tensorflow import TensorflowCheckpoint
from align_jax.conversion.readers.tensors import listing
from align_jax.conversion.readers.weight_file import open_weight_file

__all__ = ["Source", "SourceError", "TensorInfo", "Tensors", "local_path", "open_source"]

Format = Literal["safetensors", "pytorch", "tensorflow"]

_READERS: dict[str, tuple[Format, Callable[[Path], Tensors]]] = {
    ".safetensors": ("safetensors", SafetensorsFile),
    ".bin": ("pytorch", PytorchFile),
    ".pt": ("pytorch", PytorchFile),
    ".pth": ("pytorch", PytorchFile),
}

_SHARD_INDEX = ".index.json"
_TENSORFLOW_INDEX = ".index"


@dataclass(frozen=True)
class Source:
    """Weights that were found.

    Attributes:
        folder: where they lie, with the configuration and the tokenizer's files if there are any.
        files: the files that hold them.
        format: what wrote them.
        tensors: names, shapes and types; each access reads one tensor from disk.
    """

    folder: Path
    files: tuple[Path, ...]
    format: Format
    tensors: Tensors


def open_source(source: str | Path, *, revision: str | None = None) -> Source:
    """Opens weights and checks their names, shapes, types and places in the files.

    Args:
        source: a folder, one of the files in the table above, or "owner/name" on the Hub. What is there on disk wins.
        revision: of a model on the Hub; nothing to what is on disk.

    Raises:
        SourceError: if nothing is there, or it is damaged, incomplete, or holds more than weights.
    """
    path = local_path(source, revision=revision)
    try:
        opened = _open_file(_find_weights(path) if path.is_dir() else path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
    if not opened.tensors:
        raise SourceError(f"{path} holds no tensors")
    unprintable = [name for name in opened.tensors if not name.isprintable()]
    if unprintable:
        raise SourceError(f"{path} is damaged: names of tensors are no text: {listing(unprintable)}")
    return opened


def local_path(source: str | Path, *, revision: str | None = None) -> Path:
    """The file or folder that a source names; a model on the Hub is downloaded into its cache.

    Raises:
        SourceError: if there is none.
    """
    text = str(source)
    path = Path(source)
    try:
        if text and path.exists():
            return path
        if text and path.with_name(path.name + _TENSORFLOW_INDEX).exists():  # TensorFlow's own way to name one
            return path.with_name(path.name + _TENSORFLOW_INDEX)
    except (OSError, ValueError):  # a name that no file can have
        pass
    if hub.is_model_id(text) and path.suffix not in {*_READERS, ".json", _TENSORFLOW_INDEX}:
        return hub.download(text, revision)
    raise SourceError(
        f"{listing([repr(text)])} does not exist; give a folder, a weight file, or a model on the Hub as "
        "kakaobrain/align-base"
    )


def _find_weights(folder: Path) -> Path:
    """The file to open in a folder."""
    names = sorted(path.name for path in folder.iterdir())
    for pattern in hub.WEIGHT_FILES:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if len(found) > 1:
            raise SourceError(f"{folder} holds several checkpoints: {listing(found)}; name one of these files")
        if found:
            return folder / found[0]
    known = ", ".join(pattern for pattern in hub.WEIGHT_FILES if "/" not in pattern)
    raise SourceError(f"{folder} holds no weights; it needs one of {known}")


def _open_file(path: Path) -> Source:
    if path.name.endswith(_SHARD_INDEX):
        return _open_shards(path)
    if path.suffix == _TENSORFLOW_INDEX:
        return _open_tensorflow(path)
    if path.suffix not in _READERS:
        raise SourceError(
            f"{path} is not named as weights are; it must end in one of "
            f"{', '.join([*_READERS, _SHARD_INDEX, _TENSORFLOW_INDEX])}"
        )
    format_, reader = _READERS[path.suffix]
    return Source(path.parent, (path,), format_, reader(path))


def _open_shards(index: Path) -> Source:
    suffixes = {Path(name).suffix for name in read_index(index).values()}
    if len(suffixes) != 1 or not suffixes <= _READERS.keys():
        raise SourceError(f"{index} must name shards of one kind, but they end in: {listing(sorted(suffixes))}")
    format_, reader = _READERS[suffixes.pop()]
    tensors = ShardedTensors(index, reader)
    return Source(index.parent, tensors.files, format_, tensors)


def _open_tensorflow(index: Path) -> Source:
    with open_weight_file(index):
        data = sorted(path for path in index.parent.iterdir() if path.name.startswith(f"{index.stem}.data-"))
    return Source(index.parent, (index, *data), "tensorflow", TensorflowCheckpoint(index))
