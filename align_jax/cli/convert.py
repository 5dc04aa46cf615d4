"""Converts a model between the forms of `transformers` and ours, and accounts for every tensor."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from align_jax.cli.arguments import ArgumentParser
from align_jax.parallel.host_memory import return_freed_memory

EXAMPLES = """examples:
  align-jax convert kakaobrain/align-base models/align-base            from the Hub to ours
  align-jax convert models/align-base align-base-torch --to hf         and back, for transformers
  align-jax convert runs/mine/ mine --verify                           a training workdir; compared layer by layer

SOURCE holds config.json beside model.safetensors, pytorch_model.bin (either in shards too), a TensorFlow checkpoint,
params/ or checkpoints/. OUTPUT appears when everything in it is written; conversion.json in it lists every tensor with
its digest. Exit status: 0 done, 2 the source or an argument is wrong, 1 the result is not what the source was."""


def main(argv: Sequence[str]) -> int:
    """Parses, converts, and returns the exit status."""
    parser = ArgumentParser(
        "align-jax convert", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder, a weight file, or an id of the Hub such as owner/name"
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the folder to make; it must not exist")
    parser.add_argument("--to", choices=("flax", "hf"), default="flax", help="the form to write (default: %(default)s)")
    parser.add_argument("--verify", action="store_true", help="compare every layer with transformers' model in torch")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32",
        help="of the parameters; running statistics and the temperature stay float32 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    arguments = parser.parse_args(argv)

    return_freed_memory()
    from align_jax.conversion.convert import convert  # noqa: PLC0415  (heavy, after the help)

    convert(
        arguments.source, arguments.output, to=arguments.to, param_dtype=arguments.dtype, verify=arguments.verify,
        revision=arguments.revision,
    )  # fmt: skip
    return 0
