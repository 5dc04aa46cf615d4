"""What the pickle of a torch state dict is made of, as plain descriptions: no torch, and no data yet.

A tensor is a view of a storage: offset, shape and strides, counted in elements. Its pickle calls one of a few functions
of `torch._utils` with these, and names the storage by a key; `KNOWN` has what stands in for those functions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from align_jax.conversion.readers.inert_pickle import StandIn
from align_jax.conversion.readers.tensors import TensorInfo, listing
from align_jax.conversion.readers.weight_file import BFLOAT16

_DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64), "float32": np.dtype(np.float32), "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16, "int64": np.dtype(np.int64), "int32": np.dtype(np.int32), "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8), "uint64": np.dtype(np.uint64), "uint32": np.dtype(np.uint32),
    "uint16": np.dtype(np.uint16), "uint8": np.dtype(np.uint8), "bool": np.dtype(np.bool_),
}  # fmt: skip

_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8",
}  # fmt: skip

_LARGEST_COUNT = 2**60  # larger numbers are damage, and cannot be multiplied and printed without care
_MOST_AXES = 32


class StorageType(NamedTuple):
    """A class of storages: `torch.FloatStorage`, or the untyped one, whose elements are bytes."""

    dtype: np.dtype


class Storage(NamedTuple):
    """A storage that lies outside the pickle, or a part of one.

    Attributes:
        key: names its bytes in the file.
        dtype: the type of its elements.
        count: elements that the whole storage must have.
        first: where the part starts, in elements.
    """

    key: str
    dtype: np.dtype
    count: int
    first: int = 0


class View(NamedTuple):
    """A tensor: elements of a storage, from `offset` on, with `strides` between neighbours along each axis."""

    storage: Storage
    info: TensorInfo
    offset: int
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements from the first to the last that it covers, both included."""
        if 0 in self.info.shape:
            return 0
        return 1 + sum((length - 1) * stride for length, stride in zip(self.info.shape, self.strides, strict=True))


def storage(identifier: Any) -> Storage:
    """The storage that a persistent identifier names.

    Raises:
        ValueError: if it names something else.
    """
    match identifier:
        case ("storage", StorageType(dtype), str(key), str(), int(count)) if _are_counts(count):
            return Storage(key, dtype, count)
        case ("storage", StorageType(dtype), str(key), str(), int(count), None) if _are_counts(count):
            return Storage(key, dtype, count)
        # Releases before 0.4 had storages that were parts of others.
        case ("storage", StorageType(dtype), str(key), str(), int(count), (str(), int(first), int(part))) if (
            _are_counts(count, first, part) and first + part <= count
        ):
            return Storage(key, dtype, count, first)
    raise ValueError("it refers to something outside that is no storage")


def _tensor(arguments: tuple[Any, ...]) -> View:
    """`_rebuild_tensor`, and `_rebuild_tensor_v2`, which adds requires_grad, hooks and metadata."""
    match arguments:
        case (Storage() as of, offset, shape, strides) | (Storage() as of, offset, shape, strides, _, _):
            return _view(of, of.dtype, offset, shape, strides)
        case (Storage() as of, offset, shape, strides, _, _, None | {} as metadata) if not metadata:
            return _view(of, of.dtype, offset, shape, strides)
    raise ValueError("it holds a tensor that is not described as tensors are")


def _tensor_of_bytes(arguments: tuple[Any, ...]) -> View:
    """`_rebuild_tensor_v3`, which has an untyped storage, and the type after the hooks."""
    match arguments:
        case (Storage() as of, offset, shape, strides, _, _, np.dtype() as dtype) if of.dtype == np.uint8:
            return _view(of, dtype, offset, shape, strides)
    raise ValueError("it holds a tensor that is not described as tensors are")


def _view(of: Storage, dtype: np.dtype, offset: Any, shape: Any, strides: Any) -> View:
    if not (
        isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= _MOST_AXES
    ) or not _are_counts(offset, *shape, *strides):
        raise ValueError("it holds a tensor whose offset, shape and strides make no sense")
    return View(of, TensorInfo(shape, dtype), of.first + offset, strides)


def _first(kind: type) -> Callable[[tuple[Any, ...]], Any]:
    """Parameters are pickled as a call around a tensor, and `torch.Size` around a tuple."""

    def first(arguments: tuple[Any, ...]) -> Any:
        if not arguments or not isinstance(arguments[0], kind):
            raise ValueError(f"it makes something of what is no {kind.__name__.lower()}")
        return arguments[0]

    return first


def _typed_tensor(arguments: tuple[Any, ...]) -> View:
    """`_rebuild_from_type_v2`: a function, the type of the result, the function's arguments, attributes."""
    match arguments:
        case (StandIn(function), _, tuple(inner), _) if function is not _typed_tensor:  # or it could nest without end
            result = function(inner)
            if isinstance(result, View):
                return result
    raise ValueError("it holds a tensor that is not described as tensors are")


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < _LARGEST_COUNT for value in values)


KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor": StandIn(_tensor),
    "torch._utils._rebuild_tensor_v2": StandIn(_tensor),
    "torch._utils._rebuild_tensor_v3": StandIn(_tensor_of_bytes),
    "torch._utils._rebuild_parameter": StandIn(_first(View)),
    "torch._utils._rebuild_parameter_with_state": StandIn(_first(View)),
    "torch._tensor._rebuild_from_type_v2": StandIn(_typed_tensor),
    "torch.Size": StandIn(_first(tuple)),
    "torch.device": StandIn(lambda arguments: None),
    "torch.Tensor": None,
    "torch.nn.parameter.Parameter": None,
    **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
    **{
        f"{module}.{name}Storage": StorageType(_DTYPES[dtype])
        for module in ("torch", "torch.cuda", "torch.storage")
        for name, dtype in _STORAGES.items()
    },
}


def state_dict(value: Any) -> dict[str, View]:
    """The tensors of a state dict, or of the one state dict in a checkpoint that has more beside it.

    Raises:
        ValueError: if it is neither, or it is not clear which part is meant.
    """
    if not isinstance(value, dict):
        raise ValueError("it holds no dictionary of tensors; save model.state_dict()")
    tensors = {key: entry for key, entry in value.items() if isinstance(entry, View)}
    wrapped = {key: entry for key, entry in value.items() if _is_state_dict(entry)}
    if len(tensors) == len(value):
        found = tensors
    elif len(wrapped) == 1 and (not tensors or _WRAPPERS & wrapped.keys()):
        (found,) = wrapped.values()
    elif wrapped:
        raise ValueError(
            f"it is not clear which of its tensors are meant: {listing([*tensors, *wrapped])}; save model.state_dict()"
        )
    else:
        others = [key for key in value if key not in tensors]
        raise ValueError(
            f"it holds {len(tensors)} tensors, and what are no tensors: {listing(others)}; save model.state_dict()"
        )
    if not all(isinstance(name, str) for name in found):
        raise ValueError("it holds tensors without names; save model.state_dict()")
    return found


_WRAPPERS = {"model", "model_state_dict", "state_dict"}  # what trainers call the weights beside their own records


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(entry, View) for entry in value.values())
