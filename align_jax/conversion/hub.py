"""Brings a model of the Hub into its local cache: one form of its weights, and the small files beside them.

Repositories often hold the same weights in several forms, of which only the first in `WEIGHT_FILES` is fetched. Without
a connection, what the cache has is used.
"""

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import model_info, snapshot_download

from align_jax.conversion.readers import SourceError

# By the file that shows a form to be there, what else belongs to it. Earlier forms win, here and in folders.
WEIGHT_FILES: dict[str, tuple[str, ...]] = {
    "model.safetensors": (),
    "model.safetensors.index.json": ("model-*.safetensors",),
    "pytorch_model.bin": (),
    "pytorch_model.bin.index.json": ("pytorch_model-*.bin",),
    "*.index": ("*.data-*", "checkpoint"),  # TensorFlow
    "params/*": (),  # ours
}

_COMPANIONS = ("*.json", "*.txt")  # configurations and vocabularies
_TIMEOUT_SECONDS = 10
_LONGEST_REASON = 300


def is_model_id(text: str) -> bool:
    """Whether it has the form "owner/name"."""
    return re.fullmatch(r"[a-z0-9][\w.-]*/[a-z0-9][\w.-]*", text, re.ASCII | re.IGNORECASE) is not None


def download(model_id: str, revision: str | None = None) -> Path:
    """The folder of a model in the cache.

    Args:
        model_id: "owner/name".
        revision: a branch, a tag or a commit; the main branch where there is none.

    Raises:
        SourceError: if the model cannot be had from the Hub, and is not in the cache.
    """
    # The libraries of the network have no common base for what can go wrong there, hence `Exception`.
    try:
        files = model_info(model_id, revision=revision, timeout=_TIMEOUT_SECONDS).siblings or []
    except Exception as error:
        return _find_in_cache(model_id, revision, error)
    names = needed_files([file.rfilename for file in files])
    if not names:
        raise SourceError(f"the model {model_id} on the Hub holds no files that can be read")
    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=names))
    except Exception as error:
        raise SourceError(f"the model {model_id} could not be downloaded: {_reason(error)}") from error


def needed_files(names: Collection[str]) -> list[str]:
    """Of the names of all files of a model, those to fetch."""
    marker = next((marker for marker in WEIGHT_FILES if _matching(names, marker)), None)
    patterns = [] if marker is None else [marker, *WEIGHT_FILES[marker]]
    unused = _matching(names, *(other for other in WEIGHT_FILES if other != marker))
    companions = [name for name in _matching(names, *_COMPANIONS) if name not in unused]
    return sorted({*companions, *_matching(names, *patterns)})


def _matching(names: Collection[str], *patterns: str) -> list[str]:
    """The names that match a pattern and lie no deeper than it."""
    return [
        name
        for name in names
        if any(fnmatchcase(name, pattern) and ("/" not in name or "/" in pattern) for pattern in patterns)
    ]


def _find_in_cache(model_id: str, revision: str | None, unreachable: Exception) -> Path:
    try:
        # The configuration is in the cache whichever form of the weights is.
        return Path(
            snapshot_download(model_id, revision=revision, allow_patterns=["config.json"], local_files_only=True)
        )
    except Exception:
        raise SourceError(
            f"{model_id} is no file or folder here, and as a model on the Hub it cannot be had: {_reason(unreachable)}"
        ) from unreachable


def _reason(error: Exception) -> str:
    """What a library says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"
