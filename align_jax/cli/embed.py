"""`align-jax embed`: embeddings of a collection of images or texts, in Parquet; continues where it was stopped."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from align_jax.cli import report
from align_jax.cli.arguments import ArgumentParser

EXAMPLES = """examples:
  align-jax embed --model runs/quickstart --input data/openmoji --output embeddings/openmoji
  align-jax embed --model kakaobrain/align-base --input shards/*.tar --output embeddings/web --columns url,txt
  align-jax embed --model runs/mine --input captions.csv --texts --output embeddings/captions

The input is a folder of images, a .txt list of image paths, tars of webdataset or img2dataset, Parquet files with a
column of encoded images (one of them, several, or a folder of them), or a data set that align-jax data has prepared.
With --texts: a .txt file with a text in each line, a .csv or .tsv file, Parquet, tars, a folder of .txt files, or a
data set, whose main captions count.

OUTPUT/part-00000.parquet … hold id, embedding (float32, of unit length) and the columns that are carried along, in the
order of the input; embeddings.json says how they were made; refused.jsonl lists what could not be embedded, and why.
The same command continues a run that was stopped, however it was, and ends with the same files. An input that has
changed since is refused, but images are known by names and sizes: after rewriting some, embed into a new folder."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments."""
    parser = ArgumentParser(
        "align-jax embed", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="a model folder, the workdir of a training, or an id of the Hub")
    add("--input", required=True, nargs="+", type=Path, metavar="PATH", help="a folder, or one or more files")
    add("--output", required=True, type=Path, metavar="DIR", help="the folder to fill; a new one, or one to continue")
    add("--texts", action="store_true", help="the input is texts, not images")
    add("--batch-size", type=int, default=32, metavar="N", help="inputs computed at once (default: %(default)s)")
    add("--columns", default="", metavar="A,B", help="values of each input to carry along")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation (default: %(default)s)")
    add("--weights", choices=("ema", "raw"), default="ema", help="of a workdir (default: %(default)s)")
    add("--shard-size", type=int, metavar="N", help="inputs in each Parquet file (default: 16384)")
    add("--text-length", type=int, metavar="N", help="most tokens of a text (default: the model's)")
    add("--revision", help="branch, tag or commit of a model on the Hub")
    reading = parser.add_argument_group("how the input is read")
    add = reading.add_argument
    add("--form", help="folder, files, list, lines, csv, tar, parquet or array_record (default: found out)")
    add("--image-column", metavar="C", help="column of the images, their suffix in tars, or feature of a data set")
    add("--text-column", metavar="C", help="the same of the texts")
    add("--id-column", metavar="C", help="column of CSV or Parquet that holds ids (default: key, or the row's number)")
    add("--split", help="of a data set, such as train (default: all of them)")
    add("--root", type=Path, metavar="DIR", help="what the paths of a list are relative to (default: its folder)")
    together = parser.add_argument_group("several processes, each of which takes its share")
    add = together.add_argument
    add("--coordinator", metavar="HOST:PORT", help="where process 0 runs, on hosts without a cluster")
    add("--processes", type=int, metavar="N", help="how many there are; 1 starts one by itself")
    add("--process-id", type=int, metavar="I", help="which of them this is, from 0")
    add("--start-timeout", type=float, default=300.0, metavar="SECONDS", help="wait so long for the other processes")
    arguments = parser.parse_args(argv)
    arguments.columns = [name for name in arguments.columns.split(",") if name]
    for name in ("batch_size", "shard_size", "text_length"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value} is not positive; use 1 or more")
    if arguments.image_column and arguments.texts:
        parser.error("--image-column is of images; with --texts use --text-column")
    if arguments.text_column and not arguments.texts:
        parser.error("--text-column is of texts; use --image-column, or add --texts")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Parses, embeds, and returns the exit status."""
    arguments = parse(argv)

    from align_jax.parallel import distributed  # noqa: PLC0415  (heavy, after the help)

    others = distributed.start(
        arguments.coordinator, arguments.processes, arguments.process_id, arguments.start_timeout
    )
    try:
        _embed(arguments)
        distributed.finish()
    except BaseException as error:
        if others is None:
            raise
        status = report(f"align-jax embed (process {others.process_id})", distributed.cause(error))
        distributed.fail(error)
        _exit(status)
    return 0


def _embed(arguments: argparse.Namespace) -> None:
    import jax  # noqa: PLC0415  (heavy, after the help)
    from rich.console import Console  # noqa: PLC0415

    from align_jax.inference.embedder import Embedder  # noqa: PLC0415
    from align_jax.inference.embedding.run import SHARD_SIZE, EmbeddingRun  # noqa: PLC0415
    from align_jax.parallel import distributed  # noqa: PLC0415
    from align_jax.parallel.mesh import MeshShape  # noqa: PLC0415
    from align_jax.progress import progress  # noqa: PLC0415

    process, processes = jax.process_index(), jax.process_count()
    content = "texts" if arguments.texts else "images"
    if process:  # what process 0 finds out about the input is not found out again
        distributed.barrier("the folder is ready")
    collection = _open(arguments)
    embedder = Embedder.from_pretrained(
        arguments.model, batch_size=arguments.batch_size, dtype=arguments.dtype, weights=arguments.weights,
        mesh=MeshShape().build(jax.local_devices()), text_length=arguments.text_length, revision=arguments.revision,
    )  # fmt: skip
    run = EmbeddingRun(
        embedder, collection, arguments.output, content=content,
        source=[str(path.absolute()) for path in arguments.input], model_source=str(arguments.model),
        shard_size=arguments.shard_size or SHARD_SIZE,
    )  # fmt: skip
    console = Console(stderr=True)
    with contextlib.closing(run):
        parts = run.claim(process, processes)
        if not process:
            distributed.barrier("the folder is ready")
        total = sum(len(run.slice(index)) for index in run.share(process, processes))
        inputs = sum(len(run.slice(index)) for index in parts)
        title = f"embedding {content}" + (f", process {process}" if processes > 1 else "")
        begun = time.monotonic()
        with progress(title, total, console, done=total - inputs, unit=content) as advance:
            run.embed(parts, advance)
        seconds = time.monotonic() - begun
        distributed.barrier("all parts are made")
        if not process:
            speed = f" {inputs:,} of them now, {inputs / max(seconds, 1e-9):,.1f} {content}/s." if inputs else ""
            _report_end(run.finish(), arguments.output, content, speed if processes == 1 else "")


def _open(arguments: argparse.Namespace) -> Any:
    from align_jax.data.collections import Options, open_images, open_texts  # noqa: PLC0415  (heavy, after the help)
    from align_jax.inference.embedding.identity import known_files  # noqa: PLC0415

    options = Options(
        columns=arguments.columns, form=arguments.form, column=arguments.image_column or arguments.text_column,
        id_column=arguments.id_column, split=arguments.split, root=arguments.root,
    )  # fmt: skip
    source = arguments.input[0] if len(arguments.input) == 1 else arguments.input
    return (open_texts if arguments.texts else open_images)(source, options, known_files(arguments.output))


def _report_end(summary: Any, output: Path, content: str, speed: str) -> None:
    refused = sum(summary.refused.values())
    print(f"{output}: {summary.embedded:,} of {summary.embedded + refused:,} {content} embedded;", end=" ")
    print(f"{refused:,} refused{f', listed in refused.jsonl: {summary.reasons()}' if refused else ''}.{speed}")
    if summary.repeated_ids:
        print(f"{summary.repeated_ids:,} rows have the id of an earlier row: the input gives several the same")
    if not summary.embedded:
        raise ValueError(f"none of {refused:,} {content} could be embedded; see {output / 'refused.jsonl'}")


def _exit(status: int) -> NoReturn:
    """Ends the process at once; the interpreter's own end would wait for the other processes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)
