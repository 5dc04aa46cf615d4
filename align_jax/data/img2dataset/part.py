"""One shard of img2dataset as a part of a data set: written whole or not at all, by any process.

00000.records    the records, in the order in which the shard has them (ArrayRecord)
00000.npy        for each record, in the order of keys: its place in that file, and a hash of each of its identities
00000.json       what it was made from, the audit, and what was left out by name; written last
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import UInt64

from align_jax.data.audit import Audit
from align_jax.data.collections import CollectionError
from align_jax.data.img2dataset.columns import Column, serialize
from align_jax.data.img2dataset.rows import NOT_KEPT, Damage, Row, Unusable, read_rows
from align_jax.data.img2dataset.shards import Layout, Shard
from align_jax.files import replace_file, replaced

Identity = Literal["key", "url", "sha256", "pair"]
IDENTITIES: tuple[Identity, ...] = get_args(Identity)
"""What makes two records duplicates: the same key, the same URL, the same image, or the same image and caption."""

RECORD_OPTIONS = "group_size:1"
"""Each record can be read by itself, as TFDS writes them."""

_FORMAT = 2


@dataclass(frozen=True)
class Settings:
    """What the records of a shard follow from, besides its files.

    Attributes:
      layout: of the shards.
      columns: that are kept.
      captioned: whether records have a caption.
      identities: that no two records may share.
    """

    layout: Layout
    columns: tuple[Column, ...]
    captioned: bool
    identities: tuple[Identity, ...]


@dataclass(frozen=True)
class PartState:
    """What is known of a finished part.

    Attributes:
      audit: of the shard.
      left_out: key and reason of what was left out for a fault of its own, and name and damage of the shard; what
        img2dataset itself has given up stands in its tables.
    """

    audit: Audit
    left_out: tuple[tuple[str, str], ...]


def write_part(shard: Shard, settings: Settings, folder: Path) -> PartState:
    """Reads a shard and writes its part."""
    made_from = _made_from(shard, settings)
    keys: list[str] = []
    hashes: list[list[int]] = []
    audit, left_out = Audit(), []
    with replaced(folder / f"{shard.name}.records") as temporary:
        writer = ArrayRecordWriter(str(temporary), RECORD_OPTIONS)
        try:
            for row in read_rows(shard, settings.layout, settings.columns, settings.captioned):
                if isinstance(row, Damage):
                    left_out.append((shard.name, row.reason))
                    continue
                audit.rows += 1
                if isinstance(row, Unusable):
                    audit.left_out[row.reason] += 1
                    if not row.reason.startswith("img2dataset: ") and row.reason != NOT_KEPT:
                        left_out.append((row.key, row.detail or row.reason))
                    continue
                writer.write(_serialized(row, settings))
                keys.append(row.key)
                hashes.append([_hash(_identity(row, identity)) for identity in settings.identities])
        except CollectionError as error:  # nothing of this shard can be trusted
            audit, keys, hashes = _unreadable(shard), [], []
            left_out = [(shard.name, str(error))]
        finally:
            writer.close()
        audit.kept = len(keys)
        if shard.data is None and shard.table is None:
            audit = _unreadable(shard, "it is not in the shard, which is missing")
        audit.check()
    order = sorted(range(len(keys)), key=keys.__getitem__)
    index = np.array([[place, *hashes[place]] for place in order], np.uint64)
    index = index.reshape(len(keys), 1 + len(settings.identities))
    with replaced(folder / f"{shard.name}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, index)
    state = {"made_from": made_from, "audit": audit.to_dict(), "left_out": left_out}
    replace_file(folder / f"{shard.name}.json", json.dumps(state).encode())
    return PartState(audit, tuple(left_out))


def read_state(shard: Shard, settings: Settings, folder: Path) -> PartState | None:
    """The state of a part that is finished and was made from the files as they are now; `None` for any other."""
    path = folder / f"{shard.name}.json"
    if not path.is_file():
        return None
    state: Any = json.loads(path.read_bytes())
    if state["made_from"] != _made_from(shard, settings):
        return None
    return PartState(Audit.from_dict(state["audit"]), tuple((key, reason) for key, reason in state["left_out"]))


def read_index(shard: Shard, folder: Path) -> UInt64[np.ndarray, "_ _"]:
    """Places and hashes of the records, in the order of their keys."""
    return np.load(folder / f"{shard.name}.npy", allow_pickle=False)


def _made_from(shard: Shard, settings: Settings) -> str:
    described = repr((_FORMAT, shard.name, shard.stamp(), settings))
    return hashlib.sha256(described.encode()).hexdigest()


def _unreadable(shard: Shard, reason: str = "its shard cannot be read") -> Audit:
    rows = shard.counted_rows() or 0
    audit = Audit(rows)
    if rows:
        audit.left_out[reason] = rows
    return audit


def _serialized(row: Row, settings: Settings) -> bytes:
    features: dict[str, list[Any]] = {"key": [row.key.encode()], "image": [row.image]}
    if settings.captioned:
        features["text"] = [row.text.encode("utf-8", "replace")]
    return serialize(features | row.values, settings.columns)


def _identity(row: Row, identity: Identity) -> Sequence[str]:
    if identity == "key":
        return ("key", row.key)
    if identity == "url" and row.url:
        return ("url", row.url)
    # Two that have no URL are not the same for that; they are if their images are.
    image = row.sha256.lower() or hashlib.sha256(row.image).hexdigest()
    return ("pair", image, row.text) if identity == "pair" else ("sha256", image)


def _hash(identity: Sequence[str]) -> int:
    content = "\0".join(identity).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
