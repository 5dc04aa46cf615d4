"""Reads `pytorch_model.bin` and other state dicts that `torch.save` wrote, without torch, and executes nothing.

Both forms are read: the zip archive, and the stream of releases before 1.6. Each tensor is assembled from the range of
its storage that it covers. Storages of archives are checked against their checksums, which torch itself does not do.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from align_jax.conversion.readers.inert_pickle import MalformedPickleError, RefusedNamesError
from align_jax.conversion.readers.tensors import SourceError, TensorInfo, Tensors, listing
from align_jax.conversion.readers.torch_containers import Region, read_container
from align_jax.conversion.readers.torch_objects import View, state_dict
from align_jax.conversion.readers.weight_file import WeightFile, as_array, open_weight_file

_CHUNK_BYTES = 1 << 20

# Strides of zero spread a few elements over a tensor of any size; a buffer that is not large may do so.
_SPREAD_BYTES = 1 << 24


class PytorchFile(Tensors):
    """The tensors of one file.

    Raises:
        SourceError: if the file is truncated, damaged, or holds more than a state dict needs. Nothing in it is run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._intact: set[str] = set()  # storages whose checksum was found right
        with open_weight_file(path) as file:
            try:
                contents = read_container(file)
                self._views = state_dict(contents.value)
            except RefusedNamesError as error:
                raise SourceError(
                    f"{path} is refused, and nothing in it was run: a state dict of plain tensors has no use for "
                    f"{listing(error.names)}; save model.state_dict(), or safetensors"
                ) from None
            except MalformedPickleError as error:
                raise SourceError(f"{path} is damaged: its pickle cannot be read ({error}); fetch it again") from None
            except SourceError:
                raise
            except ValueError as error:
                raise SourceError(f"{path} is no state dict: {error}") from None
            self._regions, self._byte_order = contents.regions, contents.byte_order
            _check(self._views, self._regions, file)

    def info(self, name: str) -> TensorInfo:
        return self._views[name].info

    def __getitem__(self, name: str) -> np.ndarray:
        view = self._views[name]
        region, item_bytes = self._regions[view.storage.key], view.info.dtype.itemsize
        with open_weight_file(self._path) as file:
            if view.storage.key not in self._intact:
                _check_content(file, region, name)
                self._intact.add(view.storage.key)
            buffer = file.read(region.start + view.offset * item_bytes, view.span * item_bytes)
        elements = as_array(buffer, view.info.dtype, self._byte_order)
        strides_bytes = [stride * item_bytes for stride in view.strides]
        tensor = np.lib.stride_tricks.as_strided(elements, view.info.shape, strides_bytes)
        return np.array(tensor, order="C", copy=None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def _check(views: dict[str, View], regions: dict[str, Region], file: WeightFile) -> None:
    """Every tensor must lie within a storage of the size that the pickle gives it."""
    missing = {view.storage.key for view in views.values()} - regions.keys()
    if missing:
        raise SourceError(f"{file.path} lacks the data of {len(missing)} storages: {listing(sorted(missing))}")
    wrong, beyond, spread = [], [], []
    for name, view in views.items():
        region, item_bytes = regions[view.storage.key], view.info.dtype.itemsize
        if view.storage.count * view.storage.dtype.itemsize != region.size_bytes:
            wrong.append(f"{name} (storage {view.storage.key!r} has {region.size_bytes} bytes)")
        elif (view.offset + view.span) * item_bytes > region.size_bytes:
            beyond.append(name)
        elif _addressed_bytes(view.info) > max(file.size_bytes, _SPREAD_BYTES):
            spread.append(f"{name} {view.info.shape}")
    for problem, names in (
        ("storages are not of the size that the pickle gives", wrong),
        ("tensors reach beyond their storage", beyond),
        ("tensors are larger than the whole file", spread),
    ):
        if names:
            raise SourceError(f"{file.path} is damaged: {problem}: {listing(names)}; fetch it again")


def _addressed_bytes(info: TensorInfo) -> int:
    """Size with empty axes counted as one, because NumPy limits that, too."""
    return info._replace(shape=tuple(max(1, length) for length in info.shape)).size_bytes


def _check_content(file: WeightFile, region: Region, name: str) -> None:
    """Compares a storage with its checksum, a piece at a time."""
    if region.checksum is None:
        return
    checksum, end = 0, region.start + region.size_bytes
    for start in range(region.start, end, _CHUNK_BYTES):
        checksum = zlib.crc32(file.read(start, min(_CHUNK_BYTES, end - start)).data, checksum)
    if checksum != region.checksum:
        raise SourceError(f"{file.path} is damaged: the data of {name} do not match their checksum; fetch it again")
