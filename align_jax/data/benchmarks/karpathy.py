"""Karpathy's splits of COCO and Flickr30k (arXiv 1412.2306), which every published retrieval number refers to.

    {"dataset": "coco", "images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg",
      "split": "test", "sentences": [{"raw": "A man with a red helmet …", "tokens": […]}, …], …}, …]}

Flickr30k has no `filepath`. Images are expected in the folder `train2014` or `val2014` (COCO), in `flickr30k-images`,
`flickr30k_images` or `images` (Flickr30k), or all in the folder itself.
"""

import json
from pathlib import Path
from typing import Any

from align_jax.data.benchmarks.flickr30k import FOLDERS
from align_jax.data.benchmarks.images import BenchmarkError, ImageSet, image_files, usual_names


def read_karpathy(annotations: Path, images: Path, split: str) -> tuple[ImageSet, tuple[tuple[str, ...], ...]]:
    """The images of a split and their captions.

    Args:
        annotations: the JSON.
        images: the folder of the images.
        split: which of them.

    Raises:
        MissingImagesError: if some images are not there.
        BenchmarkError: if the JSON is something else, or has no such split.
    """
    entries = _entries(annotations)
    chosen = [entry for entry in entries if entry["split"] == split]
    if not chosen:
        known = ", ".join(sorted({entry["split"] for entry in entries}))
        raise BenchmarkError(f"{annotations} has no split {split!r}; it has {known}")
    captions = tuple(tuple(sentence["raw"].strip() for sentence in entry["sentences"]) for entry in chosen)
    for entry, texts in zip(chosen, captions, strict=True):
        if not texts or not all(texts):
            raise BenchmarkError(f"{annotations}: image {entry['filename']} has no caption, or an empty one")
    return image_files(images, _names(chosen, images)), captions


def _entries(annotations: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(annotations.read_bytes())
        entries = content["images"]
        for entry in entries:
            texts = [entry["filename"], entry["split"], *(sentence["raw"] for sentence in entry["sentences"])]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{annotations} is not one of Karpathy's JSON files: an object with images, each with filename, split and "
            "sentences; take dataset_coco.json or dataset_flickr30k.json"
        ) from error
    return entries


def _names(entries: list[dict[str, Any]], images: Path) -> list[str]:
    arrangements = [
        [
            f"{entry['filepath']}/{entry['filename']}" if entry.get("filepath") else entry["filename"]
            for entry in entries
        ],
        [entry["filename"] for entry in entries],
        *([f"{folder}/{entry['filename']}" for entry in entries] for folder in FOLDERS),
    ]
    return usual_names(images, arrangements)
