"""COCO's own captions, as its site has them: annotations/captions_val2017.json, and the images in val2017.

    {"images": [{"id": 391895, "file_name": "000000391895.jpg", …}, …],
     "annotations": [{"image_id": 391895, "id": 770337, "caption": "A man with a red helmet …"}, …], …}

Published retrieval numbers are of another split, Karpathy's: see `karpathy.py`.
"""

import json
from pathlib import Path

from align_jax.data.benchmarks.images import BenchmarkError, ImageSet, image_files, usual_names


def split_of(annotations: Path) -> str:
    """The split that a file is of, such as "val2017"."""
    return annotations.stem.removeprefix("captions_")


def read_coco(annotations: Path, images: Path) -> tuple[ImageSet, tuple[tuple[str, ...], ...]]:
    """The images of a file and their captions, in the order of the file.

    Args:
        annotations: the JSON.
        images: the folder that holds the images, or a folder of the split's name with them.

    Raises:
        MissingImagesError: if some images are not there.
        BenchmarkError: if the JSON is something else, or an image has no caption.
    """
    try:
        content = json.loads(annotations.read_bytes())
        files: dict[int, str] = {entry["id"]: entry["file_name"] for entry in content["images"]}
        captions: dict[int, list[str]] = {number: [] for number in files}
        for entry in content["annotations"]:
            captions[entry["image_id"]].append(entry["caption"].strip())
        if not files or not all(isinstance(name, str) for name in files.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(
            f"{annotations} is none of COCO's files of captions: images, each with id and file_name, and annotations, "
            "each with the image_id of one of them and caption; take captions_val2017.json"
        ) from error
    for number, texts in captions.items():
        if not texts or not all(texts):
            raise BenchmarkError(f"{annotations}: image {files[number]} has no caption, or an empty one")
    names = list(files.values())
    split = split_of(annotations)
    places = [[f"{folder}{name}" for name in names] for folder in (f"{split}/", "", f"images/{split}/")]
    return image_files(images, usual_names(images, places)), tuple(map(tuple, captions.values()))
