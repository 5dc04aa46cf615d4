"""The `align-jax` command: finds the subcommand, calls it, turns errors into exit statuses.

Exit status 0 is success, 2 a wrong argument or input (one line on standard error says what was wrong, the value, and
what to do), 1 a failure, 143 a training that SIGTERM stopped after it had saved its state. Nothing heavy is imported
before the subcommand is known, so `--help` answers at once.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "train": "train, or continue, the experiment of a configuration file",
    "plan": "compile the training step for hardware that need not be here: memory, traffic, fits or not",
    "convert": "convert weights to and from the form of transformers",
    "export": "write both encoders as programs that need JAX and not this package",
    "classify": "classify images by the names of classes, or by the classes of an image classifier",
    "search": "search embeddings by a text, an image, or both",
    "demo": "serve a page to search pictures and to classify them",
    "evaluate": "measure retrieval, zero-shot, kNN and linear-probe accuracy as the papers do",
    "doctor": "look for what would end or spoil a long run, before it starts",
    "data": "prepare data sets and vocabularies",
    "embed": "embed a collection of images or texts, into Parquet; continues where it was stopped",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"align-jax: unknown command {command!r}; use one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return import_module(f"align_jax.cli.{command}").main(rest)
    except (Exception, KeyboardInterrupt) as error:
        return report(f"align-jax {command}", error)


def report(program: str, error: BaseException) -> int:
    """Says on standard error, in one line, what ended a command, and returns its exit status.

    An error that no command should raise is shown with all there is to know of it.
    """
    if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, KeyboardInterrupt):
        status, text = 130, "interrupted"
    elif isinstance(exit_status := getattr(error, "exit_status", None), int):  # the error knows better than its kind
        status, text = exit_status, _one_line(error)
    elif isinstance(error, (ValueError, FileNotFoundError, NotADirectoryError, PermissionError, ModuleNotFoundError)):
        status, text = 2, _one_line(error)
    elif isinstance(error, (RuntimeError, OSError)):
        status, text = 1, f"{type(error).__name__}: {_one_line(error)}"
    else:
        status, text = 1, "".join(traceback.format_exception(error)).rstrip()
    print(f"{program}: {text}", file=sys.stderr, flush=True)
    return status


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: align-jax COMMAND [--help] …", "", "ALIGN in JAX and Flax.", "", *lines])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
