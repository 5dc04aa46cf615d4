"""Drops noisy pairs of a collection by the rules of the ALIGN paper, each counted in a table that adds up."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align_jax.cli.arguments import ArgumentParser, add_beam

if TYPE_CHECKING:
    from align_jax.data.noise import Rule

RULES = ("short-side", "aspect-ratio", "texts-per-image", "near-evaluation", "images-per-text", "tokens", "unigrams")
EXAMPLES = """examples:
  align-jax data filter --input shards --output filtered
  align-jax data filter --input photos --output filtered --rules short-side,unigrams --short-side 300
  align-jax data filter --input selected/urls --output filtered --text-column caption --sizes width,height \\
      --image-key image_phash
  align-jax data filter --input shards --output filtered --embeddings shards-embedded --evaluation flickr30k-embedded
  align-jax data filter --input shards --output filtered --beam=--runner=FlinkRunner --beam=--flink_master=host:8081

The input is a collection of images as align-jax embed takes it: folder, list, tars, Parquet, CSV, data set. With
--sizes it is a table without images (Parquet, CSV), such as a list of URLs. A pair counts as dropped by the first rule
that it breaks, in the order of --rules. What rules must know of the whole collection is counted over all pairs that can
be read, whatever other rules say.

OUTPUT/kept-….parquet holds id, image, width, height and text of the pairs that are kept, dropped-….parquet id and
reason of the others, audit.json the counts."""


def main(argv: Sequence[str]) -> int:
    """Parses, filters, and returns the exit status."""
    run(parse(argv))
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments."""
    parser = ArgumentParser(
        "align-jax data filter", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--input", required=True, nargs="+", type=Path, metavar="PATH", help="a folder, or one or more files")
    add("--output", required=True, type=Path, metavar="DIR", help="the folder to make")
    add("--rules", default=",".join(RULES), metavar="A,B", help="which, in this order (default: all: %(default)s)")
    add_beam(parser)
    numbers = parser.add_argument_group("the numbers of the rules")
    add = numbers.add_argument
    add("--short-side", type=int, default=200, metavar="PX", help="it is longer than this (default: %(default)s)")
    add("--aspect-ratio", type=float, default=3.0, metavar="R", help="it is below this (default: %(default)s)")
    add("--texts-per-image", type=int, default=1000, metavar="N", help="at most (default: %(default)s)")
    add("--images-per-text", type=int, default=10, metavar="N", help="at most (default: %(default)s)")
    add("--tokens", type=int, default=100_000_000, metavar="N", help="only texts of the N most frequent unigrams and "
        "bigrams (default: %(default)s)")  # fmt: skip
    add("--unigrams", default="3,20", metavar="MIN,MAX", help="words of a text (default: %(default)s)")
    add("--cosine", type=float, default=0.975, help="above it, images are near-duplicates (default: %(default)s)")
    add("--embeddings", type=Path, metavar="DIR", help="the input's images, embedded by align-jax embed")
    add("--evaluation", nargs="+", type=Path, default=[], metavar="DIR", help="images to keep out, embedded likewise")
    reading = parser.add_argument_group("how the input is read")
    add = reading.add_argument
    add("--text-column", metavar="C", help="column, JSON key or feature of the text; txt is the text beside an image "
        "(default: txt, text or caption)")  # fmt: skip
    add("--image-column", metavar="C", help="column, suffix or feature of the images (default: found out)")
    add("--image-key", metavar="C", help="column that is the same for the same image (default: its bytes)")
    add("--sizes", metavar="W,H", help="columns of width and height; then there need be no images")
    add("--form", help="of the input (default: found out)")
    arguments = parser.parse_args(argv)
    arguments.rules = [name for name in arguments.rules.split(",") if name]
    if unknown := [name for name in arguments.rules if name not in RULES]:
        parser.error(f"rule {unknown[0]!r} is not known; use some of {', '.join(RULES)}")
    if bool(arguments.embeddings) != bool(arguments.evaluation):
        parser.error("--embeddings and --evaluation belong together; give both")
    if not arguments.embeddings:
        arguments.rules = [name for name in arguments.rules if name != "near-evaluation"]
    for name, count in (("unigrams", 2), ("sizes", 2)):
        given = getattr(arguments, name)
        if given is not None and len(given.split(",")) != count:
            parser.error(f"--{name} {given} is not {count} values with a comma between them")
    try:
        arguments.unigrams = tuple(int(number) for number in arguments.unigrams.split(","))
    except ValueError:
        parser.error(f"--unigrams {arguments.unigrams} are not two numbers")
    arguments.sizes = tuple(arguments.sizes.split(",")) if arguments.sizes else None
    return arguments


def chosen_rules(arguments: argparse.Namespace) -> "list[Rule]":
    """The rules of `--rules` with their numbers."""
    from align_jax.data import noise  # noqa: PLC0415  (heavy, after the help)

    known: dict[str, Rule] = {
        "short-side": noise.ShortSide(arguments.short_side),
        "aspect-ratio": noise.AspectRatio(arguments.aspect_ratio),
        "texts-per-image": noise.TextsPerImage(arguments.texts_per_image),
        "near-evaluation": noise.NotNearEvaluation(arguments.cosine),
        "images-per-text": noise.ImagesPerText(arguments.images_per_text),
        "tokens": noise.FrequentTokens(arguments.tokens),
        "unigrams": noise.Unigrams(*arguments.unigrams),
    }
    return [known[name] for name in arguments.rules]


def run(arguments: argparse.Namespace) -> None:
    """Filters."""
    from rich.console import Console  # noqa: PLC0415  (heavy, after the help)

    from align_jax.data import noise  # noqa: PLC0415
    from align_jax.progress import progress  # noqa: PLC0415

    rules = chosen_rules(arguments)
    source, collection = noise.PairSource(
        tuple(map(str, arguments.input)), arguments.text_column, arguments.image_column, arguments.image_key,
        arguments.sizes, arguments.form,
    ).open()  # fmt: skip
    search = _near_search(arguments, collection) if "near-evaluation" in arguments.rules else None
    if arguments.beam:
        from align_jax.data.noise import on_beam  # noqa: PLC0415  (an extra)

        near = None if search is None else on_beam.near_duplicates(search.parts, search.ids)
        audit = on_beam.filter_on_beam(source, rules, arguments.output, near, arguments.beam)
    else:
        near_ids = {name for part in search.parts for name in search.ids(part)} if search else frozenset()
        console = Console(stderr=True)
        with progress("reading pairs", collection.size, console, unit="pairs") as advance:
            audit = noise.filter_collection(source, rules, arguments.output, near_ids, advance)
    print(audit.table())
    print(f"\n{audit.kept:,} pairs in {arguments.output}/kept-*.parquet")


def _near_search(arguments: argparse.Namespace, collection: Any) -> Any:
    from align_jax.inference.embedding.near import near_search  # noqa: PLC0415

    return near_search(arguments.embeddings, arguments.evaluation, arguments.cosine, collection.digest)
