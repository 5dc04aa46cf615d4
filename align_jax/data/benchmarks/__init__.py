"""The data sets that models are compared on, in the folders and files that they are distributed as.

    open_captioned    COCO and Flickr30k with Karpathy's splits or their own, or a data set prepared by TFDS
    open_labelled     ImageNet, ImageNet-V2, -R and -A, any folder with a folder of images for each class, or prepared
    read_real         the labels of "Are we done with ImageNet?", which name all right classes of an image

Nothing is taken for granted: an image, a class or a split that is not there is named before anything is computed.
"""

from align_jax.data.benchmarks.captioned import CaptionedImages, open_captioned
from align_jax.data.benchmarks.classes import Classes
from align_jax.data.benchmarks.images import BenchmarkError, ImageSet
from align_jax.data.benchmarks.labelled import LabelledImages, open_labelled
from align_jax.data.benchmarks.real import read_real, real_labels

__all__ = [
    "BenchmarkError",
    "CaptionedImages",
    "Classes",
    "ImageSet",
    "LabelledImages",
    "open_captioned",
    "open_labelled",
    "read_real",
    "real_labels",
]
