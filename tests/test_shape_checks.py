"""Every annotation of `align_jax` is checked while the tests run; see `conftest.py`."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from align_jax.configuration import AlignTextConfig, ConfigurationError
from align_jax.losses import contrastive_loss
from align_jax.metrics import recall_at
from align_jax.ops.batch_norm import GroupMoments, group_moments, normalize


def test_an_array_of_another_rank_is_refused() -> None:
    with pytest.raises(TypeCheckError, match=r"parameter 'images'"):
        group_moments(jnp.zeros((4, 3, 3)), None)


def test_an_array_of_another_type_is_refused() -> None:
    with pytest.raises(TypeCheckError, match=r"parameter 'ranks'"):
        recall_at(jnp.zeros(4), 5)


def test_an_axis_that_differs_between_arguments_is_refused() -> None:
    with pytest.raises(TypeCheckError, match=r"parameter 'text'"):
        contrastive_loss(jnp.zeros((4, 8)), jnp.zeros((6, 8)), jnp.float32(1.0))


def test_an_argument_that_is_no_array_is_checked_too() -> None:
    with pytest.raises(TypeCheckError, match=r"parameter 'group_size'"):
        group_moments(jnp.zeros((4, 2, 2, 3)), "2")  # pyrefly: ignore


def test_an_integer_is_a_float() -> None:
    ones = jnp.ones(3)
    normalize(jnp.ones((2, 4, 4, 3)), GroupMoments(ones[None], ones[None]), ones, ones, 1)


def test_configurations_refuse_wrong_fields_themselves() -> None:
    with pytest.raises(ConfigurationError, match="'rotary' is not supported"):
        AlignTextConfig(position_embedding_type="rotary")  # pyrefly: ignore
