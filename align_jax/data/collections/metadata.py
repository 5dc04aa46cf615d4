"""Values that are carried along with an image or text, from a JSON object that lies beside it."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from align_jax.data.collections.item import MAX_TEXT_BYTES, CollectionError

TEXT_COLUMN = "txt"
"""Names the text beside an image, where the JSON object has no such key."""


class MetadataError(ValueError):
    """The values of one entry cannot be read."""


def carried_values(columns: Sequence[str], metadata: bytes | None, text: bytes | None) -> dict[str, str | None]:
    """The values of an entry: strings as they are, other things as JSON, `None` where there are none.

    Args:
        columns: keys of the object.
        metadata: a JSON object.
        text: what `TEXT_COLUMN` means if the object does not have it.

    Raises:
        MetadataError: if the bytes are not a JSON object, or the text is not UTF-8.
    """
    values = {} if metadata is None else _object(metadata)
    if TEXT_COLUMN in columns and TEXT_COLUMN not in values and text is not None:
        values[TEXT_COLUMN] = text.decode("utf-8", "replace").strip()
    return {name: _as_text(values.get(name)) for name in columns}


def check_column_names(columns: Sequence[str]) -> None:
    """Checks the names of columns that are to be carried along.

    Raises:
        CollectionError: if one has a name that the output needs itself, or is named twice.
    """
    for name in columns:
        if name in ("id", "embedding"):
            raise CollectionError(f"column {name!r} cannot be carried along: the output has one of its own")
    if len(set(columns)) < len(columns):
        raise CollectionError(f"columns {', '.join(columns)} name one of them twice; name each once")


def require_columns(columns: Iterable[str], known: Iterable[str], where: str) -> None:
    """Checks that columns exist.

    Raises:
        CollectionError: if some do not; names them, and those that do.
    """
    known = list(known)
    if missing := [name for name in columns if name not in known]:
        raise CollectionError(f"{where} has no column {' and no '.join(missing)}; it has {', '.join(known) or 'none'}")


def keys_of(metadata: bytes) -> set[str]:
    """The keys of a JSON object; none where it cannot be read."""
    try:
        return set(_object(metadata))
    except MetadataError:
        return set()


def _object(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_TEXT_BYTES:
        raise MetadataError(f"its JSON has {len(content)} bytes, more than the limit of {MAX_TEXT_BYTES}")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"its JSON cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise MetadataError(f"its JSON is not an object but {type(values).__name__}")
    return values


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()  # JSON can hold halves of characters
