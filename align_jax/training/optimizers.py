"""Optimizers as plain settings that build an `optax` transformation.

LAMB is the released recipe's (You et al., arXiv 1904.00962, as TensorFlow Addons computes it): batch-norm scale and
offset are excluded from weight decay *and* from the trust ratio, everything else, biases and the temperature too, has
both. `optax.lamb` can only mask the former, so the parts are chained here.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from align_jax.parallel.sharding import path_name

Mask = Callable[[Any], Any]

# What the numbers of an optimizer may be, in words and as a condition that nan fails.
_LIMITS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "peak_learning_rate": ("finite and not negative", lambda value: 0 <= value < math.inf),
    "warmup_steps": ("not negative; 0 starts at the peak", lambda value: value >= 0),
    "final_learning_rate": ("finite and not negative", lambda value: 0 <= value < math.inf),
    "weight_decay": ("finite and not negative", lambda value: 0 <= value < math.inf),
    "clip_norm": ("positive; leave it out for no bound", lambda value: value > 0),
    "b1": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "b2": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "momentum": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "eps": ("finite and not negative", lambda value: 0 <= value < math.inf),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What every optimizer has.

    Each pattern must be found in the path of some parameter, or `init` raises a `ValueError`: a mistyped one would
    silently train what should stay. Patterns that are part of a field's default may match nothing, because the defaults
    serve models of every kind.

    Attributes:
        peak_learning_rate: reached after `warmup_steps`, from zero, linearly.
        warmup_steps: steps of the linear rise.
        decay: the way down over the remaining steps.
        final_learning_rate: where the decay ends.
        weight_decay: decoupled from the gradient.
        clip_norm: upper bound on the gradient's global norm; no bound when absent.
        frozen: patterns of parameter paths that never change. BERT's pooler has no part in the loss. `^image/` freezes
            the image tower: for linear evaluation, and for locked-image tuning (Zhai et al., arXiv 2111.07991).

    Raises:
        ValueError: if a number is outside its range; all such are named.
    """

    _pattern_fields: ClassVar[tuple[str, ...]] = ("frozen",)

    peak_learning_rate: float = 1e-3
    warmup_steps: int = 0
    decay: Literal["linear", "cosine", "constant"] = "linear"
    final_learning_rate: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    frozen: tuple[str, ...] = (r"text/pooler/",)

    def __post_init__(self) -> None:
        wrong = []
        for name, (words, allows) in _LIMITS.items():
            value = getattr(self, name, None)  # some fields are not every optimizer's, and clip_norm may be absent
            if value is not None and not allows(value):
                wrong.append(f"{name} is {value}, but must be {words}")
        if wrong:
            raise ValueError(f"{type(self).__name__}: {', and '.join(wrong)}")

    def learning_rate(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step, over a run of `total_steps`.

        Raises:
            ValueError: if the warm-up takes longer than the run.
        """
        decay_steps = total_steps - self.warmup_steps
        if decay_steps < 1:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} leaves nothing of total_steps {total_steps}; use fewer warm-up steps"
            )
        peak, final = self.peak_learning_rate, self.final_learning_rate
        decays = {
            "linear": optax.linear_schedule(peak, final, decay_steps),
            "cosine": optax.cosine_decay_schedule(peak, decay_steps, alpha=final / peak if peak else 0.0),
            "constant": optax.constant_schedule(peak),
        }
        if not self.warmup_steps:
            return decays[self.decay]
        return optax.join_schedules(
            [optax.linear_schedule(0.0, peak, self.warmup_steps), decays[self.decay]], [self.warmup_steps]
        )

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The transformation from gradients to updates; its `init` checks the patterns against the parameters."""
        clip = optax.identity() if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm)
        optimizer = _with_standard_promotion(
            optax.chain(
                clip,
                self._direction(),
                optax.scale_by_learning_rate(self.learning_rate(total_steps)),
                optax.masked(optax.set_to_zero(), paths_matching(*self.frozen)),
            )
        )

        def init(params: Any) -> Any:
            self._check_patterns(params)
            return optimizer.init(params)

        return optax.GradientTransformation(init, optimizer.update)

    def without_frozen_gradients(self, params: Any) -> Any:
        """The parameters for the loss: what is frozen has no gradient, so it costs none and counts in no norm."""
        frozen = paths_matching(*self.frozen)(params)
        return jax.tree.map(lambda param, held: jax.lax.stop_gradient(param) if held else param, params, frozen)

    def _check_patterns(self, params: Any) -> None:
        """Refuses patterns that no parameter has in its path, other than those of the defaults."""
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for field in self._pattern_fields:
            defaults = getattr(type(self), field)
            given = [pattern for pattern in getattr(self, field) if pattern not in defaults]
            unmatched = [pattern for pattern in given if not any(re.search(pattern, name) for name in names)]
            if unmatched:
                raise ValueError(
                    f"{type(self).__name__}.{field}: no parameter's path contains {', '.join(map(repr, unmatched))}; "
                    f"correct or remove it. Paths look like {', '.join(names[:: max(1, len(names) // 4)][:4])}"
                )

    def _direction(self) -> optax.GradientTransformation:
        """Gradients to the direction that is scaled by the learning rate."""
        raise TypeError(f"{type(self).__name__} is not an optimizer by itself; use Lamb, AdamW or Momentum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lamb(Optimizer):
    """Layer-wise adaptive moments, as the released recipe uses them.

    Attributes:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment, after bias correction.
        excluded: patterns of parameter paths without weight decay and trust ratio.
    """

    _pattern_fields: ClassVar[tuple[str, ...]] = ("frozen", "excluded")

    weight_decay: float = 1e-5
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    excluded: tuple[str, ...] = (r"image/.*norm/(scale|bias)$",)

    def _direction(self) -> optax.GradientTransformation:
        included = paths_not_matching(*self.excluded)
        return optax.chain(
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay, mask=included),
            optax.masked(optax.scale_by_trust_ratio(), included),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101).

    Attributes:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment, after bias correction.
        decayed: which parameters the weight decay acts on.
    """

    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    decayed: Literal["matrices", "everything"] = "matrices"

    def _direction(self) -> optax.GradientTransformation:
        mask = {"matrices": _matrices, "everything": None}[self.decayed]
        return optax.chain(
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay, mask=mask),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Momentum(Optimizer):
    """Stochastic gradient descent with momentum, as Vision Transformers are fine-tuned.

    Attributes:
        momentum: share of the last step that the next one keeps.
    """

    momentum: float = 0.9

    def _direction(self) -> optax.GradientTransformation:
        return optax.chain(optax.trace(self.momentum), optax.add_decayed_weights(self.weight_decay))


def paths_matching(*patterns: str) -> Mask:
    """A mask that is True on parameters whose path contains one of the patterns."""

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: any(re.search(pattern, path_name(path)) for pattern in patterns), params
        )

    return mask


def paths_not_matching(*patterns: str) -> Mask:
    """The complement of `paths_matching`."""
    matching = paths_matching(*patterns)
    return lambda params: jax.tree.map(lambda matched: not matched, matching(params))


def exponential_moving_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Moves the averaged parameters; early steps decay less, by min(decay, (1 + step) / (10 + step))."""
    step = step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: decay_now * old + (1.0 - decay_now) * new, average, params)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda param: param.ndim > 1, params)


def _with_standard_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Optax mixes Python numbers and integer counts, which strict promotion of types refuses."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)
