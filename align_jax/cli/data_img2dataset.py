"""Prepares what img2dataset has downloaded, in any of its layouts; continues where it was stopped."""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from align_jax.cli.arguments import ArgumentParser, add_beam

SOURCES = ("img2dataset", "coyo700m", "coyo-labeled300m")
LAYOUTS = ("webdataset", "tfrecord", "parquet", "files")
IDENTITIES = ("key", "url", "sha256", "pair")
EXAMPLES = """examples:
  align-jax data img2dataset --input coyo/images --source coyo700m
  align-jax data img2dataset --input cc3m/images --name cc3m --columns url width height
  align-jax data img2dataset --input coyo/images --source coyo700m --keep-ids filtered
  align-jax data img2dataset --input /shared/images --data-dir /shared/data --beam=--runner=FlinkRunner \\
      --beam=--flink_master=host:8081

DATA_DIR/NAME/1.0.0 holds the records, audit.json (rows in, kept, left out by reason, missing shards) and
left_out.jsonl. On Beam all workers must see the folders of input and output under the same paths."""


def main(argv: Sequence[str]) -> int:
    """Parses, prepares, and returns the exit status."""
    run(parse(argv))
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments."""
    parser = ArgumentParser(
        "align-jax data img2dataset", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--input", required=True, type=Path, metavar="DIR", help="the output_folder of img2dataset")
    add("--name", help="of the data set that is made (default: that of the source)")
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="the folder that data sets lie in (default: "
        "%(default)s)")  # fmt: skip
    add("--source", choices=SOURCES, default=SOURCES[0], help="img2dataset for any list of URLs; coyo700m and "
        "coyo-labeled300m know the columns of COYO")  # fmt: skip
    add("--layout", choices=LAYOUTS, help="of the shards (default: found out)")
    add("--columns", nargs="*", default=[], metavar="C", help="of the tables, to be kept beside image and text")
    add("--unique", nargs="*", choices=IDENTITIES, default=["key", "pair"], help="what no two records may share: their "
        "key, URL, image (sha256), or image and text (pair) (default: key pair)")  # fmt: skip
    add("--keep-ids", type=Path, metavar="DIR", help="only pairs that align-jax data filter has kept of this "
        "input: its --output")  # fmt: skip
    add("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    add_beam(parser)
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        parser.error(f"--workers {arguments.workers} is not positive; 1 works without further processes")
    if arguments.workers is not None and arguments.beam:
        parser.error("--workers are processes of this machine, and --beam has workers of its own; leave one out")
    if arguments.beam:  # workers have other current folders
        arguments.input, arguments.data_dir = arguments.input.absolute(), arguments.data_dir.absolute()
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Prepares the data set."""
    from rich.console import Console  # noqa: PLC0415  (heavy, after the help)

    from align_jax.cli.prepared import already_prepared, summary  # noqa: PLC0415
    from align_jax.cores import usable_cores  # noqa: PLC0415
    from align_jax.data.builders import img2dataset as builders  # noqa: PLC0415
    from align_jax.progress import progress  # noqa: PLC0415

    source = builders.Input(
        arguments.input, arguments.layout, tuple(arguments.columns), tuple(arguments.unique), arguments.keep_ids
    )
    builder = builders.BUILDERS[arguments.source](source, arguments.data_dir, arguments.name)
    builder.require_same_origin()
    if not already_prepared(builder):
        calls = None
        if arguments.beam:
            from align_jax.data.img2dataset.on_beam import on_beam  # noqa: PLC0415  (an extra)

            calls = on_beam(arguments.beam, builder.work_folder)
        shown = functools.partial(progress, console=Console(stderr=True), unit="shards")
        print(builder.prepare(arguments.workers or usable_cores(), shown, calls))
        print(f"{summary(builder)}; see {builders.AUDIT_FILE} and {builders.LEFT_OUT_FILE} there")
    builder.remove_work_folder()
