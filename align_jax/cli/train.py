"""`align-jax train`: a configuration file, a workdir, and any field of the experiment as a flag."""

import argparse
import ast
import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NoReturn

from align_jax.cli import report
from align_jax.cli.arguments import ArgumentParser
from align_jax.parallel.host_memory import keep_freed_memory

EXAMPLE = """example:
  align-jax train --config configs/openmoji.py:batch_size=64 --workdir runs/try --optimizer.peak-learning-rate 3e-3

What follows the colon are arguments of the file's get_config; `debug` is in every configuration. With --config and
--help together, every field of the experiment is listed. The same command continues a run that was stopped."""


def run_parser(program: str, description: str | None, epilog: str) -> ArgumentParser:
    """A parser of what says where a run is and who takes part in it."""
    parser = ArgumentParser(
        program, description=description, epilog=epilog, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE[:ARG,ARG=VALUE]", help="configuration file, with its arguments")
    parser.add_argument("--workdir", metavar="DIR", help="folder of the run: checkpoints, metrics, report")
    parser.add_argument(
        "--checkpoints", metavar="DIR", help="folder of the checkpoints, also gs://…, if not in --workdir"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="stop after N steps in all; the schedule stays as it is")
    parser.add_argument("--profile", metavar="A:B", help="record steps A to B with the profiler, into DIR/profile")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 runs, on hosts without a cluster")
    parser.add_argument("--processes", type=int, metavar="N", help="processes of the run; 1 starts one by itself")
    parser.add_argument("--process-id", type=int, metavar="I", help="which of them this is, from 0")
    parser.add_argument(
        "--start-timeout", type=float, default=300.0, metavar="SECONDS", help="wait so long for the other processes"
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this text; with --config, every field as well")
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses, trains, and returns the exit status."""
    parser = run_parser("align-jax train", __doc__, EXAMPLE)
    known, overrides = parser.parse_known_args(argv)
    if known.config is None and known.help:
        parser.print_help()
        return 0
    if known.config is None or (known.workdir is None and not known.help):
        parser.error("--config FILE and --workdir DIR are needed; see --help")
    if known.steps is not None and known.steps < 1:
        parser.error(f"--steps {known.steps} is not positive; use 1 or more")
    # Before the configuration imports JAX.
    keep_freed_memory()
    experiment = override(load_config(known.config), [*overrides, *(["--help"] if known.help else [])])

    from align_jax.data.stall import DataStalledError  # noqa: PLC0415  (after the help, which needs no model)
    from align_jax.parallel import distributed  # noqa: PLC0415
    from align_jax.training.interruption import InterruptedRunError  # noqa: PLC0415
    from align_jax.training.loop import train  # noqa: PLC0415
    from align_jax.training.profiling import Steps  # noqa: PLC0415

    profile = Steps.parse(known.profile) if known.profile else None
    others = distributed.start(known.coordinator, known.processes, known.process_id, known.start_timeout)
    try:
        train(
            experiment, Path(known.workdir), stop_at=known.steps, profile=profile, checkpoint_folder=known.checkpoints
        )
        distributed.finish()
    except InterruptedRunError as error:  # in all processes, at the same step
        distributed.finish()
        _exit(report("align-jax train", error))
    except BaseException as error:
        if others is None and not isinstance(error, DataStalledError):
            raise
        program = f"align-jax train{f' (process {others.process_id})' if others else ''}"
        status = report(program, distributed.cause(error))
        distributed.fail(error)
        _exit(status)
    return 0


def _exit(status: int) -> NoReturn:
    """Ends the process at once; the interpreter's own end would wait for other processes, and for readers that hang."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def load_config(reference: str) -> Any:
    """Calls `get_config` of `file.py[:name,name=value]`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no `get_config`, or that does not take an argument or its value.
    """
    path_text, _, arguments = reference.partition(":")
    path = Path(path_text)
    if not path.is_file():
        raise FileNotFoundError(f"configuration file {path_text!r} does not exist; the released ones are in configs/")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"configuration file {path_text!r} is not a Python file; it must end in .py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"configuration file {path_text!r} defines no get_config; see configs/openmoji.py")
    return module.get_config(**_config_arguments(module.get_config, arguments, path_text))


def _config_arguments(get_config: Callable[..., Any], text: str, path: str) -> dict[str, Any]:
    parameters = inspect.signature(get_config).parameters
    values: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if name not in parameters:
            raise ValueError(f"{path} takes no argument {name!r}; it takes {', '.join(parameters)}")
        default = parameters[name].default
        try:
            parsed = ast.literal_eval(value) if equals else True
        except (ValueError, SyntaxError):
            parsed = value
        if isinstance(default, float) and isinstance(parsed, int) and not isinstance(parsed, bool):
            parsed = float(parsed)
        if default is not None and default is not inspect.Parameter.empty and type(parsed) is not type(default):
            raise ValueError(f"{path}: {name}={value!r} is not of type {type(default).__name__}")
        values[name] = parsed
    return values


def override(
    experiment: Any, arguments: Sequence[str], prog: str = "align-jax train --config FILE --workdir DIR"
) -> Any:
    """The experiment with the fields that are given as flags, such as `--optimizer.peak-learning-rate 3e-3`."""
    import tyro  # noqa: PLC0415  (a quarter of a second that plain help need not wait for)

    return tyro.cli(
        type(experiment),
        default=experiment,
        args=list(arguments),
        prog=prog,
        config=(tyro.conf.AvoidSubcommands,),
    )
