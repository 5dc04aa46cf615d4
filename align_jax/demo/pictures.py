"""The pictures that the page searches: a folder of `align-jax embed`, and its input, which still has the images."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image
from rich.console import Console

from align_jax.data.collections import CollectionError, Item, Options, open_images
from align_jax.data.images import ImageDecodeError, decode_image
from align_jax.inference.embedder import Embedder
from align_jax.inference.embedding.folder import read_embeddings
from align_jax.inference.embedding.identity import Identity
from align_jax.inference.embedding.origin import reopen, require_model
from align_jax.inference.embedding.part import part_name, read_part
from align_jax.inference.embedding.run import EmbeddingRun
from align_jax.progress import progress

OPENMOJI = Path("openmoji/px72")
_SHARD_SIZE = 1024
_THUMBNAIL_PX = 320
_CAPTION_COLUMNS = ("text", "txt", "caption", "title", "label")


class Pictures:
    """What can be found.

    Args:
        folder: that `align-jax embed` wrote.
        embedder: the model that it was written with.
        name: of the collection, for the page; that of the folder where absent.

    Attributes:
        name: as above.
        embeddings: of unit length.
        captions: shown below the pictures: a carried column of texts, or the ids.
        warning: why pictures may be absent, where the input is not what it was; else `None`.

    Raises:
        FileNotFoundError: if it is no such folder.
        EmbeddingFolderError: if it is unfinished, or was made with another model.
        ValueError: if it holds embeddings of texts.
    """

    def __init__(self, folder: Path, embedder: Embedder, name: str | None = None):
        read = read_embeddings(folder)
        require_model(read.metadata, embedder.digest, index=str(folder), model="the model of the page")
        if read.metadata.get("content", "images") != "images":
            raise ValueError(f"{folder} holds embeddings of texts, and the page shows images; embed images")
        column = next((name for name in _CAPTION_COLUMNS if name in read.columns), None)
        self.name = folder.name if name is None else name
        self.embeddings: Float32[np.ndarray, "N D"] = read.embeddings
        self.captions: Sequence[str] = (
            read.ids if column is None else [str(text or "") for text in read.columns[column]]
        )
        self._ids = read.ids
        described = read.metadata.get("input", {})
        # Files of a folder are found by their names; in other forms an image is reached by its position.
        self._root = Path(described["source"][0]) if described.get("form") == "folder" else None
        self._collection, self.warning = None, None
        try:
            self._collection = reopen(folder, read.metadata)
        except CollectionError as error:
            self.warning = f"pictures will be missing: {error}"
        self._parts = [read_part(folder / part_name(index)) for index in range(read.metadata["parts"])]
        self._first_rows = np.cumsum([0, *(part.rows for part in self._parts)])

    def thumbnail(self, row: int) -> Image.Image | None:
        """The picture of a row; `None` where the input is not there any more, or has changed."""
        try:
            content = self._content(row)
        except (CollectionError, OSError):
            return None
        return None if content is None else _thumbnail(content)

    def _content(self, row: int) -> bytes | None:
        if self._root is not None:
            return (self._root / self._ids[row]).read_bytes()
        if self._collection is None:
            return None
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        part = self._parts[number]
        # What was refused has no row, so the picture lies as many entries further on, at most.
        start = part.start + row - int(self._first_rows[number])
        for entry in islice(self._collection.read(start), len(part.refused) + 1):
            if isinstance(entry, Item) and entry.id == self._ids[row]:
                return entry.content
        return None


def embedded_openmoji(data_dir: Path, embedder: Embedder, model: str) -> Pictures:
    """The quickstart's pictures, embedded the first time and kept in `data_dir`/embeddings for the next.

    Args:
        data_dir: where `align-jax data openmoji` has written.
        embedder: the model.
        model: where it was loaded from.

    Raises:
        FileNotFoundError: if `align-jax data openmoji` has not been run.
    """
    source = data_dir / OPENMOJI
    if not source.is_dir():
        raise FileNotFoundError(f"there is no {source}; make it with `align-jax data openmoji --data-dir {data_dir}`")
    collection = open_images(source, Options(columns=("text",)))
    identity = Identity.of(embedder, collection, "images", _SHARD_SIZE)
    folder = data_dir / "embeddings" / f"openmoji-{identity.digest[:16]}"
    run = EmbeddingRun(
        embedder, collection, folder, content="images", source=[str(source.absolute())], model_source=model,
        shard_size=_SHARD_SIZE,
    )  # fmt: skip
    with closing(run):
        if parts := run.claim():
            inputs = sum(len(run.slice(index)) for index in parts)
            with progress("embedding pictures", inputs, Console(stderr=True)) as advance:
                run.embed(parts, advance)
        run.finish()
    return Pictures(folder, embedder, "OpenMoji")


def _thumbnail(encoded: bytes) -> Image.Image | None:
    try:
        image = Image.fromarray(decode_image(encoded))
    except ImageDecodeError:
        return None
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return image
