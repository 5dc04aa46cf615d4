"""A linear classifier on frozen embeddings: multinomial logistic regression, fitted by full-batch L-BFGS.

The objective is mean(cross-entropy) + l2 / 2 · |weights|²; the bias is not penalised. scikit-learn's `C` is
1 / (l2 · examples). It is convex, so what is found depends on neither the start nor the order of the examples.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from align_jax.evaluation.row_blocks import map_rows, padded, place
from align_jax.metrics import class_ranks
from align_jax.parallel.mesh import BATCH_AXES, batch_shards, replicated

L2_SWEEP = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""From the strongest to the weakest, each fit starting where the one before it ended."""


class Linear(NamedTuple):
    """Scores are embeddings @ weights + bias."""

    weights: Any  # float32 [D K]
    bias: Any  # float32 [K]


class Fit(NamedTuple):
    """A fitted classifier and how it was reached."""

    classifier: Linear
    steps: int
    gradient: float  # the largest entry of the objective's gradient at the end


class Probe(NamedTuple):
    """The outcome of a sweep."""

    classifier: Linear  # fitted to all examples
    l2: float  # the best on the held-out part
    held_out_accuracy: dict[float, float]  # by l2


class _Examples(NamedTuple):
    """Chunks of examples, the rows of each spread over the mesh."""

    embeddings: jax.Array  # [chunks R D]
    labels: jax.Array  # int32 [chunks R]
    valid: jax.Array  # float32 [chunks R], 0 on padding


def probe(
    embeddings: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, "N"],
    class_count: int,
    mesh: Mesh,
    *,
    l2_sweep: Sequence[float] = L2_SWEEP,
    held_out_fraction: float = 0.1,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
    **options: Any,
) -> Probe:
    """Finds the best l2 on a random held-out part, and fits that one to everything.

    Args:
        embeddings: of the training images.
        labels: their classes, from 0.
        class_count: classes there are.
        mesh: examples are spread over it.
        l2_sweep: penalties to try; of equally good ones the strongest is kept.
        held_out_fraction: share of the examples that choose the penalty.
        seed: of the choice of the held-out part.
        advance: called with 1 after each of the `len(l2_sweep) + 1` fits.
        options: of `fit`.

    Raises:
        ValueError: if the parts would be empty, or a penalty is not positive and finite.
    """
    if not 0 < held_out_fraction < 1:
        raise ValueError(f"a held-out fraction of {held_out_fraction} is not between 0 and 1; use 0.1")
    if not l2_sweep or (wrong := [l2 for l2 in l2_sweep if not 0 < l2 < math.inf]):
        raise ValueError(f"the penalty {wrong[0] if l2_sweep else None} is not positive and finite; use such as 1e-4")
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out = order[: round(held_out_fraction * len(labels))]
    kept = np.setdiff1d(order, held_out)
    if not len(held_out) or not len(kept):
        raise ValueError(
            f"{len(kept)} examples to fit and {len(held_out)} to choose a penalty by are not enough; use more "
            "examples, or another held-out fraction"
        )
    accuracy: dict[float, float] = {}
    fits: dict[float, Linear] = {}
    classifier = None
    for l2 in sorted(l2_sweep, reverse=True):
        classifier = fit(
            embeddings[kept], labels[kept], class_count, mesh, l2=l2, start=classifier, **options
        ).classifier
        fits[l2] = classifier
        right = np.eye(class_count, dtype=np.bool_)[labels[held_out]]
        accuracy[l2] = float(np.mean(probe_ranks(embeddings[held_out], classifier, right, mesh) == 0))
        if advance is not None:
            advance(1)
    best = max(accuracy, key=lambda l2: (accuracy[l2], l2))
    whole = fit(embeddings, labels, class_count, mesh, l2=best, start=fits[best], **options)
    if advance is not None:
        advance(1)
    return Probe(whole.classifier, best, accuracy)


def fit(
    embeddings: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, "N"],
    class_count: int,
    mesh: Mesh,
    *,
    l2: float,
    start: Linear | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
    rows_at_once: int = 65536,
) -> Fit:
    """Minimises the objective of one penalty.

    Args:
        embeddings: of the examples.
        labels: their classes, from 0.
        class_count: classes there are.
        mesh: examples are spread over it.
        l2: the penalty.
        start: where to begin; at zero when absent.
        tolerance: ends the search: the largest entry of the gradient.
        max_steps: ends it in any case.
        rows_at_once: examples whose scores are held at once, over all devices.
    """
    examples = _chunks(embeddings, labels, mesh, rows_at_once)
    if start is None:
        width = embeddings.shape[1]
        start = Linear(np.zeros((width, class_count), np.float32), np.zeros(class_count, np.float32))
    classifier: Linear = jax.tree.map(lambda leaf: place(leaf, replicated(mesh)), start)
    l2_array = place(np.float32(l2), replicated(mesh))
    tolerance_array = place(np.float32(tolerance), replicated(mesh))
    state = _State(classifier, _begin(classifier), *_gradient_at(classifier, examples, l2_array))
    state, steps = _minimise(state, examples, l2_array, tolerance_array, place(np.int32(max_steps), replicated(mesh)))
    gradient = float(optax.tree.norm(state.gradient, ord=jnp.inf))
    return Fit(Linear(*map(np.asarray, state.classifier)), int(steps), gradient)


