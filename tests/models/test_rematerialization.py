"""Rematerialisation changes memory and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, ConfigurationError
from align_jax.models.align import Align, rematerializable_parts
from align_jax.models.bert import Bert
from align_jax.models.efficientnet import EfficientNet
from align_jax.training.tasks import Contrastive

# Drop-connect and dropout are on: a second computation with other random numbers would give another gradient.
CONFIG = AlignConfig.of_towers(
    AlignVisionConfig.tiny(image_size=8, drop_connect_rate=0.5),
    AlignTextConfig.tiny(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3),
    projection_dim=32,
)
PARTS = ("image/stem", "image/stage_1", "image/stage_2", "image/stage_3", "text/layers")
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 3)).astype(np.float32)
QUICK = {"xla_backend_optimization_level": 0}  # to compile; each program runs once
TEXTS = np.random.default_rng(1).integers(1, 99, (8, 4)).astype(np.int32)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(Align(CONFIG).init, compiler_options=QUICK)(jax.random.key(0), IMAGES, TEXTS)


def gradient_program(parts: tuple[str, ...]):
    """The gradient of a function that every output and parameter takes part in, and the moved statistics."""
    model = Align(CONFIG, batch_norm_group_size=4, rematerialize=parts)

    def loss(params, batch_stats):
        embeddings, moved = model.apply(
            {"params": params, "batch_stats": batch_stats},
            IMAGES,
            TEXTS,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        cosines = embeddings.image @ embeddings.text.T / embeddings.temperature
        return jnp.sum(jnp.square(cosines - jnp.eye(8))), moved

    return jax.value_and_grad(loss, has_aux=True)


def test_names_of_the_parts():
    assert rematerializable_parts(CONFIG) == PARTS
    assert rematerializable_parts(AlignConfig.b7_base())[-2:] == ("image/stage_7", "text/layers")


def test_value_gradient_statistics_and_paths_stay_the_same(variables):
    plain, rematerialized = (
        jax.jit(gradient_program(parts), compiler_options=QUICK)(variables["params"], variables["batch_stats"])
        for parts in ((), PARTS)
    )
    assert jax.tree.structure(plain) == jax.tree.structure(rematerialized)
    for expected, actual in zip(jax.tree.leaves(plain), jax.tree.leaves(rematerialized), strict=True):
        # Round-off, since two programs add in different orders; other random numbers would move the first digit.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.max(np.abs(expected)) + 1e-6)


def test_initial_variables_stay_the_same(variables):
    init = jax.jit(Align(CONFIG, rematerialize=PARTS).init, compiler_options=QUICK)
    rematerialized = init(jax.random.key(0), IMAGES, TEXTS)
    jax.tree.map(np.testing.assert_array_equal, variables, rematerialized)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_computes_something_twice(part, variables):
    arguments = variables["params"], variables["batch_stats"]
    count = [str(jax.make_jaxpr(gradient_program(parts))(*arguments)).count(" remat") for parts in ((), (part,))]
    assert count[0] == 0
    blocks = {"image/stem": 1, "image/stage_1": 1, "image/stage_2": 1, "image/stage_3": 2, "text/layers": 2}
    assert count[1] == blocks[part]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Contrastive(model=CONFIG, rematerialize=("image/stage_4",)),
        lambda: Align(CONFIG, rematerialize=("image/stage_4",)).init(jax.random.key(0), IMAGES, TEXTS),
        lambda: EfficientNet(CONFIG.vision_config, rematerialize=("image/stage_4",)).init(jax.random.key(0), IMAGES),
        lambda: Bert(CONFIG.text_config, rematerialize=("image/stage_4",)).init(jax.random.key(0), TEXTS),
    ],
    ids=["task", "align", "efficientnet", "bert"],
)
def test_an_unknown_part_is_refused_with_the_known_ones(build):
    with pytest.raises(ConfigurationError, match=r"'image/stage_4'.*(stage_3|layers)"):
        build()
