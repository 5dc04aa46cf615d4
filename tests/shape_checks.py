"""The run-time checker of annotations that `conftest.py` puts on every function of `align_jax`."""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# jaxtyping checks a copy of the function that stands outside of its class, where `Self` has no meaning. An integer may
# be passed where a float is annotated (PEP 484), as for the static checker.
_CONFIGURATION = BeartypeConf(hint_overrides=FrozenDict({Self: Any}), is_pep484_tower=True)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked, unless it is a constructor.

    jaxtyping hands over the constructors of dataclasses under this name. JAX rebuilds those that are trees with leaves
    of every kind (shapes, shardings), and configurations refuse a wrong field themselves, in better words.
    """
    if function.__name__ == "__init__":
        return function
    return beartype(conf=_CONFIGURATION)(function)
