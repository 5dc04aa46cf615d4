"""`align-jax data`: prepares data sets and vocabularies."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from align_jax.cli.prepared import already_prepared, summary

COMMANDS = {
    "img2dataset": "align_jax.cli.data_img2dataset", "coyo": "align_jax.cli.data_coyo",
    "filter": "align_jax.cli.data_filter",
}  # fmt: skip
"""Commands with a file, and a parser, of their own."""


def main(argv: Sequence[str]) -> int:
    """Parses, prepares, and returns the exit status."""
    if argv and argv[0] in COMMANDS:
        return import_module(COMMANDS[argv[0]]).main(argv[1:])

    import tyro  # noqa: PLC0415  (the list of commands needs no parser)

    prepare = {"openmoji": openmoji, "openmoji-groups": openmoji_groups, "folder": folder, "img2dataset": img2dataset}
    tyro.extras.subcommand_cli_from_dict(
        prepare | {"vocabulary": vocabulary, "coyo": coyo, "filter": noise_filter},
        args=list(argv),
        prog="align-jax data",
        description=__doc__,
    )
    return 0


def openmoji(data_dir: Path = Path("data"), size_px: int = 72) -> None:
    """Prepares the 3,953 OpenMoji pairs, from packages that are installed; nothing is downloaded.

    Args:
        data_dir: the folder that data sets lie in.
        size_px: both sides of the rendered images.
    """
    from align_jax.data.builders.openmoji import openmoji_builder  # noqa: PLC0415  (heavy, after the help)

    builder = openmoji_builder(data_dir, size_px)
    if not already_prepared(builder):
        builder.download_and_prepare()
        print(summary(builder))


def openmoji_groups(data_dir: Path = Path("data"), size_px: int = 72) -> None:
    """Prepares the OpenMoji pictures with their Unicode groups as labels, for classification.

    Args:
        data_dir: the folder that data sets lie in.
        size_px: both sides of the rendered images.
    """
    from align_jax.data.builders.openmoji_groups import openmoji_groups_builder  # noqa: PLC0415  (heavy, after the help)

    builder = openmoji_groups_builder(data_dir, size_px)
    if not already_prepared(builder):
        builder.download_and_prepare()
        print(summary(builder))


def folder(
    input: Path,
    name: str,
    data_dir: Path = Path("data"),
    image_root: Path | None = None,
    image_column: str = "image",
    caption_column: str = "caption",
) -> None:
    """Prepares images with captions: a folder with a .txt file beside each image, or a list of image paths.

    Args:
        input: a folder, or a .csv, .tsv, .jsonl, .parquet or .txt list.
        name: of the data set that is made; lower-case letters, digits and _.
        data_dir: the folder that data sets lie in.
        image_root: what the paths of a list are relative to; the folder of the list where it is not given.
        image_column: the list's column of image paths.
        caption_column: the list's column of captions.
    """
    from align_jax.data.builders import captioned_images  # noqa: PLC0415  (heavy, after the help)
    from align_jax.data.captions import find_captioned_files  # noqa: PLC0415

    files = find_captioned_files(input, image_root, image_column, caption_column)
    builder = captioned_images.CaptionedImages(name, files, data_dir)
    if not already_prepared(builder):
        captioned_images.prepare(builder)
        left_out = captioned_images.skipped_by_reason(builder.skipped)
        print(f"{summary(builder)}; {left_out}; see {captioned_images.SKIPPED_FILE} there")


def vocabulary(data: str, output: Path, data_dir: Path = Path("data"), split: str = "train", size: int = 8192) -> None:
    """Trains a WordPiece vocabulary on all captions of a prepared data set.

    Args:
        data: name of the data set.
        output: the folder for tokenizer.json, vocab.txt, tokenizer_config.json, and vocabulary.json, which says what
            they were made from. The same command finds its work done; another one needs another folder.
        data_dir: the folder that data sets lie in.
        split: whose captions are read; held-out captions have no place in a vocabulary.
        size: the most tokens.
    """
    from align_jax.data.records import PairDataset  # noqa: PLC0415  (heavy, after the help)
    from align_jax.data.vocabulary import VocabularyOrigin, is_prepared, prepare  # noqa: PLC0415

    source = PairDataset(data, split, str(data_dir)).open()
    origin = VocabularyOrigin(data, split, size, len(source))
    if is_prepared(origin, output):
        print(f"{output} holds this vocabulary already; remove the folder to train it again")
    else:
        print(f"{prepare(origin, source, output)} tokens in {output}, from {origin.records} records")


def img2dataset() -> None:
    """Prepares what img2dataset has downloaded: `align-jax data img2dataset --help`."""


def coyo() -> None:
    """Chooses rows of COYO-700M or COYO-Labeled-300M: `align-jax data coyo select --help`."""


def noise_filter() -> None:
    """Drops noisy pairs by the rules of the ALIGN paper: `align-jax data filter --help`."""
