"""Chooses rows of COYO-700M or COYO-Labeled-300M by rules, and writes the list of URLs that img2dataset downloads."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from align_jax.cli.arguments import ArgumentParser

EXAMPLES = """examples:
  align-jax data coyo select --input coyo-700m/data --output selected --keep 'clip_similarity_vitl14 >= 0.25' \\
      'short_side >= 200' 'aspect_ratio <= 3' 'watermark_score < 0.5' 'num_tokens_bert <= 64'
  align-jax data coyo select --input coyo-labeled-300m/data --output labeled --keep 'label_probs >= 0.2'

A rule is COLUMN OPERATOR VALUE, in quotes. Operators: >= > <= < == != on numbers; == != on strings; ~ and !~ for
regular expressions (RE2) that a string contains or does not; in and not in for a file of values, one a line. Columns
are the published ones, and short_side and aspect_ratio, computed of width and height. A row counts as dropped by the
first rule that it breaks. Of the lists labels and label_probs, one element suffices.

OUTPUT/urls/part-00000.parquet … hold url, caption and the chosen columns; summary.json the counts; histograms.png the
columns of numbers of the rules, before and after (of label_probs the largest in each row). The folder appears when all
of it is written. docs/data.md goes on from it."""


def main(argv: Sequence[str]) -> int:
    """Parses, selects, and returns the exit status."""
    run(parse(argv))
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments, of which the first is "select"."""
    parser = ArgumentParser("align-jax data coyo", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=ArgumentParser)
    select = commands.add_parser(
        "select", description=__doc__, help="choose rows", epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = select.add_argument
    add("--input", required=True, nargs="+", type=Path, metavar="PATH", help="the published files, or their folder")
    add("--output", required=True, type=Path, metavar="DIR", help="the folder to make")
    add("--keep", nargs="+", default=[], action="extend", metavar="RULE", help="what rows must be like (default: any)")
    add("--columns", metavar="A,B", help="columns beside url and caption (default: id and scores, or labels)")
    add("--histograms", metavar="A,B", help="columns to draw, or none (default: those of the rules)")
    add("--label-threshold", type=float, default=0.0, metavar="P", help="labels less probable than it do not count in "
        "rules on labels")  # fmt: skip
    add("--rows-per-file", type=int, metavar="N", help="of the list (default: 5,000,000)")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:  # of which this parser would say to see its own help
        select.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Selects."""
    from rich.console import Console  # noqa: PLC0415  (heavy, after the help)

    from align_jax.data import coyo  # noqa: PLC0415
    from align_jax.data.coyo.download import download_command  # noqa: PLC0415
    from align_jax.data.coyo.selection import IMAGES, PICTURE, URLS  # noqa: PLC0415
    from align_jax.data.coyo.url_list import ROWS_PER_FILE  # noqa: PLC0415
    from align_jax.progress import progress  # noqa: PLC0415

    inputs = coyo.open_inputs(arguments.input)
    selection = coyo.Selection(
        [coyo.parse_rule(rule, inputs.release) for rule in arguments.keep],
        None if arguments.columns is None else _names(arguments.columns),
        [] if arguments.histograms == "none" else _names(arguments.histograms) if arguments.histograms else None,
        arguments.label_threshold,
        ROWS_PER_FILE if arguments.rows_per_file is None else arguments.rows_per_file,
    )
    console = Console(stderr=True)
    with progress(f"selecting from {inputs.release.name}", sum(inputs.rows), console, unit="rows") as advance:
        summary = coyo.select(inputs, selection, arguments.output, advance)
    print(summary.table())
    picture = f", {arguments.output / PICTURE}" if summary.histograms else ""
    print(f"\n{summary.kept:,} URLs in {arguments.output / URLS}{picture}. To download them, in an environment with")
    print("img2dataset (docs/data.md):\n")
    columns = selection.columns_of(inputs.release)
    print(f"{download_command(arguments.output / URLS, arguments.output / IMAGES, inputs.release, columns)}")


def _names(given: str) -> list[str]:
    return [name for name in given.split(",") if name]
