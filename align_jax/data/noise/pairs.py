"""The pairs of a collection: what the rules look at, without pixels."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from align_jax.data.collections import Collection, CollectionError, FileRecord, Item, Options, Refused, open_images
from align_jax.data.collections.metadata import require_columns
from align_jax.data.collections.opening import ALL_COLUMNS, open_texts
from align_jax.data.images import ImageDecodeError, open_image, refuse_bomb

_TEXT_COLUMNS = ("txt", "text", "caption")


class Pair(NamedTuple):
    """An image with one text.

    Attributes:
        id: names the pair within its collection.
        image: the same for the same image: a digest of the file, or what the collection says.
        width_px: of the image.
        height_px: of the image.
        text: with single blanks between words.
        row: of the table that the pair stands in, by column; `None` for a pair of another collection.
    """

    id: str
    image: str
    width_px: int
    height_px: int
    text: str
    row: dict[str, Any] | None = None


@dataclass(frozen=True)
class PairSource:
    """Where pairs come from; can be sent to another process, and opened there.

    Attributes:
        inputs: files or a folder, as `open_images` takes them.
        text_column: the values of an image that hold its text: a column, a key of its JSON, a feature, or "txt" for
            the text beside it; the first that is there of txt, text and caption where `None`.
        image_column: which holds the encoded images, where it has no usual name.
        image_key: a column that is equal for equal images, such as a perceptual hash; the bytes decide where `None`.
        sizes: columns of width and height of a table, Parquet or CSV. Then images need not be there at all (a list of
            URLs), and `image_key` says which they are.
        form: of the input; found out where `None`.
    """

    inputs: tuple[str, ...]
    text_column: str | None = None
    image_column: str | None = None
    image_key: str | None = None
    sizes: tuple[str, str] | None = None
    form: Any = None

    def open(self, known: Mapping[str, FileRecord] | None = None) -> tuple["PairSource", Collection]:
        """Opens the collection, and finds out which column the text is in.

        Raises:
            CollectionError: if it cannot be read, or no column is found.
        """
        if self.sizes is not None:
            return self, self._table(known)
        problem: CollectionError | None = None
        for column in _TEXT_COLUMNS if self.text_column is None else (self.text_column,):
            source = PairSource(self.inputs, column, self.image_column, self.image_key, self.sizes, self.form)
            try:
                return source, source._opened(known)
            except CollectionError as error:
                problem = problem or error
        raise problem or CollectionError("no text column is named")

    def read(self, collection: Collection, start: int = 0, stop: int | None = None) -> Iterator[Pair | Refused]:
        """The pairs from one position to another, and in their places what cannot be one."""
        for position, entry in enumerate(collection.read(start), start):
            if position == stop:
                return
            yield entry if isinstance(entry, Refused) else self.pair(entry)

    def pair(self, item: Item) -> Pair | Refused:
        """What the rules look at in an item."""
        try:
            width, height = image_size(item.content) if self.sizes is None else self._size(item)
        except ImageDecodeError as error:
            return Refused(item.id, f"the image cannot be read: {error}")
        raw = item.content.decode() if self.sizes is not None else item.columns[str(self.text_column)]
        text = " ".join(str(raw or "").split())
        if not text:
            return Refused(item.id, "it has no text")
        image = item.columns[self.image_key] if self.image_key else hashlib.sha256(item.content).hexdigest()[:32]
        if image is None:
            return Refused(item.id, f"it has no {self.image_key}")
        return Pair(item.id, str(image), width, height, text, None if self.sizes is None else dict(item.columns))

    def _opened(self, known: Mapping[str, FileRecord] | None) -> Collection:
        key = (self.image_key,) if self.image_key else ()
        columns = tuple(dict.fromkeys((str(self.text_column), *key)))
        return open_images(self._paths(), Options(columns=columns, form=self.form, column=self.image_column), known)

    def _table(self, known: Mapping[str, FileRecord] | None) -> Collection:
        if self.image_key is None:
            raise CollectionError("sizes come from columns, so another column must say which images are the same")
        options = Options(columns=ALL_COLUMNS, form=self.form, column=self.text_column)
        table = open_texts(self._paths(), options, known)
        require_columns((self.image_key, *(self.sizes or ())), table.column_types, self.inputs[0])
        return table

    def _paths(self) -> Path | list[Path]:
        paths = [Path(path) for path in self.inputs]
        return paths[0] if len(paths) == 1 else paths

    def _size(self, item: Item) -> tuple[int, int]:
        assert self.sizes is not None
        try:
            width, height = (int(item.columns[name]) for name in self.sizes)
        except (TypeError, ValueError) as error:
            raise ImageDecodeError(f"{' and '.join(self.sizes)} are no numbers of pixels") from error
        if width < 1 or height < 1:
            raise ImageDecodeError(f"{width} x {height} pixels are not positive")
        return width, height


def image_size(encoded: bytes) -> tuple[int, int]:
    """Width and height of an image file by its header; its pixels are not decoded.

    Raises:
        ImageDecodeError: if it is no image, or a bomb.
    """
    try:
        with open_image(io.BytesIO(encoded)) as image:
            size = image.size
    except Image.DecompressionBombError as error:
        raise ImageDecodeError(str(error)) from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, … on bad bytes
        raise ImageDecodeError(f"not an image format that is known (it starts with {encoded[:8]!r})") from error
    refuse_bomb(size)
    return size
