"""Top-1 and top-5 accuracy of class scores, with one right class per example or several (ReaL, arXiv 2006.07159)."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from align_jax.evaluation.estimates import Bootstrap, Estimate, estimates
from align_jax.evaluation.row_blocks import map_rows
from align_jax.metrics import class_ranks

CUTOFFS = (1, 5)
"""An example counts for top-k where a right class is among the first k."""


def right_classes(labels: Sequence[Sequence[int]], class_count: int) -> Bool[np.ndarray, "N K"]:
    """A row per example, True for each class that is right.

    Raises:
        ValueError: if a label is no class.
    """
    right = np.zeros((len(labels), class_count), np.bool_)
    for row, of_example in enumerate(labels):
        outside = [label for label in of_example if not 0 <= label < class_count]
        if outside:
            raise ValueError(
                f"example {row} has label {outside[0]}, but there are {class_count} classes, counted from 0; give the "
                "labels of the classes that the model knows"
            )
        right[row, list(of_example)] = True
    return right


def ranks_of(
    scores: Float[np.ndarray, "N K"], right: Bool[np.ndarray, "N K"], mesh: Mesh, *, rows_at_once: int = 8192
) -> Int[np.ndarray, "N"]:
    """`class_ranks`, in blocks over the mesh."""
    return map_rows(class_ranks, mesh, (scores, right), rows_at_once=rows_at_once)


def accuracy_estimates(
    ranks: Int[np.ndarray, "N"],
    valid: Bool[np.ndarray, "N"],
    bootstrap: Bootstrap,
    *,
    class_count: int,
    prefix: str = "",
) -> dict[str, Estimate]:
    """Accuracy by the names `top1` and `top5`; the latter where there are more than five classes.

    Args:
        ranks: of `class_ranks`.
        valid: False on examples that do not count: padding, and those for which ReaL knows no right class.
        bootstrap: of the intervals.
        class_count: classes that were told apart.
        prefix: of the names.

    Raises:
        ValueError: if no example counts.
    """
    if not valid.any():
        raise ValueError(f"not one of {len(valid)} examples has a right class; check that labels and images belong")
    cutoffs = [k for k in CUTOFFS if k == 1 or k < class_count]
    hits = np.stack([ranks[valid] < k for k in cutoffs], axis=1).astype(np.float64)
    return estimates([f"{prefix}top{k}" for k in cutoffs], hits, bootstrap)
