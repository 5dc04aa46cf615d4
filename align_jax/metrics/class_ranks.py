"""Where the right class stands among all classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.jit
def class_ranks(scores: Float[Array, "B K"], right: Bool[Array, "B K"]) -> Int[Array, "B"]:
    """Rank, from 0, of the best right class: an example counts for top-k where its rank is below k (`recall_at`).

    Several classes may be right (ReaL labels): the best of them counts, the others never stand in its way. A wrong
    class with an equal score ranks first, so that a constant output scores nothing.

    Args:
        scores: of every class; logits, or cosines with the classes' embeddings.
        right: the classes that an example may be given.

    Returns:
        The number of wrong classes that score at least as much; the largest int32 where no class is right.

    Example:
        >>> scores = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.5]])
        >>> right = jnp.array([[False, True, False], [True, True, False]])
        >>> class_ranks(scores, right).tolist()
        [0, 1]
    """
    best_B = jnp.max(jnp.where(right, scores, -jnp.inf), axis=1)
    # Not `>= best`: a score that is not a number must count as ahead, not behind.
    ahead_BxK = ~(scores < best_B[:, None]) & ~right
    ahead_B = jnp.sum(ahead_BxK.astype(jnp.int32), axis=1)
    return jnp.where(jnp.any(right, axis=1), ahead_B, jnp.iinfo(jnp.int32).max)
