import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from align_jax.configuration import AlignConfig
from align_jax.parallel.sharding import path_name
from align_jax.training.optimizers import AdamW, Lamb, exponential_moving_average
from align_jax.training.tasks import Contrastive

PARAMS = {
    "image": {"stem": {"norm": {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.5, -0.5])}}},
    "text": {
        "layers_0": {"attention_norm": {"scale": jnp.array([1.0, 1.0]), "bias": jnp.array([0.0, 0.0])}},
        "pooler": {"kernel": jnp.ones((2, 2))},
    },
    "text_projection": {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([0.1, 0.2])},
    "temperature": jnp.float32(0.5),
}


def gradients_like(params):
    return jax.tree.map(lambda param: jnp.cos(param + 1.0), params)


def lamb_step(parameter, gradient, rate, *, included, decay=1e-5, b1=0.9, b2=0.999, eps=1e-6):
    """The first step of LAMB, from its definition, in float64."""
    parameter, gradient = (np.asarray(array, np.float64) for array in (parameter, gradient))
    first, second = (1 - b1) * gradient / (1 - b1), (1 - b2) * gradient**2 / (1 - b2)
    direction = first / (np.sqrt(second) + eps)
    if included:
        direction = direction + decay * parameter
        weight_norm, direction_norm = np.linalg.norm(parameter), np.linalg.norm(direction)
        direction = direction * (weight_norm / direction_norm if weight_norm > 0 and direction_norm > 0 else 1.0)
    return parameter - rate * direction


def test_lamb_excludes_only_batch_norm_from_decay_and_trust_ratio():
    optimizer = Lamb(peak_learning_rate=0.1, decay="constant", weight_decay=0.3).build(10)
    gradients = gradients_like(PARAMS)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    updated = optax.apply_updates(PARAMS, updates)
    flat = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(updated)}
    for path, parameter in jax.tree_util.tree_leaves_with_path(PARAMS):
        name = path_name(path)
        gradient = np.cos(np.asarray(parameter) + 1.0)
        expected = (
            parameter
            if "pooler" in name
            else lamb_step(parameter, gradient, 0.1, included=not name.startswith("image/"), decay=0.3)
        )
        np.testing.assert_allclose(flat[name], expected, rtol=1e-5, err_msg=name)


def test_lamb_excludes_every_batch_norm_of_the_model_and_nothing_else():
    variables = jax.eval_shape(Contrastive(model=AlignConfig.tiny()).init, jax.random.key(0))
    from align_jax.training.optimizers import paths_matching

    excluded = paths_matching(*Lamb().excluded)(variables["params"])
    for path, is_excluded in jax.tree_util.tree_leaves_with_path(excluded):
        name = path_name(path)
        assert is_excluded == (name.startswith("image/") and name.split("/")[-2].endswith("norm")), name


def test_pooler_without_gradient_is_left_alone():
    optimizer = Lamb(peak_learning_rate=0.1, decay="constant").build(10)
    updates, _ = optimizer.update(gradients_like(PARAMS), optimizer.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["text"]["pooler"]["kernel"], np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.5 * (1 + np.cos(np.pi / 4)), 0.5, 0.0]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_rise_over_the_warm_up_and_span_the_run(decay, expected):
    schedule = AdamW(peak_learning_rate=1.0, warmup_steps=10, decay=decay).learning_rate(50)
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 5, 10, 20, 30, 50)], expected, atol=1e-6)


def test_warm_up_longer_than_the_run_says_so():
    with pytest.raises(ValueError, match="warmup_steps 10 leaves nothing of total_steps 10"):
        AdamW(warmup_steps=10).build(10)


