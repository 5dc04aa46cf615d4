"""The types that models are run in."""

from typing import Literal, get_args

Dtype = Literal["float32", "bfloat16"]
"""Of parameters and computation."""


def require_dtype(dtype: str) -> None:
    """Refuses other types.

    Raises:
        ValueError: if it is another one.
    """
    if dtype not in get_args(Dtype):
        raise ValueError(f"dtype {dtype!r} is not supported; use one of {', '.join(get_args(Dtype))}")
