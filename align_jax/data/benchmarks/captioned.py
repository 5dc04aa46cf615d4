"""Opens images with several captions each: COCO and Flickr30k with Karpathy's splits or their own, or made by TFDS."""

from dataclasses import dataclass
from pathlib import Path

from align_jax.data.benchmarks import coco, flickr30k
from align_jax.data.benchmarks.images import BenchmarkError, ImageSet
from align_jax.data.benchmarks.karpathy import read_karpathy
from align_jax.data.benchmarks.prepared import is_prepared, read_prepared


@dataclass(frozen=True)
class CaptionedImages:
    """A split of images with captions.

    Attributes:
        images: in the order of the data set.
        captions: one or more of each image.
        split: its name.
    """

    images: ImageSet
    captions: tuple[tuple[str, ...], ...]
    split: str


def open_captioned(data: Path, *, images: Path | None = None, split: str | None = None) -> CaptionedImages:
    """Opens one split.

    Args:
        data: Karpathy's `dataset_coco.json` or `dataset_flickr30k.json`; COCO's own `captions_val2017.json`, or
            Flickr30k's `results_20130124.token` or `results.csv`; a folder that one of them lies in, itself or in
            `annotations`; or the folder of a data set that TFDS or `align-jax data` has prepared.
        images: the folder that the images of a file lie in, where it is not `data` or that of the file.
        split: "test" (the default), "val", "train" or "restval" of Karpathy, whose file is taken where there is one;
            "val2017" (the default) or "train2017" of COCO's own, or their beginnings; "all" of Flickr30k's own.

    Raises:
        FileNotFoundError: if the data, or some images, are not there.
        BenchmarkError: if it is none of these, or has no such split.
    """
    if not data.exists():
        raise FileNotFoundError(f"{data} does not exist; give Karpathy's JSON, its folder, or a prepared data set")
    found = [data] if data.is_file() else _annotations(data, split)
    if len(found) > 1:
        raise BenchmarkError(f"{data} holds {', '.join(path.name for path in found)}; name one of these files")
    if found:
        return _of_file(found[0], images or _folder_of(found[0] if data.is_file() else data), split)
    if is_prepared(data):
        if images is not None:
            raise BenchmarkError(f"{data} is a prepared data set and holds its images; leave {images} out")
        split = split or "test"
        return CaptionedImages(*read_prepared(data, split), split)
    raise BenchmarkError(
        f"{data} holds neither Karpathy's JSON, such as dataset_coco.json, nor captions of COCO or Flickr30k, nor a "
        "prepared data set; the first, which published numbers are of, is in caption_datasets.zip of "
        "https://cs.stanford.edu/people/karpathy/deepimagesent"
    )


def _annotations(folder: Path, split: str | None) -> list[Path]:
    """Files of the first kind that there are any of."""
    for pattern in ("dataset_*.json", f"captions_{split or 'val'}*.json", *flickr30k.FILES):
        if found := sorted(path for place in ("", "annotations/") for path in folder.glob(place + pattern)):
            return found
    if found := sorted(
        path.name for path in [*folder.glob("captions_*.json"), *folder.glob("annotations/captions_*.json")]
    ):
        raise BenchmarkError(
            f"{folder} holds {', '.join(found)}, and no such file of the split {split or 'val'}; choose another, or "
            "take dataset_coco.json of Karpathy, whose test split published numbers are of"
        )
    return []


def _folder_of(path: Path) -> Path:
    """The folder of the images that belong to a file, or `path` where it is a folder."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def _of_file(path: Path, images: Path, split: str | None) -> CaptionedImages:
    if path.stem.startswith("captions_"):
        known = coco.split_of(path)
        if not known.startswith(split or ""):
            raise BenchmarkError(f"{path} is of the split {known}, not of {split}; name another file")
        return CaptionedImages(*coco.read_coco(path, images), known)
    if path.suffix.lower() in (".token", ".csv"):
        if split not in (None, "all"):
            raise BenchmarkError(
                f"{path} has all images and no split {split!r}; take dataset_flickr30k.json of Karpathy, whose test "
                "split published numbers are of, or --split all"
            )
        return CaptionedImages(*flickr30k.read_flickr30k(path, images), "all")
    split = split or "test"
    return CaptionedImages(*read_karpathy(path, images, split), split)