@pytest.mark.parametrize("optimizer", [AdamW, Lamb])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peak_learning_rate", -1e-3), ("peak_learning_rate", math.nan), ("peak_learning_rate", math.inf),
        ("final_learning_rate", -1e-3), ("warmup_steps", -1), ("weight_decay", -0.1), ("weight_decay", math.nan),
        ("clip_norm", 0.0), ("clip_norm", -1.0), ("clip_norm", math.nan), ("b1", 1.0), ("b1", -0.1), ("b2", 1.0),
        ("b2", math.nan), ("eps", -1e-8),
    ],
)  # fmt: skip
def test_numbers_outside_their_limits_are_named(optimizer, field, value):
    with pytest.raises(ValueError, match=rf"{optimizer.__name__}: {field} is {value}, but must be "):
        optimizer(**{field: value})


def test_all_numbers_outside_their_limits_are_named_together():
    with pytest.raises(ValueError, match=r"warmup_steps is -1, but .*, and b2 is 1\.0, but must be at least 0"):
        AdamW(warmup_steps=-1, b2=1.0)


def test_limits_may_be_reached():
    AdamW(peak_learning_rate=0.0, warmup_steps=0, weight_decay=0.0, clip_norm=None, b1=0.0, b2=0.0)


@pytest.mark.parametrize("optimizer", [AdamW, Lamb])
def test_frozen_pattern_without_parameter_is_refused(optimizer):
    built = optimizer(frozen=("text/pooler/", "^image/", "txet/layers")).build(10)
    with pytest.raises(
        ValueError, match=rf"{optimizer.__name__}\.frozen: no parameter's path contains 'txet/layers'; .*image/stem"
    ):
        built.init(PARAMS)


def test_excluded_pattern_without_parameter_is_refused():
    built = Lamb(excluded=("/bias$", "layernorm/", "LayerNorm/")).build(10)
    with pytest.raises(ValueError, match=r"Lamb\.excluded: no parameter's path contains 'layernorm/', 'LayerNorm/'"):
        jax.eval_shape(built.init, PARAMS)


@pytest.mark.parametrize("optimizer", [AdamW(), Lamb(), Lamb(frozen=()), Lamb(frozen=("text/pooler/", "^encoder/"))])
def test_default_patterns_may_match_nothing(optimizer):
    """A classifier of images has neither pooler nor batch norm."""
    optimizer.build(10).init({"encoder": {"kernel": jnp.ones((2, 2))}})


def test_frozen_parameters_stay_and_the_others_move():
    optimizer = AdamW(peak_learning_rate=0.1, decay="constant", frozen=("^image/", "temperature$")).build(10)
    updates, _ = optimizer.update(gradients_like(PARAMS), optimizer.init(PARAMS), PARAMS)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = path_name(path)
        assert bool(jnp.all(update == 0)) == name.startswith(("image/", "temperature")), name


def test_clip_bounds_the_gradient_before_the_moments():
    gradients = jax.tree.map(lambda param: 100.0 * jnp.ones_like(param), PARAMS)
    optimizer = AdamW(clip_norm=1.0, weight_decay=0.0, eps=1.0, decay="constant", peak_learning_rate=1.0).build(10)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    clipped = 1.0 / np.sqrt(count)
    np.testing.assert_allclose(updates["temperature"], -clipped / (clipped + 1.0), rtol=1e-5)


def test_adamw_decays_matrices_only_or_everything():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for decayed, bias_moves in (("matrices", False), ("everything", True)):
        optimizer = AdamW(peak_learning_rate=1.0, weight_decay=0.1, decay="constant", decayed=decayed).build(10)
        updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
        np.testing.assert_allclose(updates["text_projection"]["kernel"], -0.1 * PARAMS["text_projection"]["kernel"])
        assert bool(jnp.any(updates["text_projection"]["bias"] != 0)) == bias_moves


def test_average_follows_quickly_at_first():
    average, params = {"a": jnp.float32(0.0)}, {"a": jnp.float32(1.0)}
    assert float(exponential_moving_average(average, params, 0.999, jnp.int32(0))["a"]) == pytest.approx(0.9)
    later = exponential_moving_average(average, params, 0.999, jnp.int32(100_000))["a"]
    assert float(later) == pytest.approx(0.001, rel=1e-3)
