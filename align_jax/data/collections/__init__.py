"""Collections of images or texts of any size, in the forms that people keep them in, read from any position.

    collection = open_images("photos/")            # or a list, tars, Parquet files, a prepared data set
    for entry in collection.read(start=1_000_000):
        ...                                        # Item(id, content, columns) or Refused(id, reason)

Order and ids depend on the input alone. What an input holds comes from outside: sizes are checked before memory is
taken, names before they are believed, and whatever cannot be used is `Refused` with the reason, in its place.
"""

from align_jax.data.collections.collection import Collection, FileRecord
from align_jax.data.collections.item import CollectionError, Item, Refused
from align_jax.data.collections.opening import FORMS, Options, open_images, open_texts

__all__ = [
    "FORMS",
    "Collection",
    "CollectionError",
    "FileRecord",
    "Item",
    "Options",
    "Refused",
    "open_images",
    "open_texts",
]
