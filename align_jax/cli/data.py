"""`align-jax data`: prepares data sets and vocabularies."""

import functools
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from absl import logging

from align_jax.cores import usable_cores

COMMANDS = {"coyo": "align_jax.cli.data_coyo", "filter": "align_jax.cli.data_filter"}
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
    if not _already_prepared(builder):
        builder.download_and_prepare()
        print(_summary(builder))


def openmoji_groups(data_dir: Path = Path("data"), size_px: int = 72) -> None:
    """Prepares the OpenMoji pictures with their Unicode groups as labels, for classification.

    Args:
        data_dir: the folder that data sets lie in.
        size_px: both sides of the rendered images.
    """
    from align_jax.data.builders.openmoji_groups import openmoji_groups_builder  # noqa: PLC0415  (heavy, after the help)

    builder = openmoji_groups_builder(data_dir, size_px)
    if not _already_prepared(builder):
        builder.download_and_prepare()
        print(_summary(builder))


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
    if not _already_prepared(builder):
        captioned_images.prepare(builder)
        left_out = captioned_images.skipped_by_reason(builder.skipped)
        print(f"{_summary(builder)}; {left_out}; see {captioned_images.SKIPPED_FILE} there")


def img2dataset(
    input: Path,
    name: str | None = None,
    data_dir: Path = Path("data"),
    source: Literal["img2dataset", "coyo700m", "coyo-labeled300m"] = "img2dataset",
    layout: Literal["webdataset", "tfrecord", "parquet", "files"] | None = None,
    columns: tuple[str, ...] = (),
    unique: tuple[Literal["key", "url", "sha256", "pair"], ...] = ("key", "pair"),
    workers: int | None = None,
) -> None:
    """Prepares what img2dataset has downloaded, in any of its layouts; continues where it was stopped.

    Args:
        input: the output_folder of img2dataset.
        name: of the data set that is made; that of the source where it is not given.
        data_dir: the folder that data sets lie in.
        source: img2dataset for any list of URLs; coyo700m and coyo-labeled300m know the columns of COYO.
        layout: of the shards; found out where it is not given.
        columns: of the tables, to be kept beside image and text.
        unique: what no two records may share: their key, URL, image (sha256), or image and text (pair).
        workers: processes; one for each core where it is not given.
    """
    from rich.console import Console  # noqa: PLC0415

    from align_jax.data.builders import img2dataset as builders  # noqa: PLC0415  (heavy, after the help)
    from align_jax.progress import progress  # noqa: PLC0415

    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers} is not positive; 1 works without further processes")
    builder = builders.BUILDERS[source](builders.Input(input, layout, columns, unique), data_dir, name)
    if not _already_prepared(builder):
        shown = functools.partial(progress, console=Console(stderr=True), unit="shards")
        print(builder.prepare(workers or usable_cores(), shown))
        print(f"{_summary(builder)}; see {builders.AUDIT_FILE} and {builders.LEFT_OUT_FILE} there")
    builder.remove_work_folder()


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


def coyo() -> None:
    """Chooses rows of COYO-700M or COYO-Labeled-300M: `align-jax data coyo select --help`."""


def noise_filter() -> None:
    """Drops noisy pairs by the rules of the ALIGN paper: `align-jax data filter --help`."""


def _already_prepared(builder: Any) -> bool:
    logging.set_verbosity(logging.ERROR)  # TFDS warns about folders that it is about to fill
    prepared = builder.is_prepared()
    if prepared:
        print(f"{_summary(builder)}; it was there already, remove the folder to prepare it again")
    return prepared


def _summary(builder: Any) -> str:
    examples = "pairs" if "labels" not in builder.info.features else "labelled images"
    splits = ", ".join(f"{split.num_examples} {examples} in {name}" for name, split in builder.info.splits.items())
    return f"{builder.data_dir}: {splits}"
