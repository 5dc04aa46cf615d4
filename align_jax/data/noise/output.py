"""The folder of a filtered collection.

kept-….parquet      id, image, width, height and text of the pairs that are kept
dropped-….parquet   id of the others, and the rule that each broke first, or why it cannot be read
audit.json          counts
"""

from typing import Any

from align_jax.data.arrow import parquet
from align_jax.data.noise.pairs import Pair

AUDIT_FILE = "audit.json"


def schemas() -> dict[str, Any]:
    """The Arrow schemas of both kinds of files."""
    arrow, _ = parquet("writing which pairs are kept")
    text = arrow.string()
    kept = [("id", text), ("image", text), ("width", arrow.int32()), ("height", arrow.int32()), ("text", text)]
    return {"kept": arrow.schema(kept), "dropped": arrow.schema([("id", text), ("reason", text)])}


def kept_row(pair: Pair) -> dict[str, Any]:
    """A row of `kept`."""
    return {
        "id": pair.id, "image": pair.image, "width": pair.width_px, "height": pair.height_px,
        "text": pair.text.encode("utf-8", "replace").decode(),
    }  # fmt: skip


def dropped_row(name: str, reason: str) -> dict[str, Any]:
    """A row of `dropped`."""
    return {"id": name, "reason": reason}
