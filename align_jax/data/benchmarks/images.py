"""The images of a benchmark, by number, read when they are asked for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from align_jax.data.captions import IMAGE_SUFFIXES
from align_jax.data.collections.names import name_problem


class BenchmarkError(ValueError):
    """A data set is not laid out as it should be, or lacks something; the message says what to do."""


class MissingImagesError(FileNotFoundError):
    """Images that a data set names are not there."""


@dataclass(frozen=True)
class ImageSet:
    """Encoded images.

    Attributes:
        ids: names of the images: their paths relative to the folder of the data, as `align-jax embed` has them.
        read: the bytes of the image file at a place.
    """

    ids: tuple[str, ...]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.ids)


def image_files(root: Path, names: Sequence[str]) -> ImageSet:
    """Files by their paths relative to a folder.

    Raises:
        MissingImagesError: if some are not there; says how many.
    """
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        examples = ", ".join(missing[:3])
        raise MissingImagesError(
            f"{len(missing)} of {len(names)} images are not in {root}, such as {examples}; complete the data, or name "
            "the folder of the images"
        )
    return ImageSet(tuple(names), lambda row: (root / names[row]).read_bytes())


def listed_files(root: Path, names: Sequence[str]) -> ImageSet:
    """As `image_files`, for names that were just listed and need not be looked for again."""
    return ImageSet(tuple(names), lambda row: (root / names[row]).read_bytes())


def usual_names(root: Path, arrangements: Sequence[Sequence[str]]) -> list[str]:
    """Paths in the folder of the images, in the first of the usual arrangements that has the first image.

    Raises:
        BenchmarkError: if a name leads out of the folder.
    """
    names = next((names for names in arrangements if (root / names[0]).is_file()), arrangements[0])
    for name in names:
        if problem := name_problem(name):
            raise BenchmarkError(f"the image {name!r} cannot be read: {problem}")
    return list(names)


def image_names(folder: Path) -> list[str]:
    """The image files that lie directly in a folder, in order."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES)


def folder_names(folder: Path) -> list[str]:
    """The folders that lie directly in a folder and are not hidden, in order."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
