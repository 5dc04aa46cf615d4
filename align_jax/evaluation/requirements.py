"""What the evaluations need of data and options, so that it is said before anything is computed."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from align_jax.data.benchmarks import BenchmarkError, Classes


class OutputError(ValueError):
    """The results could not be written."""


def require_writable(path: Path) -> None:
    """Makes the folder of a file that is to be written at the end, and writes something there.

    Raises:
        OutputError: if that cannot be done.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"0")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OutputError(f"{path} cannot be written: {reason}; name another file") from error


def require_names(classes: Classes) -> tuple[str, ...]:
    """The names of the classes in words.

    Raises:
        BenchmarkError: if nobody says them.
    """
    if classes.names is None:
        raise BenchmarkError(
            f"the classes, such as {classes.keys[0]}, have no names in words; give a file that says them, such as "
            "synset_words.txt, with --classes"
        )
    return classes.names


def require_same_classes(train: Classes, data: Classes) -> None:
    """Compares the classes of the training images and of the evaluated ones.

    Raises:
        BenchmarkError: if they differ.
    """
    if train.keys != data.keys:
        different = sorted(set(train.keys) ^ set(data.keys))
        raise BenchmarkError(
            f"training images and evaluated images have other classes: {len(different)} are in one of them only, such "
            f"as {different[0]}"
        )


def require_neighbours(ks: Sequence[int], train_images: int) -> None:
    """Compares numbers of neighbours with the size of the gallery.

    Raises:
        ValueError: if there are fewer images.
    """
    if max(ks, default=0) > train_images:
        raise ValueError(f"--k {max(ks)} is more than the {train_images} training images; use at most {train_images}")


def require_held_out(fraction: float, train_images: int) -> None:
    """Looks whether something is left on both sides.

    Raises:
        ValueError: if nothing would be held out, or everything.
    """
    if not 0 < (count := round(fraction * train_images)) < train_images:
        raise ValueError(
            f"--held-out {fraction} are {count} of {train_images} training images; some must choose the penalty, and "
            "others be trained on"
        )
