"""What the embeddings of a folder depend on, so that a folder is only ever continued with the same."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_jax.data.collections import Collection, FileRecord
from align_jax.data.collections.collection import Contents
from align_jax.inference.embedder import Embedder
from align_jax.inference.embedding.folder import METADATA_FILE, EmbeddingFolderError

FORMAT = 2


@dataclass(frozen=True)
class Identity:
    """What the bytes of the embeddings depend on, but for the machine, and for what `Contents.digest` does not see.

    Attributes:
        model: digest of configuration and weights.
        content: "images" or "texts".
        preprocessing: of images; `None` for texts.
        text_length: the most tokens of a text; `None` for images.
        dtype: of the parameters and the computation.
        batch_size: inputs that are computed together; another one may change the last bits.
        shard_size: inputs of a part.
        columns: types of the carried columns, by name.
        options: how the input is read, such as the column that is.
        entries: how many inputs there are.
        input: `Collection.digest`.
    """

    model: str
    content: str
    preprocessing: Mapping[str, Any] | None
    text_length: int | None
    dtype: str
    batch_size: int
    shard_size: int
    columns: Mapping[str, str]
    options: Mapping[str, str | None]
    entries: int
    input: str

    @classmethod
    def of(cls, embedder: Embedder, collection: Collection, content: str, shard_size: int) -> "Identity":
        """The identity of what is about to be made."""
        images = content == "images"
        return cls(
            model=embedder.digest,
            content=content,
            preprocessing=embedder.preprocessing.to_dict() if images else None,
            text_length=None if images else embedder.text_length,
            dtype=embedder.dtype,
            batch_size=embedder.batch_size,
            shard_size=shard_size,
            columns={name: str(kind or "string") for name, kind in collection.column_types.items()},
            options=dict(collection.options),
            entries=collection.size,
            input=collection.digest,
        )

    @property
    def digest(self) -> str:
        """Of all of it."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.entries // self.shard_size)


def differences(made: Mapping[str, Any], identity: Identity, collection: Collection) -> list[str]:
    """How a folder's metadata differ from what is to be made, a phrase each; empty where they do not."""
    found = []
    for name in ("model", "content", "dtype", "batch_size", "shard_size", "text_length", "columns", "preprocessing"):
        before, now = made.get(name), getattr(identity, name)
        before = before["digest"] if name == "model" and isinstance(before, dict) else before
        if before != now:
            found.append(_difference(name, before, now))
    before = made.get("input", {})
    then, now = before.get("options", {}), identity.options
    read_otherwise = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    found += [f"{name} {then.get(name)} then, {now.get(name)} now" for name in read_otherwise]
    # The digest depends on the options too.
    if before.get("entries") != identity.entries or (not read_otherwise and before.get("digest") != identity.input):
        found.append(_input_difference(before, identity, collection))
    return found


def known_files(output: Path) -> dict[str, FileRecord]:
    """What an earlier start found out about the files of the input, so that it need not be found out again."""
    path = output / METADATA_FILE
    try:
        files = json.loads(path.read_bytes())["input"]["files"]
        records = [FileRecord(one["name"], one["stamp"], Contents(one["entries"], one["digest"])) for one in files]
    except (OSError, ValueError, KeyError, TypeError):  # nothing is known; what is wrong is said when it is compared
        return {}
    return {record.name: record for record in records}


def described(
    identity: Identity, collection: Collection, *, source: list[str], model_source: str, embedding_size: int
) -> dict[str, Any]:
    """The contents of `embeddings.json`, before anything is counted."""
    files = [
        {"name": one.name, "stamp": one.stamp, "entries": one.contents.entries, "digest": one.contents.digest}
        for one in collection.records
    ]
    return {
        "format": FORMAT,
        "finished": False,
        "content": identity.content,
        "model": {"source": model_source, "digest": identity.model},
        "preprocessing": identity.preprocessing,
        "text_length": identity.text_length,
        "dtype": identity.dtype,
        "embedding_size": embedding_size,
        "batch_size": identity.batch_size,
        "shard_size": identity.shard_size,
        "parts": identity.parts,
        "columns": dict(identity.columns),
        "run": identity.digest,
        "counts": None,
        "input": {
            "source": source,
            "form": collection.form,
            "options": dict(identity.options),
            "entries": identity.entries,
            "digest": identity.input,
            "files": files,
        },
    }


def require_same(made: Mapping[str, Any], identity: Identity, collection: Collection, output: Path) -> None:
    """Checks that a folder can be continued.

    Raises:
        EmbeddingFolderError: if it was made from something else, or in another way; says what differs.
    """
    if made.get("format") != FORMAT:
        raise EmbeddingFolderError(
            f"{output} is of format {made.get('format')}, and only format {FORMAT} can be continued; "
            f"give another --output"
        )
    if found := differences(made, identity, collection):
        raise EmbeddingFolderError(
            f"{output} was made from something else: {'; '.join(found)}; give the same again, or another --output"
        )


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if keys != list(now):
            return ", ".join(f"{name}: {key} {before.get(key)} then, {now.get(key)} now" for key in keys)
    texts = [str(value)[:12] + "…" if len(str(value)) > 40 else str(value) for value in (before, now)]
    return f"{name} {texts[0]} then, {texts[1]} now"


def _input_difference(before: Mapping[str, Any], identity: Identity, collection: Collection) -> str:
    if before.get("form") != collection.form:
        return f"input of form {before.get('form')} then, {collection.form} now"
    then = {one["name"]: one for one in before.get("files", [])}
    now = {one.name: one for one in collection.records}
    changed = [f"{name} is new" for name in now if name not in then]
    changed += [f"{name} is not there any more" for name in then if name not in now]
    changed += [
        f"{name or 'its contents'} changed"
        for name in now
        if name in then and then[name]["digest"] != now[name].contents.digest
    ]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    sizes = f"input of {before.get('entries')} entries then, {identity.entries} now"
    return f"{sizes} ({', '.join(changed[:3]) or 'in another order'}{more})"
