"""Which images are near-duplicates of others, by their embeddings.

The paper compares all images with those in the nearest of 4,096 clusters. Here every image is compared with every
evaluation image: a matrix product per part, which is exact, and cheap beside computing the embeddings.
"""

import numpy as np
from jaxtyping import Bool, Float32

_ROWS = 4096


def near_rows(
    embeddings: Float32[np.ndarray, "N D"], evaluation: Float32[np.ndarray, "M D"], cosine: float
) -> Bool[np.ndarray, " N"]:
    """The rows whose largest cosine with a row of the evaluation is above a limit.

    Args:
        embeddings: of unit length.
        evaluation: of unit length.
        cosine: the limit; rows at the limit are none.
    """
    found = np.zeros(len(embeddings), bool)
    for start in range(0, len(embeddings), _ROWS):
        rows = embeddings[start : start + _ROWS]
        for other in range(0, len(evaluation), _ROWS):
            found[start : start + _ROWS] |= (rows @ evaluation[other : other + _ROWS].T).max(axis=1) > cosine
    return found
