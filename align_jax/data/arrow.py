"""Apache Arrow, which reads and writes Parquet: an extra of the installation, loaded where it is needed."""

from importlib import import_module
from typing import Any


def parquet(purpose: str) -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Args:
        purpose: what they are wanted for, such as "reading photos.parquet".

    Raises:
        ModuleNotFoundError: if they are not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise ModuleNotFoundError(f"{purpose} needs `pip install align_jax[parquet]`") from error
    return pyarrow, pyarrow.parquet


def compute() -> Any:
    """The module `pyarrow.compute`, whose functions are made when it is loaded, where type checkers cannot see them."""
    parquet("computing with columns")
    return import_module("pyarrow.compute")
