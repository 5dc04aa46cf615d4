"""Serves a page, to this machine only, to search pictures and to classify them."""

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from align_jax.cli.arguments import ArgumentParser
from align_jax.cli.default_model import default_model

EXAMPLES = """examples:
  align-jax demo                                  the model and the pictures of `make quickstart`
  align-jax demo --model kakaobrain/align-base --index embeddings/photos --classifier models/vit

Without --index, the page searches the quickstart's pictures if it has the quickstart's model, and else nothing. The
page loads nothing from elsewhere, and nothing leaves this machine. Exit status: 0 stopped by Ctrl-C, 2 an argument, the
model or the index is wrong, 1 the page could not be served."""


def main(argv: Sequence[str]) -> int:
    """Parses, serves until it is interrupted, and returns the exit status."""
    parser = ArgumentParser(
        "align-jax demo", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", help="a folder, a workdir, or an id of the Hub (default: runs/quickstart, where there is one)")
    add("--index", metavar="DIR", type=Path, help="embeddings of images that align-jax embed wrote with the model")
    add("--classifier", metavar="M", help="an image classifier: a folder, or an id of the Hub")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the models (default: %(default)s)")
    add("--weights", choices=("ema", "raw"), default="ema", help="of a workdir (default: %(default)s)")
    add("--revision", help="branch, tag or commit of --model on the Hub")
    add("--data-dir", metavar="DIR", type=Path, default=Path("data"), help="of the quickstart (default: %(default)s)")
    add("--port", type=int, help="(default: the first free one from 7860)")
    arguments = parser.parse_args(argv)
    if arguments.port is not None and not 1 <= arguments.port <= 65_535:
        raise ValueError(f"--port {arguments.port} is not between 1 and 65535")
    model = default_model(arguments.model)

    from align_jax.demo.server import served  # noqa: PLC0415  (heavy, after the help)

    openmoji = arguments.model is None and arguments.index is None
    with _until_stopped(), served(
        model, index=arguments.index, classifier=arguments.classifier,
        data_dir=arguments.data_dir if openmoji else None, port=arguments.port, dtype=arguments.dtype,
        weights=arguments.weights, revision=arguments.revision,
    ) as address:  # fmt: skip
        print(f"The page is at {address}; stop it with Ctrl-C.", flush=True)
        threading.Event().wait()
    return 0


@contextlib.contextmanager
def _until_stopped() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, also while models are loaded, so that nothing temporary is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
