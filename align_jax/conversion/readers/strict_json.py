"""JSON objects of weight files, in which a name given twice is an error: only one of the two would be seen."""

import json
from collections import Counter
from typing import Any

from align_jax.conversion.readers.tensors import listing


def parse_object(text: bytes) -> dict[str, Any]:
    """Reads one JSON object.

    Raises:
        ValueError: if the bytes are anything else; the message says what.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is a JSON {type(value).__name__}, not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"it names twice: {listing(name for name in values if counts[name] > 1)}")
    return values
