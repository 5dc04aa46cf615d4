"""Opens images with classes: ImageNet and its relatives, or any folder with a folder for each class.

    ROOT/train/n01440764/n01440764_10026.JPEG, ROOT/val/n01440764/ILSVRC2012_val_00000293.JPEG      ImageNet
    ROOT/val/ILSVRC2012_val_00000001.JPEG and a file with the labels                                as it is downloaded
    ROOT/0/….jpeg … ROOT/999/….jpeg                                                                 ImageNet-V2
    ROOT/n01443537/….jpg and ROOT/README.txt                                                        ImageNet-R, -A
    ROOT/golden_retriever/….jpg, ROOT/train/cat/….png, …                                            anything else
    ROOT[/config[/version]]/dataset_info.json                                       prepared, as a training reads it

Labels count classes in the order of their synsets, their numbers, or their names.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from align_jax.data.benchmarks.classes import SYNSET, Classes, ClassFile, find_class_file, read_class_file
from align_jax.data.benchmarks.images import BenchmarkError, ImageSet, folder_names, image_names, listed_files
from align_jax.data.benchmarks.prepared import read_prepared_labels
from align_jax.data.benchmarks.validation_labels import find_ground_truth, read_ground_truth, require_all_images
from align_jax.data.collections.array_record import is_data_set

_SPLITS = frozenset({"train", "validation", "test"})


@dataclass(frozen=True)
class LabelledImages:
    """Images with a class each.

    Attributes:
        images: class by class, or in the order of their names.
        labels: places in `classes`.
        classes: that are told apart, whether or not there are images of each.
        split: the folder that the images are in; `None` where that is the folder of the data set.
    """

    images: ImageSet
    labels: Int[np.ndarray, "N"]
    classes: Classes
    split: str | None = None


def open_labelled(
    root: Path, *, split: str | None = None, classes: Path | None = None, ground_truth: Path | None = None
) -> LabelledImages:
    """Opens one split.

    Args:
        root: the folder of the data set.
        split: a folder in it, such as "train"; where it is absent, "val" if there is such a folder, and else `root`
            itself. Of a prepared data set see `read_prepared_labels`.
        classes: a list of the classes, see `classes.py`; where it is absent, one that lies beside the data.
        ground_truth: labels of images that lie in one folder, see `validation_labels.py`; likewise.

    Raises:
        FileNotFoundError: if a folder, a file or an image is not there.
        BenchmarkError: if the layout is another one, a class is unknown, or there are fewer than two.
        DatasetError: if a prepared data set has no such split, or not the features of labelled images.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; give the folder of the data set")
    if is_data_set(root, deepest=2):  # looking deeper would list every image of ImageNet
        return _prepared(root, split, classes, ground_truth)
    known = folder_names(root)
    if split is not None and split not in known:
        raise BenchmarkError(f"{root} has no folder {split!r} for that split; it has {_shown(known)}")
    if split is None:
        split = _default_split(root, known)
    folder = root / split if split else root
    prefix = f"{split}/" if split else ""
    found = folder_names(folder)
    # The folders of the training images say which classes there are, also where a split lacks one.
    siblings = folder_names(root / "train") if split and "train" in known else []
    keys = _ordered(siblings or found)
    listed = read_class_file(classes) if classes else None
    if listed is None and (not keys or _are_synsets(keys)):
        listed = find_class_file(folder, root, keys)
    chosen = _classes(keys, listed, folder)
    if found:
        images, labels = _class_folders(root, prefix, _ordered(found), chosen)
    else:
        images, labels = _flat(root, prefix, chosen, ground_truth or find_ground_truth(folder, root))
    if len(chosen.keys) < 2:
        raise BenchmarkError(
            f"{folder} has the single class {chosen.keys[0]}, and every answer would be right; give the folder that "
            "those of all classes lie in"
        )
    return LabelledImages(images, labels, chosen, split)


def _prepared(root: Path, split: str | None, classes: Path | None, ground_truth: Path | None) -> LabelledImages:
    if ground_truth is not None:
        raise BenchmarkError(f"{root} is a prepared data set and holds its labels; leave {ground_truth} out")
    found = read_prepared_labels(root, split)
    listed = read_class_file(classes) if classes else None
    if found.names is None and listed is None:
        raise BenchmarkError(f"the labels of {root} are bare numbers; give a list of the classes, with --classes")
    count = len(found.names) if found.names else len(listed.names or listed.keys or ()) if listed else 0
    keys = found.names or tuple(map(str, range(count)))
    if unknown := [label for label in found.labels if not 0 <= label < count]:
        raise BenchmarkError(f"{root} has the label {unknown[0]}, which is none of its {count} classes")
    chosen = _classes(list(keys), listed, root)
    labels_of = {key: label for label, key in enumerate(chosen.keys)}
    labels = np.array([labels_of[keys[label]] for label in found.labels], np.int32)
    return LabelledImages(found.images, labels, chosen, found.split)


