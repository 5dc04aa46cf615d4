"""What collections are made of, and the limits of what is taken into memory."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Content = Literal["image", "text"]
"""What the items of a collection are."""

MAX_IMAGE_BYTES = 256 * 2**20
"""Encoded images that are larger are refused; a camera's largest files are about half of it."""

MAX_TEXT_BYTES = 2**20
"""Texts that are longer are refused; no tower reads more than some hundred tokens."""


class CollectionError(ValueError):
    """An input cannot be read as a collection at all; the message says what to do."""


class Item(NamedTuple):
    """One image or text.

    Attributes:
        id: names it within the collection.
        content: the image file as it was found, or the text in UTF-8.
        columns: values that are carried along, by name; `None` where it has none.
    """

    id: str
    content: bytes
    columns: Mapping[str, Any]


class Refused(NamedTuple):
    """Something in the place of an item that cannot be one.

    Attributes:
        id: the name that the item has or would have.
        reason: why it is none.
    """

    id: str
    reason: str


def text_item(name: str, content: bytes, columns: Mapping[str, Any]) -> Item | Refused:
    """A text, if it can be one: not blank, UTF-8 and of a length that makes sense."""
    if len(content) > MAX_TEXT_BYTES:
        return Refused(name, f"the text has more than {MAX_TEXT_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return Refused(name, f"the text is not UTF-8: {error.reason} at byte {error.start}")
    return Item(name, content, columns) if text.strip() else Refused(name, "the text is empty")


def image_item(name: str, content: bytes, columns: Mapping[str, Any]) -> Item | Refused:
    """An encoded image, if it is of a size that makes sense."""
    if len(content) > MAX_IMAGE_BYTES:
        return Refused(name, too_large(len(content)))
    return Item(name, content, columns)


def too_large(size_bytes: int) -> str:
    """The reason to refuse an image of so many bytes."""
    return f"the image file has {size_bytes} bytes, more than the limit of {MAX_IMAGE_BYTES}"
