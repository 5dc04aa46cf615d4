"""Apache Beam, which spreads work over a cluster: an extra of the installation; importing this file needs it."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

try:
    beam: Any = import_module("apache_beam")
    _options: Any = import_module("apache_beam.options.pipeline_options")
except ImportError as error:
    raise ModuleNotFoundError("Apache Beam is needed for this; it comes with `pip install align_jax[beam]`") from error


def new_pipeline(options: Sequence[str]) -> Any:
    """An empty pipeline, which runs at the end of a `with` block.

    Args:
        options: of Beam, such as `--runner=FlinkRunner`.

    Raises:
        ValueError: if there is no such runner, or an option has a value of another kind.
    """
    parsed = _options.PipelineOptions(list(options))
    parsed.get_all_options(add_extra_args_fn=_raise_errors)
    return beam.Pipeline(options=parsed)


def _raise_errors(parser: Any) -> None:
    """Beam would print all its options, and end the process."""

    def error(message: str) -> NoReturn:
        raise ValueError(f"Apache Beam does not take these options: {message}")

    parser.error = error
