"""What every reader of weight files gives: tensors by name, each read from disk when it is asked for."""

import abc
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

_LISTED_NAMES = 20
_LISTED_CHARACTERS = 120  # names come from files that may be damaged


class SourceError(ValueError):
    """Weights cannot be read; the message is one line that says which file, what is wrong with it, and what to do."""


class TensorInfo(NamedTuple):
    """What is known of a tensor before it is read.

    Attributes:
        shape: lengths of its axes; `()` for a scalar.
        dtype: its NumPy type; bfloat16 is `ml_dtypes.bfloat16`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size_bytes(self) -> int:
        """Memory that the tensor takes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of one model by name.

    Names, shapes and types were checked when the file was opened. Indexing reads that tensor from disk into an array
    of its own and keeps nothing, so a whole model passes through the memory of its largest tensor.
    """

    @abc.abstractmethod
    def info(self, name: str) -> TensorInfo:
        """Shape and type of a tensor, without reading it.

        Raises:
            KeyError: there is no such tensor.
        """

    def __contains__(self, name: object) -> bool:
        try:  # Mapping's own way would read the tensor
            return isinstance(name, str) and self.info(name) is not None
        except KeyError:
            return False


def listing(names: Iterable[object]) -> str:
    """Names for a message: the first of them, shortened and without line breaks, and how many more there are."""
    texts = [name if isinstance(name, str) else repr(name) for name in names]
    shown = [_printable(text) for text in texts[:_LISTED_NAMES]]
    more = len(texts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _printable(text: str) -> str:
    text = text if len(text) <= _LISTED_CHARACTERS else text[: _LISTED_CHARACTERS - 1] + "…"
    return text if text.isprintable() else ascii(text)