def _default_split(root: Path, known: list[str]) -> str | None:
    """`None` where the folders are classes, one of which may be called "train"."""
    if "val" in known:
        return "val"
    splits = [name for name in known if name.lower() in _SPLITS]
    if splits and (splits == known or any(folder_names(root / name) for name in splits)):
        raise BenchmarkError(
            f"{root} holds the splits {', '.join(splits)}; choose one with --split, such as {splits[-1]}"
        )
    return None


def _ordered(keys: list[str]) -> list[str]:
    return sorted(keys, key=int) if keys and all(key.isdecimal() for key in keys) else sorted(keys)


def _are_synsets(keys: list[str]) -> bool:
    return all(SYNSET.fullmatch(key) for key in keys)


def _classes(keys: list[str], listed: ClassFile | None, folder: Path) -> Classes:
    """The classes of the folders, which may be some of those that a file lists."""
    if keys and all(key.isdecimal() for key in keys):
        words = None if listed is None else listed.names
        count = int(keys[-1]) + 1 if listed is None else len(listed.names or listed.keys or ())
        if int(keys[-1]) >= count and listed is not None:
            raise BenchmarkError(f"{folder} has a folder {keys[-1]}, but {listed.path} lists {count} classes, from 0")
        return Classes(tuple(map(str, range(count))), words, tuple(range(count)), count)
    if listed is None:
        names = None if keys and _are_synsets(keys) else tuple(key.replace("_", " ") for key in keys)
        return Classes(tuple(keys), names, tuple(range(len(keys))), len(keys))
    if listed.keys is None:
        names = listed.names or ()
        if len(names) != len(keys):
            raise BenchmarkError(
                f"{listed.path} lists {len(names)} names without synsets, but {folder} has {len(keys)} classes; write "
                "the synset or the folder in front of each name, or a name for each class in the order of the folders"
            )
        return Classes(tuple(keys), names, tuple(range(len(keys))), len(keys))
    numbers = {key: number for number, key in enumerate(listed.keys)}
    if unknown := [key for key in keys if key not in numbers]:
        raise BenchmarkError(
            f"{len(unknown)} of {len(keys)} classes of {folder} are not in {listed.path}, such as {unknown[0]}; remove "
            "these folders, or give the list that belongs to the data"
        )
    order = sorted(numbers[key] for key in keys) if keys else list(range(len(numbers)))
    names = None if listed.names is None else tuple(listed.names[number] for number in order)
    return Classes(tuple(listed.keys[number] for number in order), names, tuple(order), len(numbers))


_Labelled = tuple[ImageSet, Int[np.ndarray, "N"]]


def _class_folders(root: Path, prefix: str, found: list[str], classes: Classes) -> _Labelled:
    labels_of = {key: label for label, key in enumerate(classes.keys)}
    if unknown := [key for key in found if key not in labels_of]:
        raise BenchmarkError(
            f"{len(unknown)} of {len(found)} folders of {root / prefix} are no classes, such as {unknown[0]}; the "
            f"classes are {_shown(list(classes.keys))}"
        )
    names: list[str] = []
    labels: list[int] = []
    for key in found:
        files = image_names(root / prefix / key)
        if not files:
            raise BenchmarkError(f"{root / prefix / key} holds no images; complete it, or remove it")
        names += [f"{prefix}{key}/{file}" for file in files]
        labels += [labels_of[key]] * len(files)
    return listed_files(root, names), np.array(labels, np.int32)


def _flat(root: Path, prefix: str, classes: Classes, ground_truth: Path | None) -> _Labelled:
    folder = root / prefix
    files = image_names(folder)
    if not files:
        raise BenchmarkError(f"{folder} holds neither a folder for each class nor images; give the folder of the data")
    if ground_truth is None:
        raise BenchmarkError(
            f"{folder} holds {len(files)} images without a folder for each class, and no file with their labels lies "
            "beside it; give one, such as LOC_val_solution.csv or ILSVRC2012_validation_ground_truth.txt"
        )
    if not classes.keys:
        raise BenchmarkError(f"the classes of {folder} are not known; give a list of them, such as synset_words.txt")
    truth = read_ground_truth(ground_truth)
    require_all_images(truth, files, ground_truth, folder)
    labels_of: dict[str | int, int] = {key: label for label, key in enumerate(classes.keys)}
    labels_of |= {number: label for label, number in enumerate(classes.numbers)}
    answers = [truth[Path(file).stem] for file in files]
    if unknown := [answer for answer in answers if answer not in labels_of]:
        raise BenchmarkError(
            f"{ground_truth} has labels that are no class, such as {unknown[0]}; the classes are "
            f"{_shown(list(classes.keys))}"
        )
    labels = np.array([labels_of[answer] for answer in answers], np.int32)
    return listed_files(root, [f"{prefix}{file}" for file in files]), labels


def _shown(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:5]) + (f" … ({len(names)} in all)" if len(names) > 5 else "")
