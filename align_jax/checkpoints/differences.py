"""What keeps a saved tree from being restored as another, and what changes on the way."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp


def differences(saved: Any, wanted: Any) -> list[str]:
    """What keeps a saved tree from being restored as the wanted one: leaves missing, extra, reshaped or retyped."""
    found, expected = _leaves(saved), _leaves(wanted)
    both = sorted(expected.keys() & found.keys())
    missing = [f"{path} is missing" for path in sorted(expected.keys() - found.keys())]
    extra = [f"{path} is not wanted" for path in sorted(found.keys() - expected.keys())]
    reshaped = [
        f"{path} has shape {tuple(found[path].shape)}, not {tuple(expected[path].shape)}"
        for path in both
        if tuple(found[path].shape) != tuple(expected[path].shape)
    ]
    retyped = [
        f"{path} is {found[path].dtype}, not {expected[path].dtype}"
        for path in both
        if found[path].dtype != expected[path].dtype and not _both_floating(found[path].dtype, expected[path].dtype)
    ]
    return missing + extra + reshaped + retyped


def casts(saved: Any, wanted: Any) -> tuple[str, ...]:
    """The floating types that change, a phrase for each part of the state: a run may go on with another precision."""
    found, expected = _leaves(saved), _leaves(wanted)
    changed = Counter(
        (path.split("/")[0], str(found[path].dtype), str(leaf.dtype))
        for path, leaf in expected.items()
        if found[path].dtype != leaf.dtype
    )
    return tuple(
        f"{count} {'array' if count == 1 else 'arrays'} of {part} from {before} to {after}"
        for (part, before, after), count in sorted(changed.items())
    )


def _leaves(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _both_floating(first: Any, second: Any) -> bool:
    return bool(jnp.issubdtype(first, jnp.floating) and jnp.issubdtype(second, jnp.floating))
