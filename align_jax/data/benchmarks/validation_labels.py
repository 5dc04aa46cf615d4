"""Labels of ImageNet's validation images as they are downloaded: all in one folder, their labels in a file.

    ImageId,PredictionString / ILSVRC2012_val_00000001,n01751748 …     LOC_val_solution.csv
    490                                 ILSVRC2012_validation_ground_truth.txt of the devkit, with meta.mat beside it
    n01751748                           imagenet_2012_validation_synset_labels.txt
    ILSVRC2012_val_00000001.JPEG 65     val.txt, the numbers in the order of the synsets; a synset does as well

Where a line names no image, line N is of the image whose name ends in the number N.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scipy.io

from align_jax.data.benchmarks.classes import SYNSET
from align_jax.data.benchmarks.images import BenchmarkError, MissingImagesError

VALIDATION_NAME = "ILSVRC2012_val_{:08d}"
_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})")
_FILES = (
    "LOC_val_solution.csv",
    "ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "val.txt",
)
_FOLDERS_ABOVE = 3


def find_ground_truth(folder: Path, root: Path) -> Path | None:
    """The file with the labels, if it lies in the folder of the images or a few above."""
    places = dict.fromkeys([folder, root, *root.resolve().parents[:_FOLDERS_ABOVE]])
    return next((place / name for place in places for name in _FILES if (place / name).is_file()), None)


def read_ground_truth(path: Path) -> Mapping[str, str | int]:
    """The synset, or the number in the order of synsets, of every image, by its name without suffix.

    Raises:
        FileNotFoundError: if the file, or what it refers to, is not there.
        BenchmarkError: if it is of another form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the file with the labels of the validation images")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if lines and lines[0].lower().startswith("imageid,"):
        rows = [(row[0], row[1].split()) for row in csv.reader(lines[1:]) if len(row) == 2]
        labels = {name: words[0] for name, words in rows if words}
        if len(labels) == len(lines) - 1:
            return labels
    elif all(SYNSET.fullmatch(line) for line in lines):
        return {VALIDATION_NAME.format(number): line for number, line in enumerate(lines, start=1)}
    elif all(line.isdecimal() for line in lines):
        synsets = _devkit_synsets(path)
        if unknown := [line for line in lines if int(line) not in synsets]:
            raise BenchmarkError(
                f"{path} has label {unknown[0]}, which meta.mat does not know; use those of one devkit"
            )
        return {VALIDATION_NAME.format(number): synsets[int(line)] for number, line in enumerate(lines, start=1)}
    elif all(
        len(words) == 2 and (words[1].isdecimal() or SYNSET.fullmatch(words[1])) for words in map(str.split, lines)
    ):
        pairs = [line.split() for line in lines]
        return {Path(name).stem: int(label) if label.isdecimal() else label for name, label in pairs}
    raise BenchmarkError(
        f"{path} is of no form that is known; give LOC_val_solution.csv, the devkit's "
        "ILSVRC2012_validation_ground_truth.txt, a synset a line, or lines of file name and label"
    )


def require_all_images(truth: Mapping[str, str | int], files: Sequence[str], ground_truth: Path, folder: Path) -> None:
    """Refuses images without label, and labels without image: the numbers would be of another data set.

    Raises:
        BenchmarkError: if an image has no label.
        MissingImagesError: if a label has no image.
    """
    stems = {Path(file).stem for file in files}
    if extra := sorted(stems - truth.keys()):
        raise BenchmarkError(f"{len(extra)} images of {folder} have no label in {ground_truth}, such as {extra[0]}")
    if missing := sorted(truth.keys() - stems):
        raise MissingImagesError(
            f"{len(missing)} of {len(truth)} images of {ground_truth} are not in {folder}, such as {missing[0]}"
        )


def validation_number(name: str) -> int | None:
    """The number in the name of a validation image, from 1; `None` where it has another name."""
    match = _NUMBERED.fullmatch(Path(name).stem)
    return int(match[1]) if match else None


def _devkit_synsets(path: Path) -> dict[int, str]:
    """The synsets by the devkit's own numbers, which are not in the order of synsets."""
    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise FileNotFoundError(
            f"{path} holds the devkit's own numbers of classes, and meta.mat, which explains them, is not beside it; "
            "give the file in ILSVRC2012_devkit_t12/data"
        )
    try:
        rows: Any = scipy.io.loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise BenchmarkError(f"{meta} is not the devkit's: {error}") from error
