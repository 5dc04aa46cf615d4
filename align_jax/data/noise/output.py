"""The folder of a filtered collection.

kept/*.parquet      pairs that are kept: id, image, width, height and text; of a table its rows as they were
dropped/*.parquet   id of the others, and the rule that each broke first, or why it cannot be read
audit.json          counts
"""

from collections.abc import Mapping
from typing import Any

from align_jax.data.arrow import parquet
from align_jax.data.noise.pairs import Pair

AUDIT_FILE = "audit.json"
KEPT = "kept"
DROPPED = "dropped"


def schemas(columns: Mapping[str, Any] | None) -> dict[str, Any]:
    """The Arrow schemas of both kinds of files, by the folders that they lie in.

    Args:
        columns: of the table that is filtered, with types in Arrow, `None` for strings; `None` where it is no table.
    """
    arrow, _ = parquet("writing which pairs are kept")
    text = arrow.string()
    kept = [("id", text), ("image", text), ("width", arrow.int32()), ("height", arrow.int32()), ("text", text)]
    if columns is not None:
        kept = [(name, text if kind is None else kind) for name, kind in columns.items()]
    return {KEPT: arrow.schema(kept), DROPPED: arrow.schema([("id", text), ("reason", text)])}


def kept_row(pair: Pair) -> dict[str, Any]:
    """A row of `kept`."""
    if pair.row is not None:
        return pair.row
    return {
        "id": pair.id, "image": pair.image, "width": pair.width_px, "height": pair.height_px,
        "text": pair.text.encode("utf-8", "replace").decode(),
    }  # fmt: skip


def dropped_row(name: str, reason: str) -> dict[str, Any]:
    """A row of `dropped`."""
    return {"id": name, "reason": reason}
