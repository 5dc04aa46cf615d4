"""Drops noisy pairs of a collection by the rules of the ALIGN paper, each counted in a table that adds up."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from align_jax.cli.arguments import ArgumentParser, add_beam

if TYPE_CHECKING:
    from align_jax.data.noise import Rule


class Number(NamedTuple):
    """The number of a rule.

    Attributes:
        option: that gives it.
        default: as it is written on the command line.
        metavar: as the help writes it.
        help: what it is.
    """

    option: str
    default: str
    metavar: str
    help: str


NEAR = "near-evaluation"
NUMBERS = {
    "short-side": Number("short-side", "200", "PX", "it is longer than this"),
    "aspect-ratio": Number("aspect-ratio", "3", "R", "it is below this"),
    "texts-per-image": Number("texts-per-image", "1000", "N", "at most"),
    NEAR: Number("cosine", "0.975", "C", "above it, images are near-duplicates"),
    "images-per-text": Number("images-per-text", "10", "N", "at most"),
    "tokens": Number("tokens", "100000000", "N", "only texts of the N most frequent unigrams and bigrams"),
    "unigrams": Number("unigrams", "3,20", "MIN,MAX", "words of a text"),
}
RULES = tuple(NUMBERS)
EXAMPLES = """examples:
  align-jax data filter --input shards --output filtered
  align-jax data filter --input photos --output filtered --rules short-side,unigrams --short-side 300
  align-jax data filter --input selected/urls --output urls --sizes width,height --image-key image_phash
  align-jax data filter --input shards --output filtered --embeddings shards-embedded --evaluation flickr30k-embedded
  align-jax data filter --input shards --output filtered --beam=--runner=FlinkRunner --beam=--flink_master=host:8081

The input is a collection of images as align-jax embed takes it: folder, list, tars, Parquet, CSV, data set. With
--sizes it is a table without images (Parquet, CSV), such as a list of URLs. A pair counts as dropped by the first rule
that it breaks, in the order of --rules. What rules must know of the whole collection is counted over all pairs that can
be read, whatever other rules say.

OUTPUT/kept/*.parquet holds the pairs that are kept, dropped/*.parquet id and reason of the others, audit.json the
counts. Of a table (--sizes), kept/ has the rows as they were, for img2dataset to download. Otherwise it has id, image,
width, height and text, and align-jax data img2dataset --keep-ids OUTPUT makes a data set of the pairs."""


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
    add("--rules", metavar="A,B", help=f"which, in this order (default: {','.join(RULES)}; {NEAR} only with "
        "--embeddings and --evaluation)")  # fmt: skip
    add_beam(parser)
    group = parser.add_argument_group("the numbers of the rules")
    for number in NUMBERS.values():
        described = f"{number.help} (default: {number.default})"
        group.add_argument(f"--{number.option}", metavar=number.metavar, help=described)
    near = parser.add_argument_group(f"what {NEAR} needs")
    add = near.add_argument
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
    if bool(arguments.embeddings) != bool(arguments.evaluation):
        parser.error("--embeddings and --evaluation belong together; give both")
    _settle_rules(parser, arguments)
    if arguments.sizes is not None:
        arguments.sizes = tuple(arguments.sizes.split(","))
        if len(arguments.sizes) != 2:
            parser.error(f"--sizes {','.join(arguments.sizes)} is not 2 columns with a comma between them")
    return arguments


def _settle_rules(parser: ArgumentParser, arguments: argparse.Namespace) -> None:
    """Finds out which rules apply, and makes their numbers of what was given."""
    wanted = None if arguments.rules is None else [name for name in arguments.rules.split(",") if name]
    if unknown := [name for name in wanted or () if name not in RULES]:
        parser.error(f"rule {unknown[0]!r} is not known; use some of {', '.join(RULES)}")
    if wanted is not None and not wanted:
        parser.error(f"--rules names no rule; use some of {', '.join(RULES)}")
    if wanted is not None and NEAR in wanted and not arguments.embeddings:
        parser.error(f"rule {NEAR} needs --embeddings and --evaluation; give both, or leave it out")
    if wanted is not None and NEAR not in wanted and arguments.embeddings:
        parser.error(f"--embeddings and --evaluation are for rule {NEAR}, which --rules does not name; add it")
    arguments.rules = wanted or [name for name in RULES if name != NEAR or arguments.embeddings]
    arguments.not_applied = [name for name in RULES if wanted is None and name not in arguments.rules]
    for rule, number in NUMBERS.items():
        given = getattr(arguments, number.option.replace("-", "_"))
        if given is not None and rule not in arguments.rules:
            parser.error(f"--{number.option} {given} is for rule {rule}, which does not apply; name it in --rules"
                         + (", and give --embeddings and --evaluation" if rule == NEAR else ""))  # fmt: skip
        setattr(
            arguments,
            number.option.replace("-", "_"),
            _number(parser, number, number.default if given is None else given),
        )


def _number(parser: ArgumentParser, number: Number, given: str) -> float | tuple[float, ...]:
    """What was given for a number; of the kind that its default is."""
    parts = given.split(",")
    count = number.default.count(",") + 1
    if len(parts) != count:
        parser.error(f"--{number.option} {given} is not {count} value{'s with a comma between them' * (count > 1)}")
    fractional = number.option in ("aspect-ratio", "cosine")
    try:
        values = tuple(float(part) if fractional else int(part) for part in parts)
    except ValueError:
        parser.error(f"--{number.option} {given} is not {'a number' if fractional else 'made of whole numbers'}")
    return values[0] if count == 1 else values


def chosen_rules(arguments: argparse.Namespace) -> "list[Rule]":
    """The rules of `--rules` with their numbers."""
    from align_jax.data import noise  # noqa: PLC0415  (heavy, after the help)

    known: dict[str, Rule] = {
        "short-side": noise.ShortSide(arguments.short_side),
        "aspect-ratio": noise.AspectRatio(arguments.aspect_ratio),
        "texts-per-image": noise.TextsPerImage(arguments.texts_per_image),
        NEAR: noise.NotNearEvaluation(arguments.cosine),
        "images-per-text": noise.ImagesPerText(arguments.images_per_text),
        "tokens": noise.FrequentTokens(arguments.tokens),
        "unigrams": noise.Unigrams(*arguments.unigrams),
    }
    return [known[name] for name in arguments.rules]


def run(arguments: argparse.Namespace) -> None:
    """Filters."""
    from rich.console import Console  # noqa: PLC0415  (heavy, after the help)

    from align_jax.data import noise  # noqa: PLC0415
    from align_jax.data.noise.output import KEPT  # noqa: PLC0415
    from align_jax.progress import progress  # noqa: PLC0415

    rules = chosen_rules(arguments)
    source, collection = noise.PairSource(
        tuple(map(str, arguments.input)), arguments.text_column, arguments.image_column, arguments.image_key,
        arguments.sizes, arguments.form,
    ).open()  # fmt: skip
    search = _near_search(arguments, collection) if NEAR in arguments.rules else None
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
    for name in arguments.not_applied:
        print(f"{name}: not applied, needs --embeddings and --evaluation")
    print(f"\n{audit.kept:,} pairs in {arguments.output / KEPT}")


def _near_search(arguments: argparse.Namespace, collection: Any) -> Any:
    from align_jax.inference.embedding.near import near_search  # noqa: PLC0415

    return near_search(arguments.embeddings, arguments.evaluation, arguments.cosine, collection.digest)
