"""Rematerialisation: blocks that keep only their input for the gradient and compute everything else a second time.

The trade of memory for FLOPs of Chen et al., arXiv 1604.06174. Parts of a network are chosen by name, a stage or a
tower's layers at a time, since early stages hold most of the memory and late ones most of the FLOPs.
"""

from collections.abc import Sequence

import flax.linen as nn

from align_jax.json_config import ConfigurationError


def rematerialized(block: type[nn.Module], chosen: bool) -> type[nn.Module]:
    """The block, with its call rematerialised where it is chosen; its parameters keep their paths."""
    return nn.remat(block) if chosen else block


def check_parts(chosen: Sequence[str], known: Sequence[str]) -> None:
    """Refuses names that the network has no part for.

    Raises:
        ConfigurationError: with the names that it has.
    """
    unknown = [part for part in chosen if part not in known]
    if unknown:
        raise ConfigurationError(
            f"rematerialize names {', '.join(map(repr, unknown))}, which the model does not have; use some of "
            f"{', '.join(known)}"
        )


def parts_below(tower: str, chosen: Sequence[str]) -> tuple[str, ...]:
    """The parts of one tower: `stage_1` for `image/stage_1` below `image`."""
    return tuple(part.removeprefix(f"{tower}/") for part in chosen if part.startswith(f"{tower}/"))
