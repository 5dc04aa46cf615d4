"""Searches an index of embeddings by a text, an image, or both."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from align_jax.cli.arguments import ArgumentParser
from align_jax.cli.default_model import default_model

if TYPE_CHECKING:
    from align_jax.inference.embedder import Embedder
    from align_jax.inference.embedding.folder import EmbeddingFolder

EXAMPLES = """examples:
  align-jax search --index embeddings/openmoji "red apple"
  align-jax search --index embeddings/photos --model kakaobrain/align-base --image street.jpg "at night" --minus "cars"

DIR is an output of align-jax embed, made with the same model. The query is the sum of the text's embedding times 2 and
the image's times 1, less that of --minus times 2. Scores are cosines. Exit status: 0 done, 2 an argument, the model or
the index is wrong."""


def main(argv: Sequence[str]) -> int:
    """Parses, searches, and returns the exit status."""
    arguments = _parser().parse_args(argv)
    arguments.text, arguments.minus = _said(arguments.text), _said(arguments.minus)
    if arguments.text is None and arguments.image is None:
        raise ValueError("there is nothing to search for; give a text, or --image FILE, or both")
    for name, weight in (("--text-weight", arguments.text_weight), ("--image-weight", arguments.image_weight)):
        if not 0 < weight < math.inf:
            raise ValueError(f"{name} {weight:g} is not positive and finite; leave out what shall not count")
    if arguments.top_k < 1:
        raise ValueError(f"--top-k {arguments.top_k} is not positive; use 1 or more")
    if arguments.image is not None and not arguments.image.is_file():
        raise FileNotFoundError(f"--image {arguments.image} is not a file")
    model = default_model(arguments.model)

    from align_jax.inference.embedding.folder import read_embeddings  # noqa: PLC0415  (heavy, after the help)

    folder = read_embeddings(arguments.index)
    query = _query(arguments, _embedder(model, folder, arguments))
    scores, positions = _search(folder.embeddings, query, arguments.top_k, arguments.method)
    _show(folder, scores, positions, as_json=arguments.json)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "align-jax search", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("text", metavar="TEXT", nargs="?", help="what to search for, in words")
    add("--index", metavar="DIR", type=Path, required=True, help="embeddings that align-jax embed wrote")
    add("--model", help="a folder, a workdir, or an id of the Hub (default: runs/quickstart, where there is one)")
    add("--image", metavar="FILE", type=Path, help="an image that the results resemble")
    add("--minus", metavar="TEXT", help="what the results have less of, in words")
    add("--text-weight", metavar="W", type=float, default=2.0, help="of the texts (default: %(default)s)")
    add("--image-weight", metavar="W", type=float, default=1.0, help="of the image (default: %(default)s)")
    add("--top-k", metavar="K", type=int, default=10, help="show the K best (default: %(default)s)")
    add("--json", action="store_true", help="print JSON: [{id, score, columns}]")
    add("--method", choices=("exact", "approximate", "faiss"), default="exact",
        help="approximate is faster on TPU and misses a few (default: %(default)s)")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the model (default: %(default)s)")
    add("--weights", choices=("ema", "raw"), default="ema", help="of a workdir (default: %(default)s)")
    add("--revision", help="branch, tag or commit of a model on the Hub")
    return parser


def _said(text: str | None) -> str | None:
    """A text of nothing but spaces says nothing, as on the page of `align-jax demo`."""
    return None if text is None or not text.strip() else text.strip()


def _embedder(model: str, folder: "EmbeddingFolder", arguments: argparse.Namespace) -> "Embedder":
    """The model, once it is certain that the index was made with it."""
    import jax  # noqa: PLC0415

    from align_jax.inference.embedder import Embedder  # noqa: PLC0415
    from align_jax.inference.embedding.origin import require_model  # noqa: PLC0415

    embedder = Embedder.from_pretrained(
        model, batch_size=jax.device_count(), dtype=arguments.dtype, weights=arguments.weights,
        revision=arguments.revision,
    )  # fmt: skip
    require_model(folder.metadata, embedder.digest, index=str(arguments.index), model=model)
    return embedder


def _query(arguments: argparse.Namespace, embedder: "Embedder") -> Float[np.ndarray, "1 D"]:
    from align_jax.data.images import ImageDecodeError, decode_image  # noqa: PLC0415
    from align_jax.inference.search import combine  # noqa: PLC0415

    image = None
    if arguments.image is not None:
        try:
            image = embedder.images([decode_image(arguments.image.read_bytes())])
        except ImageDecodeError as error:
            raise ImageDecodeError(f"--image {arguments.image}: {error}") from error
    given = [text for text in (arguments.text, arguments.minus) if text is not None]
    rows = iter(np.split(embedder.texts(given), len(given)) if given else ())
    text = next(rows) if arguments.text is not None else None
    minus = next(rows) if arguments.minus is not None else None
    return combine(text, image, minus, arguments.text_weight, arguments.image_weight)


def _search(embeddings: np.ndarray, query: np.ndarray, k: int, method: str) -> tuple[list[float], list[int]]:
    from align_jax.inference.search import FaissIndex, Index  # noqa: PLC0415

    if not len(embeddings):
        return [], []
    index = FaissIndex(embeddings) if method == "faiss" else Index(embeddings, approximate=method == "approximate")
    scores, positions = index.search(query, min(k, len(embeddings)))
    found = np.isfinite(scores[0])
    return scores[0][found].tolist(), positions[0][found].tolist()


def _show(folder: "EmbeddingFolder", scores: list[float], positions: list[int], *, as_json: bool) -> None:
    """Prints JSON, a table on a terminal, or lines of a score and an id separated by a tab."""
    results: list[dict[str, Any]] = [
        {
            "id": folder.ids[position],
            "score": score,
            "columns": {name: values[position] for name, values in folder.columns.items()},
        }
        for score, position in zip(scores, positions, strict=True)
    ]
    if as_json:
        print(json.dumps(results, indent=1, ensure_ascii=False, default=str))
        return
    if not sys.stdout.isatty():
        for result in results:
            print(f"{result['score']:.4f}\t{result['id']}")
        return
    from rich.console import Console  # noqa: PLC0415  (nobody needs it for the help)
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None)
    for heading in ("score", "id", *folder.columns):
        table.add_column(heading, justify="right" if heading == "score" else "left")
    for result in results:
        table.add_row(f"{result['score']:.4f}", result["id"], *map(str, result["columns"].values()))
    Console(highlight=False, markup=False).print(table)
