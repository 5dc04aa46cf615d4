"""Classifies images: by the names of classes with an ALIGN model, or by the classes of an image classifier."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align_jax.cli.arguments import ArgumentParser
from align_jax.cli.default_model import default_model

EXAMPLES = """examples:
  align-jax classify --model kakaobrain/align-base --labels cat,dog,"a red apple" cat.jpg photos/*.jpg
  align-jax classify --model models/vit-large --top-k 3 --json cat.jpg

IMAGE is a file, or with --urls a URL; one that cannot be read is named on standard error, and the others go on. Scores
of the labels are a softmax, so they say which label fits best and not whether any of them does. Exit status: 0 done, 2
an argument, the model or an image is wrong."""


def main(argv: Sequence[str]) -> int:
    """Parses, classifies, and returns the exit status."""
    arguments = _parser().parse_args(argv)
    labels = _labels(arguments.labels, arguments.labels_file)
    if labels is None and arguments.template is not None:
        raise ValueError("--template goes with --labels; an image classifier has classes of its own")
    for name in ("top_k", "batch_size"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} is not positive; use 1 or more")

    model = default_model(arguments.model)

    from align_jax.inference.pipelines.download import is_url  # noqa: PLC0415  (heavy, after the help)
    from align_jax.inference.pipelines.pipeline import ZERO_SHOT, pipeline  # noqa: PLC0415

    urls = [image for image in arguments.images if is_url(image)]
    if urls and arguments.urls == "refuse":
        raise ValueError(f"{urls[0]} is a URL, and those are opened only when asked for; use --urls public")

    def refuse(image: Any, error: Exception) -> None:
        text = str(error)
        print(f"align-jax classify: {text if str(image) in text else f'{image}: {text}'}", file=sys.stderr)

    classify = pipeline(
        None, model, batch_size=arguments.batch_size, dtype=arguments.dtype, urls=arguments.urls,
        revision=arguments.revision, weights=arguments.weights, refuse=refuse,
    )  # fmt: skip
    if labels is None and classify.task == ZERO_SHOT:
        raise ValueError(f"{model} is an ALIGN model, which has no classes of its own; name some with --labels")
    if labels is not None and classify.task != ZERO_SHOT:
        raise ValueError(f"{model} is a classifier, whose classes are its own; leave out the labels")
    images = [image if is_url(image) else Path(image) for image in arguments.images]
    if labels is None:
        results = classify(images, top_k=arguments.top_k or 5)
    else:
        template = {} if arguments.template is None else {"hypothesis_template": arguments.template}
        results = classify(images, candidate_labels=labels, **template)
    pairs = zip(arguments.images, results, strict=True)
    shown = [(image, predictions[: arguments.top_k]) for image, predictions in pairs if predictions is not None]
    _show(shown, as_json=arguments.json)
    return 0 if len(shown) == len(images) else 2


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "align-jax classify", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="what to classify")
    parser.add_argument(
        "--model", help="a folder, a workdir, or an id of the Hub (default: runs/quickstart, where there is one)"
    )
    parser.add_argument("--labels", metavar="A,B,C", help="names of the classes, for an ALIGN model")
    parser.add_argument("--labels-file", metavar="FILE", type=Path, help="the same, one a line; they may have commas")
    parser.add_argument("--template", help='sentence around a label (default: "This is a photo of {}.")')
    parser.add_argument("--top-k", metavar="K", type=int, help="show the K best (default: all labels, or 5 classes)")
    parser.add_argument("--json", action="store_true", help="print JSON: [{image, predictions: [{label, score}]}]")
    parser.add_argument("--batch-size", metavar="N", type=int, default=1, help="images at once (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="of a workdir (default: %(default)s)")
    parser.add_argument(
        "--urls", choices=("refuse", "public", "any"), default="refuse",
        help="open URLs: of public addresses, or also of this machine and of private networks (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    return parser


def _labels(text: str | None, path: Path | None) -> list[str] | None:
    """The names of the classes; `None` where they are the model's own."""
    if text is not None and path is not None:
        raise ValueError("--labels and --labels-file are both given; use one of them")
    if text is None and path is None:
        return None
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"--labels-file {path} does not exist")
    parts = path.read_text(encoding="utf-8").splitlines() if path is not None else (text or "").split(",")
    labels = [part.strip() for part in parts if part.strip()]
    if not labels:
        raise ValueError(f"there are no labels in {path or repr(text)}; give some, such as --labels cat,dog")
    return labels


def _show(results: Sequence[tuple[str, Sequence[dict[str, Any]]]], *, as_json: bool) -> None:
    """Prints JSON, a table on a terminal, or lines of three columns separated by tabs."""
    if as_json:
        listed = [{"image": image, "predictions": predictions} for image, predictions in results]
        print(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    rows = [(image, each["label"], each["score"]) for image, predictions in results for each in predictions]
    if not sys.stdout.isatty():
        for image, label, score in rows:
            print(f"{image}\t{label}\t{score:.4f}")
        return
    from rich.console import Console  # noqa: PLC0415  (nobody needs it for the help)
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None)
    for heading, justify in (("image", "left"), ("label", "left"), ("score", "right"), ("", "left")):
        table.add_column(heading, justify=justify, no_wrap=heading == "score")
    shown = None
    for image, label, score in rows:
        # Only scores between 0 and 1 have a bar; those of a regression have none.
        bar = "█" * round(20 * score) if 0 <= score <= 1 else ""
        table.add_row("" if image == shown else image, label, f"{score:.4f}", bar)
        shown = image
    Console(highlight=False, markup=False).print(table)