def probe_ranks(
    embeddings: Float[np.ndarray, "N D"],
    classifier: Linear,
    right: Bool[np.ndarray, "N K"],
    mesh: Mesh,
    *,
    rows_at_once: int = 8192,
) -> Int[np.ndarray, "N"]:
    """Rank of the right class of each example, see `class_ranks`."""
    return map_rows(_ranks, mesh, (embeddings, right), tuple(classifier), rows_at_once=rows_at_once)


def _ranks(
    embeddings: Float[Array, "B D"], right: Bool[Array, "B K"], weights: Float[Array, "D K"], bias: Float[Array, "K"]
) -> Int[Array, "B"]:
    return class_ranks(_scores(Linear(weights, bias), embeddings), right)


def _scores(classifier: Linear, embeddings: Float[Array, "B D"]) -> Float[Array, "B K"]:
    product = jnp.matmul(embeddings, classifier.weights, precision=jax.lax.Precision.HIGHEST)
    return product + classifier.bias[None, :]


def _chunks(embeddings: np.ndarray, labels: np.ndarray, mesh: Mesh, rows_at_once: int) -> _Examples:
    """Chunks of equal shape; padding fills the last one."""
    count, shards = len(labels), batch_shards(mesh)
    chunks = -(-count // rows_at_once)
    rows = -(-count // (chunks * shards)) * shards
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def chunked(array: np.ndarray) -> jax.Array:
        whole = padded(array, chunks * rows)
        return place(whole.reshape(chunks, rows, *array.shape[1:]), sharding)

    return _Examples(
        chunked(embeddings.astype(np.float32)), chunked(labels.astype(np.int32)), chunked(np.ones(count, np.float32))
    )


def _objective(classifier: Linear, examples: _Examples, l2: jax.Array) -> jax.Array:
    @jax.checkpoint  # the gradient computes a chunk's scores again, so that those of one chunk are held at a time
    def add(total: jax.Array, chunk: _Examples) -> tuple[jax.Array, None]:
        scores = _scores(classifier, chunk.embeddings)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, chunk.labels)
        return total + jnp.sum(losses * chunk.valid), None

    total, _ = jax.lax.scan(add, jnp.float32(0.0), examples)
    penalty = jnp.float32(0.5) * l2 * jnp.sum(jnp.square(classifier.weights))
    return total / jnp.sum(examples.valid) + penalty


class _State(NamedTuple):
    """Where the search is."""

    classifier: Linear
    optimizer: Any
    value: jax.Array
    gradient: Linear


@functools.cache
def _lbfgs() -> optax.GradientTransformationExtraArgs:
    return optax.lbfgs(memory_size=20)


_begin = jax.jit(lambda classifier: _lbfgs().init(classifier))
_gradient_at = jax.jit(jax.value_and_grad(_objective))


@jax.jit
def _minimise(
    start: _State, examples: _Examples, l2: jax.Array, tolerance: jax.Array, limit: jax.Array
) -> tuple[_State, jax.Array]:
    """At most `limit` steps of L-BFGS, and their number: it ends early where the gradient is small or nothing moves."""

    def objective(classifier: Linear) -> jax.Array:
        return _objective(classifier, examples, l2)

    def step(carry: tuple[_State, jax.Array, jax.Array]) -> tuple[_State, jax.Array, jax.Array]:
        at, taken, _ = carry
        updates, optimizer = _lbfgs().update(
            at.gradient, at.optimizer, at.classifier, value=at.value, grad=at.gradient, value_fn=objective
        )
        classifier: Any = optax.apply_updates(at.classifier, updates)
        # The line search has been there and keeps what it saw.
        value, gradient = optax.tree.get(optimizer, "value"), optax.tree.get(optimizer, "grad")
        moved = optax.tree.norm(updates, ord=jnp.inf) > 0
        return _State(classifier, optimizer, value, gradient), taken + 1, moved

    def goes_on(carry: tuple[_State, jax.Array, jax.Array]) -> jax.Array:
        at, taken, moved = carry
        return (optax.tree.norm(at.gradient, ord=jnp.inf) > tolerance) & (taken < limit) & moved

    state, taken, _ = jax.lax.while_loop(goes_on, step, (start, jnp.int32(0), jnp.bool_(True)))
    return state, taken
