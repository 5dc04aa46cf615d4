"""Loads what the page needs and serves it, to this machine only."""

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from align_jax.checkpoints import Weights
from align_jax.demo import examples as examples_of
from align_jax.demo.answers import Answers
from align_jax.demo.pictures import Pictures, embedded_openmoji
from align_jax.demo.uploads import MAX_UPLOAD_BYTES
from align_jax.inference.classifier import Classifier
from align_jax.inference.dtype import Dtype
from align_jax.inference.embedder import Embedder

ADDRESS = "127.0.0.1"
_EMBEDDED_AT_ONCE = 32


@contextmanager
def served(
    model: str,
    *,
    index: Path | None = None,
    classifier: str | None = None,
    data_dir: Path | None = None,
    port: int | None = None,
    dtype: Dtype = "float32",
    weights: Weights = "ema",
    revision: str | None = None,
) -> Iterator[str]:
    """Serves the page while the block runs.

    Args:
        model: an ALIGN model, as `Embedder.from_pretrained` takes it.
        index: embeddings of the images that are searched.
        classifier: an image classifier.
        data_dir: where the quickstart's data set lies, which is searched where `index` is absent.
        port: to serve at; the first free one from 7860 where absent.
        dtype: of both models.
        weights: of a workdir, for both models: averaged ("ema") or those of the last step ("raw").
        revision: branch, tag or commit of the ALIGN model on the Hub.

    Yields:
        The page's address.

    Raises:
        ModuleNotFoundError: if Gradio is not installed.
        OSError: if the port is taken.
        FileNotFoundError, ValueError: if the model, the index or the classifier is missing or wrong.
    """
    if port is not None:
        _require_free(port)
    with tempfile.TemporaryDirectory(prefix="align-jax-demo-") as temporary:
        page_of = _page(Path(temporary) / "files")
        devices = jax.device_count()
        batch_size = devices if data_dir is None else -(-_EMBEDDED_AT_ONCE // devices) * devices
        embedder = Embedder.from_pretrained(
            model, batch_size=batch_size, dtype=dtype, weights=weights, revision=revision
        )
        options: dict[str, Any] = {"batch_size": devices, "dtype": dtype, "weights": weights}
        other = None if classifier is None else Classifier.from_pretrained(classifier, **options)
        shown = Path(temporary) / "examples"
        shown.mkdir()
        if index is None and data_dir is not None:
            pictures = embedded_openmoji(data_dir, embedder, model)
            examples = examples_of.of_openmoji(pictures, shown)
        else:
            pictures = None if index is None else Pictures(index, embedder)
            examples = examples_of.of_any(pictures, shown)
        if pictures is not None and pictures.warning is not None:
            print(f"align-jax demo: {pictures.warning}", file=sys.stderr)
        answers = Answers(embedder, pictures, other)
        answers.warm_up()
        page = page_of.build(answers, examples, model)
        _, address, _ = page.queue(max_size=32).launch(
            server_name=ADDRESS, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD_BYTES, theme=page_of.THEME, css=page_of.CSS, footer_links=[], ssr_mode=False,
            allowed_paths=[], run_history=False, enable_monitoring=False, mcp_server=False, pwa=False,
        )  # fmt: skip
        try:
            yield address
        finally:
            page.close(verbose=False)


def _require_free(port: int) -> None:
    """Says at once what Gradio would say after the model has been loaded."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((ADDRESS, port))
        except OSError as error:
            raise OSError(f"port {port} cannot be used ({error.strerror}); give another --port") from error


def _page(files: Path) -> Any:
    """The module of the page; uploads and results are copied into `files`, which is gone when the page is."""
    # Read when Gradio is imported. It shall send nothing to its makers, nor ask them for a newer version.
    os.environ |= {"GRADIO_TEMP_DIR": str(files), "GRADIO_ANALYTICS_ENABLED": "False"}
    try:
        from align_jax.demo import page  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ModuleNotFoundError("the page needs `pip install align_jax[demo]`") from error
    return page
