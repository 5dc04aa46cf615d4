"""The class that the nearest neighbours of an example agree on."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@partial(jax.jit, static_argnames=("k", "temperature"))
def neighbours_vote(
    labels: Int[Array, "Q M"], cosines: Float[Array, "Q M"], k: int, temperature: float | None = None
) -> Int[Array, "Q"]:
    """The class with the most votes among the first k neighbours; of classes with equally many, the smallest.

    Args:
        labels: classes of the neighbours, nearest first.
        cosines: how near they are.
        k: neighbours that vote; at most M.
        temperature: T, where a vote weighs exp(cosine / T) (Wu et al., arXiv 1805.01978); all weigh the same without.

    Example:
        >>> labels, cosines = jnp.array([[4, 2, 2]]), jnp.array([[0.9, 0.5, 0.5]])
        >>> neighbours_vote(labels, cosines, 3).item(), neighbours_vote(labels, cosines, 3, temperature=0.1).item()
        (2, 4)
    """
    labels, cosines = labels[:, :k], cosines[:, :k]
    # exp((c - c_first) / T) is the same weight but for a factor, and cannot overflow.
    weights_Qxk = jnp.ones_like(cosines) if temperature is None else jnp.exp((cosines - cosines[:, :1]) / temperature)

    def vote(label_k: jax.Array, weight_k: jax.Array) -> jax.Array:
        """Counts for each neighbour's own class: k x k comparisons, whatever the number of classes."""
        same_kxk = label_k[:, None] == label_k[None, :]
        votes_k = jnp.sum(jnp.where(same_kxk, weight_k[None, :], 0.0), axis=1)
        winners_k = jnp.where(votes_k == jnp.max(votes_k), label_k, jnp.iinfo(label_k.dtype).max)
        return jnp.min(winners_k)

    return jax.vmap(vote)(labels, weights_Qxk)
