"""New models have random weights, of the right distributions and the same again for the same seed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import AlignConfig, AlignModel, AlignTextConfig, AlignVisionConfig
from align_jax.inference.initialization import random_variables
from align_jax.models.align import Align


def test_seeds_decide_random_weights() -> None:
    first, same, other = (
        AlignModel(AlignConfig.tiny(), seed=seed).params["text"]["embeddings"]["word"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first["embedding"], same["embedding"])
    assert not np.array_equal(first["embedding"], other["embedding"])
    assert not np.any(first["embedding"][AlignTextConfig.tiny().pad_token_id])


def test_random_weights_have_the_distributions_of_the_modules() -> None:
    vision = AlignVisionConfig.tiny(
        kernel_sizes=(3,), in_channels=(32,), out_channels=(32,), strides=(1,), num_block_repeats=(1,),
        expand_ratios=(4,),
    )  # fmt: skip
    text = AlignTextConfig.tiny(num_hidden_layers=1)
    config = AlignConfig.of_towers(vision, text, projection_dim=64, temperature_init_value=0.5)
    init = jax.jit(Align(config).init)
    expected = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.ones((1, 2), jnp.int32))

    def compare(path: Any, *arrays: jax.Array) -> None:
        where, (ours, theirs) = jax.tree_util.keystr(path), map(np.asarray, arrays)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
        if theirs.std() == 0.0:
            np.testing.assert_array_equal(ours, theirs, err_msg=where)
            return
        assert ours.std() == pytest.approx(theirs.std(), rel=6.0 / theirs.size**0.5), where
        assert abs(ours.mean()) <= 6.0 * theirs.std() / theirs.size**0.5, where
        assert abs(ours).max() <= 1.5 * abs(theirs).max(), where

    jax.tree_util.tree_map_with_path(compare, random_variables(config, 0), expected)
