"""Opens images with several captions each: Karpathy's splits of COCO and Flickr30k, or what TFDS has prepared."""

from dataclasses import dataclass
from pathlib import Path

from align_jax.data.benchmarks.images import BenchmarkError, ImageSet
from align_jax.data.benchmarks.karpathy import read_karpathy
from align_jax.data.benchmarks.prepared import is_prepared, read_prepared


@dataclass(frozen=True)
class CaptionedImages:
    """A split of images with captions.

    Attributes:
        images: in the order of the data set.
        captions: one or more of each image.
    """

    images: ImageSet
    captions: tuple[tuple[str, ...], ...]


def open_captioned(data: Path, *, images: Path | None = None, split: str = "test") -> CaptionedImages:
    """Opens one split.

    Args:
        data: Karpathy's `dataset_coco.json` or `dataset_flickr30k.json`; a folder that it lies in, itself or in
            `annotations`; or the folder of a data set that TFDS or `align-jax data` has prepared.
        images: the folder that the images of a JSON lie in, where it is not `data` or that of the JSON.
        split: "test", "val", "train" or "restval".

    Raises:
        FileNotFoundError: if the data, or some images, are not there.
        BenchmarkError: if it is none of these, or has no such split.
    """
    if not data.exists():
        raise FileNotFoundError(f"{data} does not exist; give Karpathy's JSON, its folder, or a prepared data set")
    if data.is_file():
        return CaptionedImages(*read_karpathy(data, images or data.parent, split))
    found = sorted([*data.glob("dataset_*.json"), *data.glob("annotations/dataset_*.json")])
    if len(found) == 1:
        return CaptionedImages(*read_karpathy(found[0], images or data, split))
    if found:
        raise BenchmarkError(f"{data} holds {', '.join(path.name for path in found)}; name one of these files")
    if is_prepared(data):
        if images is not None:
            raise BenchmarkError(f"{data} is a prepared data set and holds its images; leave {images} out")
        return CaptionedImages(*read_prepared(data, split))
    raise BenchmarkError(
        f"{data} holds neither Karpathy's JSON, such as dataset_coco.json, nor a prepared data set; the former is in "
        "caption_datasets.zip of https://cs.stanford.edu/people/karpathy/deepimagesent"
    )
