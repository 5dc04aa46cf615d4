"""Writes both encoders of a model as programs for CPU, GPU and TPU that need JAX and not this package."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from align_jax.cli.arguments import ArgumentParser
from align_jax.inference.platforms import PLATFORMS

EXAMPLES = """examples:
  align-jax export kakaobrain/align-base exported
  align-jax export runs/mine exported --platforms tpu --dtype bfloat16

OUTPUT gets a program and the parameters of each encoder, the files of the tokenizer and of the image processor,
export.json with shapes and types, and README.md with the ten lines that load and run them.
Exit status: 0 done, 2 the model or an argument is wrong."""


def main(argv: Sequence[str]) -> int:
    """Parses, exports, and returns the exit status."""
    parser = ArgumentParser(
        "align-jax export", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="a folder, a workdir, or an id of the Hub such as owner/name")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the folder to make; it must not exist")
    parser.add_argument(
        "--platforms",
        metavar="A,B",
        default=",".join(PLATFORMS),
        help="that the programs run on (default: %(default)s)",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    parser.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="of a workdir, averaged or last (default: %(default)s)"
    )
    parser.add_argument("--text-length", metavar="N", type=int, help="tokens per text (default: the model's)")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    arguments = parser.parse_args(argv)

    from align_jax.inference.export import export_model  # noqa: PLC0415  (heavy, after the help)

    export_model(
        arguments.model, arguments.output, platforms=[each.strip() for each in arguments.platforms.split(",")],
        dtype=arguments.dtype, weights=arguments.weights, text_length=arguments.text_length,
        revision=arguments.revision,
    )  # fmt: skip
    return 0
