"""Reads `.safetensors` files: a JSON header, then the tensors' bytes one after the other.

    8 bytes        length of the header, little-endian
    header         {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …, "__metadata__": {…}}
    the rest       little-endian data, which the offsets must cover without gap or overlap

The format's own library maps files into memory, and converting a model would then keep the whole file resident; it
checks the same things in its own words. Format: https://github.com/huggingface/safetensors#format
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align_jax.conversion.readers.strict_json import parse_object
from align_jax.conversion.readers.tensors import SourceError, TensorInfo, Tensors, listing
from align_jax.conversion.readers.weight_file import BFLOAT16, WeightFile, as_array, open_weight_file

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": BFLOAT16,
    "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64), "U32": np.dtype(np.uint32), "U16": np.dtype(np.uint16), "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}  # fmt: skip

_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 100_000_000  # the limit of the format's own library
_MOST_AXES = 32


class _Entry(NamedTuple):
    info: TensorInfo
    begin: int  # bytes from the end of the header
    end: int


class SafetensorsFile(Tensors):
    """The tensors of one file.

    Raises:
        SourceError: if the file is truncated or damaged, or holds types that NumPy has not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_weight_file(path) as file:
            header, self._data_start = _read_header(file)
            self._entries = _read_entries(header, path)
            _check_coverage(self._entries, file.size_bytes - self._data_start, path)

    def info(self, name: str) -> TensorInfo:
        return self._entries[name].info

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        with open_weight_file(self._path) as file:
            buffer = file.read(self._data_start + entry.begin, entry.end - entry.begin)
        return as_array(buffer, entry.info.dtype).reshape(entry.info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _read_header(file: WeightFile) -> tuple[dict[str, Any], int]:
    """The header's JSON object, and where the data start."""
    if file.size_bytes < _LENGTH_BYTES:
        raise SourceError(f"{file.path} is truncated: it has {file.size_bytes} bytes; fetch it again")
    length = int.from_bytes(file.read(0, _LENGTH_BYTES).tobytes(), "little")
    if length > min(_LONGEST_HEADER_BYTES, file.size_bytes - _LENGTH_BYTES):
        raise SourceError(
            f"{file.path} is truncated, damaged or no safetensors file: its header would have {length} bytes, but the "
            f"file has {file.size_bytes}, and {_LONGEST_HEADER_BYTES} are allowed; fetch it again"
        )
    text = file.read(_LENGTH_BYTES, length).tobytes()
    try:
        return parse_object(text), _LENGTH_BYTES + length
    except ValueError as error:
        raise SourceError(
            f"{file.path} is damaged or no safetensors file: its header is not the JSON expected ({error}); fetch it "
            "again"
        ) from None


def _read_entries(header: dict[str, Any], path: Path) -> dict[str, _Entry]:
    entries, wrong, unknown = {}, [], []
    for name, value in header.items():
        if name == "__metadata__":
            continue
        try:
            entries[name] = _read_entry(value)
        except KeyError:
            unknown.append(f"{name} ({value['dtype']})")
        except ValueError:
            wrong.append(name)
    if wrong:
        raise SourceError(
            f"{path} is damaged: its header does not give a type, a shape and a range of that size for "
            f"{listing(wrong)}; fetch it again"
        )
    if unknown:
        raise SourceError(
            f"{path} holds tensors of types that cannot be read: {listing(unknown)}; save them as one of "
            f"{', '.join(_DTYPES)}"
        )
    return entries


def _read_entry(value: Any) -> _Entry:
    """Checks one tensor's description by itself.

    Raises:
        ValueError: it is not well-formed.
        KeyError: its type is not one of ours.
    """
    match value:
        case {"dtype": str(dtype_name), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            counts = [*shape, begin, end]
            if len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in counts):
                raise ValueError
            info = TensorInfo(tuple(shape), _DTYPES[dtype_name])
            # Every axis counts, so that an array without elements cannot have axes longer than memory is addressed.
            if end - begin != info.size_bytes or math.prod(max(length, 1) for length in shape) >= 2**60:
                raise ValueError
            return _Entry(info, begin, end)
        case _:
            raise ValueError


def _check_coverage(entries: dict[str, _Entry], size_bytes: int, path: Path) -> None:
    """The tensors must follow each other from the start of the data to the end of the file."""
    position = 0
    apart = []
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            apart.append(f"{name} (from byte {entry.begin}, not {position})")
        position = max(position, entry.end)
    if position > size_bytes:
        raise SourceError(
            f"{path} is truncated: its tensors take {position} bytes, but only {size_bytes} follow the header; fetch "
            "it again"
        )
    if apart:
        raise SourceError(f"{path} is damaged: tensors overlap or leave gaps: {listing(apart)}; fetch it again")
    if position < size_bytes:
        raise SourceError(f"{path} is damaged: {size_bytes - position} bytes follow its last tensor; fetch it again")
