"""What `configs/vit_tiny_openmoji.py` reaches, beside classifiers that are no neural networks.

Pictures are those of `align-jax data openmoji-groups`: all of `train` to learn from, all of `held_out` to count. Beside
the share of held-out pictures that are right, a fifth of which are two families of couples, it counts pictures without
a skin tone alone, and the mean over families, so that one with 92 variants weighs as much as any other.

    align-jax data openmoji-groups --data-dir data
    align-jax train --config configs/vit_tiny_openmoji.py --workdir runs/vit_tiny_openmoji
    python benchmarks/emoji_groups.py --data-dir data --model runs/vit_tiny_openmoji
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from align_jax.data.builders.openmoji import SKIN_TONES
from align_jax.data.builders.openmoji_groups import family
from align_jax.data.images import decode_image
from align_jax.data.labelled import LabelledDataset
from align_jax.inference.classifier import Classifier


class Pictures(NamedTuple):
    """A split, decoded."""

    files: list[bytes]
    images: np.ndarray  # uint8 [N 72 72 3]
    classes: np.ndarray
    families: np.ndarray
    toned: np.ndarray


def main() -> None:
    """Parses, fits, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data", help="the folder that data sets lie in")
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="workdirs of trained classifiers")
    options = parser.parse_args()
    train, held_out = (read(options.data_dir, split) for split in ("train", "held_out"))
    print(f"{len(train.classes):,} pictures to learn from, {len(held_out.classes)} held out: ", end="")
    print(f"{len(set(held_out.families))} families, {np.sum(~held_out.toned)} pictures without a skin tone\n")
    print("| | all | without tones | mean of families |\n|---|---|---|---|")
    for model in options.model:
        logits = Classifier.from_pretrained(str(model), batch_size=43).logits(held_out.files)
        show(str(model), logits.argmax(axis=1), held_out)
    show("the largest group, always", np.full(len(held_out.classes), np.bincount(train.classes).argmax()), held_out)
    described, wanted = ([features(image) for image in pictures.images] for pictures in (train, held_out))
    pixels, wanted_pixels = (thumbnails(pictures.images) for pictures in (train, held_out))
    for name, classifier in {
        "gradients and colours, nearest neighbour": KNeighborsClassifier(1),
        "gradients and colours, 5 nearest neighbours": KNeighborsClassifier(5),
        "gradients and colours, support vectors (RBF, C = 1)": SVC(C=1),
        "gradients and colours, support vectors (RBF, C = 10)": SVC(C=10),
    }.items():
        show(name, classifier.fit(described, train.classes).predict(wanted), held_out)
    trees = ExtraTreesClassifier(500, n_jobs=-1, random_state=0).fit(pixels, train.classes)
    show("pixels, 500 randomised trees", trees.predict(wanted_pixels), held_out)


def read(data_dir: str, split: str) -> Pictures:
    """All pictures of a split."""
    records = [*LabelledDataset("openmoji_groups/px72", split, data_dir).open()]
    return Pictures(
        files=[record.image for record in records],
        images=np.stack([decode_image(record.image) for record in records]),
        classes=np.array([record.labels[0] for record in records]),
        families=np.array([family(record.key) for record in records]),
        toned=np.array([any(tone in record.key for tone in SKIN_TONES) for record in records]),
    )


def show(name: str, found: np.ndarray, held_out: Pictures) -> None:
    """Prints a row."""
    right = found == held_out.classes
    _, family_number = np.unique(held_out.families, return_inverse=True)
    of_family = np.bincount(family_number, weights=right) / np.bincount(family_number)
    print(
        f"| {name} | {np.mean(right):.3f} | {np.mean(right[~held_out.toned]):.3f} | {of_family.mean():.3f} |",
        flush=True,
    )


def features(image: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients (Dalal & Triggs, 2005) and of the colours of each quarter, of equal weight."""
    half = image.shape[0] // 2
    quarters = [image[top : top + half, left : left + half] for top in (0, half) for left in (0, half)]
    colours = [cv2.calcHist([quarter], [0, 1, 2], None, [4] * 3, [0, 256] * 3).ravel() for quarter in quarters]
    gradients, roots = oriented_gradients(image), np.sqrt(np.concatenate(colours))
    return np.concatenate([gradients / np.linalg.norm(gradients), roots / np.linalg.norm(roots)])


def oriented_gradients(image: np.ndarray, cell_px: int = 8, bins: int = 9) -> np.ndarray:
    """Histograms of the colour that changes most, by cells, normalised in blocks of 2 x 2 of them."""
    down, across = np.gradient(image.astype(np.float32), axis=(0, 1))
    strength = np.hypot(down, across)
    most = strength.argmax(axis=2)[..., None]
    strength, down, across = (np.take_along_axis(part, most, axis=2)[..., 0] for part in (strength, down, across))
    angle_bin = np.minimum((np.arctan2(down, across) % np.pi / np.pi * bins).astype(int), bins - 1)
    rows, columns = np.indices(angle_bin.shape) // cell_px
    cells = np.zeros((rows.max() + 1, columns.max() + 1, bins))
    np.add.at(cells, (rows, columns, angle_bin), strength)
    blocks = np.concatenate([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=2)
    return np.minimum(blocks / np.sqrt(np.sum(blocks**2, axis=2, keepdims=True) + 1), 0.2).ravel()


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Rows of pixels, 32 x 32 of each picture."""
    return np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).ravel() for image in images])


if __name__ == "__main__":
    main()
