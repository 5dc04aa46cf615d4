"""Flickr30k's own captions: five of each of 31,783 images, without splits.

    1000092795.jpg#0<tab>Two young guys …          results_20130124.token, as the authors distribute it
    image_name| comment_number| comment            results.csv, as Kaggle has it
    1000092795.jpg| 0| Two young guys …

Published retrieval numbers are of the 1,000 test images of Karpathy's split: see `karpathy.py`.
"""

import re
from pathlib import Path

from align_jax.data.benchmarks.images import BenchmarkError, ImageSet, image_files, usual_names

FILES = ("results_20130124.token", "results.csv")
FOLDERS = ("flickr30k-images", "flickr30k_images", "images")
# A row of Kaggle's file lacks the second bar.
_LINE = re.compile(r"([^|#]+?)\s*[|#]\s*(\d+)\s*\|?\s*(\S.*)")


def read_flickr30k(annotations: Path, images: Path) -> tuple[ImageSet, tuple[tuple[str, ...], ...]]:
    """All images and their captions, in the order of the file.

    Args:
        annotations: one of the files above.
        images: the folder that holds the images, or one of the usual folders with them.

    Raises:
        MissingImagesError: if some images are not there.
        BenchmarkError: if the file is of another form.
    """
    captions: dict[str, dict[int, str]] = {}
    lines = annotations.read_text(encoding="utf-8").split("\n")
    heading = lines[0].startswith("image_name|")
    for number, line in enumerate(lines[heading:], start=1 + heading):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or int(match[2]) in captions.setdefault(match[1], {}):
            raise BenchmarkError(
                f"line {number} of {annotations}, {line[:80]!r}, is no new caption of an image: its file, its number, "
                "and the caption; take results_20130124.token or results.csv as it is distributed"
            )
        captions[match[1]][int(match[2])] = match[3]
    if not captions:
        raise BenchmarkError(f"{annotations} holds no captions; take results_20130124.token as it is distributed")
    places = [[f"{folder}{name}" for name in captions] for folder in ("", *(f"{one}/" for one in FOLDERS))]
    texts = tuple(tuple(text for _, text in sorted(of_image.items())) for of_image in captions.values())
    return image_files(images, usual_names(images, places)), texts
