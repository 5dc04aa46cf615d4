"""Reads TensorFlow's checkpoints (NAME.index beside NAME.data-00000-of-00001) with TensorFlow's own reader.

A checkpoint of TensorFlow 2 names a tensor by the way that leads to it from the saved object, and stores the graph of
these objects too, which knows the name that the variable had:

    key   image_encoder/layer_with_weights-0/layer_with_weights-1/gamma/.ATTRIBUTES/VARIABLE_VALUE
    name  stem_bn/gamma

An older one names tensors by their variables. Of both kinds, what is no weight is left out, with a reason.
"""

import importlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align_jax.conversion.readers.tensors import SourceError, TensorInfo, Tensors, listing

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"

_OPTIMIZER = "optimizer state, which the model does not have"
_COUNTER = "counts steps or checkpoints"
_METRIC = "a running average that training reported"
_TEXT = "text about an object, not numbers"

_COUNTERS = frozenset({"save_counter", "global_step", "step", "epoch"})


class TensorflowCheckpoint(Tensors):
    """The variables of a checkpoint by name.

    Args:
        index: the file NAME.index; the data lie beside it.

    Attributes:
        paths: the way that leads to each variable from the saved object; in an old checkpoint, its name.
        ignored: why the other tensors of the checkpoint are left out, by key.

    Raises:
        SourceError: if TensorFlow is not installed, files are missing or damaged, or two variables share a name.
    """

    def __init__(self, index: Path) -> None:
        _check_parts(index)
        tensorflow = _import_tensorflow(index)
        self._index = index
        # TensorFlow's errors have no base that says what went wrong, hence `Exception` here and below.
        try:
            self._reader = tensorflow.train.load_checkpoint(str(index).removesuffix(".index"))
            shapes: dict[str, list[int]] = self._reader.get_variable_to_shape_map()
            types: dict[str, Any] = self._reader.get_variable_to_dtype_map()
            graph = _read_graph(self._reader) if OBJECT_GRAPH in shapes else None
        except Exception as error:
            raise SourceError(f"{index} is damaged: {_reason(error)}; fetch it again") from None
        texts = {key for key, dtype in types.items() if dtype == tensorflow.string}
        keys = sorted(shapes.keys() - texts)
        self._keys, self.ignored = names_from_graph(graph, keys) if graph is not None else names_from_keys(keys)
        self.ignored |= dict.fromkeys(sorted(texts), _TEXT)
        self.paths = {name: key.removesuffix(_VALUE) for name, key in self._keys.items()}
        self._infos = {
            name: TensorInfo(tuple(shapes[key]), np.dtype(types[key].as_numpy_dtype))
            for name, key in self._keys.items()
        }

    def info(self, name: str) -> TensorInfo:
        return self._infos[name]

    def __getitem__(self, name: str) -> np.ndarray:
        key = self._keys[name]
        try:
            return np.asarray(self._reader.get_tensor(key))
        except Exception as error:
            raise SourceError(f"{self._index} is damaged at {name}: {_reason(error)}; fetch it again") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class Names(NamedTuple):
    """What the keys of a checkpoint stand for.

    Attributes:
        keys: of the variables, by name.
        ignored: why the others are left out, by key.
    """

    keys: dict[str, str]
    ignored: dict[str, str]


def names_from_graph(graph: Any, keys: Iterable[str]) -> Names:
    """Names variables by the graph of objects.

    A key that the graph does not know stays its own name, so that whoever converts the checkpoint asks what it is.

    Args:
        graph: a `TrackableObjectGraph` (tensorflow/core/protobuf/trackable_object_graph.proto).
        keys: of all tensors with numbers.

    Raises:
        SourceError: if two variables share a name.
    """
    attributes = {
        attribute.checkpoint_key: (node, attribute.full_name)
        for node, found in enumerate(graph.nodes)
        for attribute in found.attributes
    }
    slots = {slot.slot_variable_node_id for node in graph.nodes for slot in node.slot_variables}
    named: dict[str, list[str]] = {}
    ignored: dict[str, str] = {}
    for key in keys:
        node, full_name = attributes.get(key, (None, ""))
        path = key.removesuffix(_VALUE)
        reason = _OPTIMIZER if node in slots else _reason_to_ignore(path, full_name)
        if reason is not None:
            ignored[key] = reason
        else:
            named.setdefault(full_name or path, []).append(key)
    shared = [f"{name} ({listing(found)})" for name, found in named.items() if len(found) > 1]
    if shared:
        raise SourceError(f"the checkpoint has several variables of one name: {listing(shared)}")
    return Names({name: found[0] for name, found in named.items()}, ignored)


def names_from_keys(keys: Iterable[str]) -> Names:
    """Names variables of a checkpoint without a graph, whose keys are their names.

    An optimizer's variables have the name of a weight within their own: `stem_conv/kernel/LAMB`,
    `training/LAMB/stem_conv/kernel/m`.
    """
    keys = list(keys)
    known = set(keys)
    variables, ignored = {}, {}
    for key in keys:
        parts = key.split("/")
        of_another = any("/".join(parts[first:-1]) in known for first in range(len(parts) - 1))
        reason = _OPTIMIZER if of_another else _reason_to_ignore(key, key)
        if reason is not None:
            ignored[key] = reason
        else:
            variables[key] = key
    return Names(variables, ignored)


def _reason_to_ignore(path: str, name: str) -> str | None:
    parts = path.split("/")
    if not {"optimizer", "_optimizer", ".OPTIMIZER_SLOT"}.isdisjoint(parts):
        return _OPTIMIZER
    if parts[-1] in _COUNTERS:
        return _COUNTER
    if "keras_api" in parts or name in ("total", "count"):
        return _METRIC
    return None


def _import_tensorflow(index: Path) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # it greets on the error stream
    try:
        return importlib.import_module("tensorflow")
    except ImportError:
        raise SourceError(
            f"{index} is a checkpoint of TensorFlow, which is not installed; run pip install 'align_jax[tensorflow]'"
        ) from None


def _check_parts(index: Path) -> None:
    """Says which parts of the data are missing: TensorFlow would tell only when a tensor of theirs is read."""
    stem = index.name.removesuffix(".index")
    pattern = re.compile(re.escape(stem) + r"\.data-\d{5}-of-(\d{5})")
    found = {path.name: int(match[1]) for path in index.parent.iterdir() if (match := pattern.fullmatch(path.name))}
    counts = sorted(set(found.values())) or [1]  # several where an earlier save left its parts
    missing = [
        [name for part in range(count) if (name := f"{stem}.data-{part:05}-of-{count:05}") not in found]
        for count in counts
    ]
    if all(missing):
        raise SourceError(f"{index} lacks its data: {listing(missing[0])}; fetch all of it")


def _read_graph(reader: Any) -> Any:
    graph_format = importlib.import_module("tensorflow.core.protobuf.trackable_object_graph_pb2")
    return graph_format.TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH))


def _reason(error: Exception) -> str:
    """What TensorFlow says, on one line."""
    return " ".join(str(getattr(error, "message", error)).split()) or type(error).__name__
