"""Where every parameter lies, in two tables: path -> logical axes -> mesh axes.

The same tables serve optimizer state and averaged parameters, whose paths end like the parameters' own.
"""

import math
import re
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The first pattern found in a path names its axes; None is never split.
PARAMETER_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"text/embeddings/word/embedding$", ("vocabulary", "features")),
    (r"text/(embeddings/\w+|layers_\d+/attention/distance)/embedding$", (None, "features")),
    (r"/layers_\d+/attention/(query|key|value)/kernel$", ("features", "heads")),
    (r"/layers_\d+/attention/output/kernel$", ("heads", "features")),
    (r"/layers_\d+/feed_forward_in/kernel$", ("features", "hidden")),
    (r"/layers_\d+/feed_forward_out/kernel$", ("hidden", "features")),
    (r"(text/pooler|image/representation)/kernel$", ("features", None)),
    (r"image/embeddings/patches/kernel$", (None, None, None, "features")),
    (r"image/embeddings/position$", (None, "features")),
    (r"image/embeddings/class_token$", (None,)),
    (r"image/stem/conv/kernel$", (None, None, None, None)),
    (r"image/blocks_\d+/depthwise/kernel$", (None, None, None, "features")),
    (r"image/(blocks_\d+/(expand|project)|top/conv)/kernel$", (None, None, None, "features")),
    (r"image/blocks_\d+/squeeze_excite/(reduce|expand)/kernel$", (None, "features")),
    (r"((image|text)_projection|classifier)/kernel$", ("features", None)),
    (r"/(bias|scale|mean|var)$", (None,)),
    (r"(temperature|logit_bias)$", ()),
)

MESH_AXIS_OF: dict[str, str] = {
    "features": "fsdp",
    "vocabulary": "tensor",
    "heads": "tensor",
    "hidden": "tensor",
}


def logical_axes(path: str) -> tuple[str | None, ...] | None:
    """Names of a parameter's axes; `None` where no row of the table speaks of the path."""
    return next((axes for pattern, axes in PARAMETER_AXES if re.search(pattern, path)), None)


def partition(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How one array is split; an axis that does not divide evenly stays whole, as does all that is not in the table."""
    axes = logical_axes(path)
    if axes is None or len(axes) != len(shape):
        return PartitionSpec()
    names = [MESH_AXIS_OF.get(axis) if axis else None for axis in axes]
    return PartitionSpec(
        *(name if name and size % mesh.shape[name] == 0 else None for name, size in zip(names, shape, strict=True))
    )


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """A sharding for every array of a tree of arrays or of `jax.ShapeDtypeStruct`."""

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, partition(path_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def whole_over_fsdp(params: Any, mesh: Mesh) -> Any:
    """Parameters as the layers take them: gathered over `fsdp`, each where it is used; their gradients return split.

    Left to itself, the partitioner may split activations by features as the parameters are, and not by examples: then
    each device holds its features of many more examples than its share.
    """
    if mesh.shape["fsdp"] == 1:
        return params
    return jax.tree.map(_whole_over_fsdp, params, tree_shardings(params, mesh))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole_over_fsdp(leaf: jax.Array, split: NamedSharding) -> jax.Array:
    spec = PartitionSpec(*(None if name == "fsdp" else name for name in split.spec))
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(split.mesh, spec))


def _gather(leaf: jax.Array, split: NamedSharding) -> tuple[jax.Array, None]:
    return _whole_over_fsdp(leaf, split), None


def _scatter(split: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, split),)


_whole_over_fsdp.defvjp(_gather, _scatter)


def path_name(path: tuple[Any, ...]) -> str:
    """`image/blocks_3/depthwise/kernel` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_count(tree: Any) -> int:
    """Number of scalars in a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
