"""What a data set was made from, so that another input or other settings are not taken for the same."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from align_jax.data.img2dataset.columns import Column
from align_jax.data.img2dataset.part import Settings
from align_jax.data.img2dataset.shards import Shards

Origin = Mapping[str, Any]
"""As JSON has it: every setting by name, the number of shards, and a digest of sizes and times of all their files."""

_SHARDS, _DIGEST, _KEPT = "shards", "digest", "kept_ids"


def origin_of(shards: Shards, settings: Settings) -> Origin:
    """Describes an input and its settings."""
    given = {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    stamps = json.dumps([(shard.name, shard.stamp()) for shard in shards.shards])
    if shards.shards and shards.shards[0].kept is not None:
        given[_KEPT] = sum(len((shard.kept or "").splitlines()) for shard in shards.shards)
    return given | {_SHARDS: len(shards.shards), _DIGEST: hashlib.sha256(stamps.encode()).hexdigest()[:16]}


def differences(before: Origin, now: Origin) -> list[str]:
    """What is not as it was, in words.

    >>> differences({"columns": [], "shards": 5, "digest": "a"}, {"columns": ["id: int"], "shards": 6, "digest": "b"})
    ['columns were none, and are id: int', 'shards were 5, and are 6']
    """
    found = [
        f"{name} were {_words(before.get(name))}, and are {_words(now.get(name))}"
        for name in [*dict.fromkeys([*before, *now])]
        if name != _DIGEST and before.get(name) != now.get(name)
    ]
    if not found and before.get(_DIGEST) != now.get(_DIGEST):
        found.append("files of shards, or kept ids, are others, or were written again")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Column):
        return f"{value.name}: {'list of ' if value.many else ''}{value.kind}"
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _words(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
