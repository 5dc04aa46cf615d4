"""Small data sets with the folders, file names and files of the real ones."""

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from align_jax.data.img2dataset.tf_record import masked_crc

SYNSETS = ("n01440764", "n01443537", "n02084071", "n02121808", "n03727837", "n06793231", "n07739125")
NAMES = ("cat, feline", "dogs", "mat", "photo", "image", "the cat", "an image")
VALIDATION = "ILSVRC2012_val_{:08d}.JPEG"
TEST_IMAGES, CAPTIONS = 9, 5
_WORDS = ("a", "an", "cat", "dog", "photo", "image", "of", "the", "on", "mat")


def jpeg(group: int, number: int) -> bytes:
    """A picture that resembles the others of its group."""
    base = np.random.default_rng(group).integers(0, 256, (5, 6, 3))
    noise = np.random.default_rng([group, number]).integers(-20, 21, (5, 6, 3))
    picture = Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8)).resize((48 + number, 40))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sentences(image: int, count: int = CAPTIONS) -> list[str]:
    rng = np.random.default_rng(image)
    return [" ".join(rng.choice(_WORDS, size=3 + number)) for number in range(count)]


def _entries(names: Sequence[tuple[str, str]], filepaths: Sequence[str] | None) -> list[dict[str, Any]]:
    entries = []
    for number, (split, name) in enumerate(names):
        # Some images of COCO have more than five captions.
        texts = sentences(number, CAPTIONS + (number == 1))
        ids = [100 * number + each for each in range(len(texts))]
        written = [
            {"tokens": text.split(), "raw": f"{text}\n" if number == 2 else text, "imgid": number, "sentid": one}
            for one, text in zip(ids, texts, strict=True)
        ]
        entry = {"sentids": ids, "filename": name, "imgid": number, "split": split, "sentences": written}
        entries.append(
            entry if filepaths is None else {"filepath": filepaths[number], **entry, "cocoid": 1000 + number}
        )
    return entries


def coco(root: Path) -> Path:
    """dataset_coco.json, train2014/ and val2014/."""
    splits = [*(["test"] * TEST_IMAGES), "val", "val", "train", "restval"]
    filepaths = ["train2014" if split == "train" else "val2014" for split in splits]
    names = [f"COCO_{folder}_{1000 + number:012d}.jpg" for number, folder in enumerate(filepaths)]
    entries = _entries(list(zip(splits, names, strict=True)), filepaths)
    write(root / "dataset_coco.json", json.dumps({"images": entries, "dataset": "coco"}))
    for number, (folder, name) in enumerate(zip(filepaths, names, strict=True)):
        write(root / folder / name, jpeg(number, 0))
    return root


def flickr30k(root: Path) -> Path:
    """dataset_flickr30k.json and flickr30k-images/."""
    names = [("test" if number < TEST_IMAGES else "train", f"{1000092795 + number}.jpg") for number in range(12)]
    write(root / "dataset_flickr30k.json", json.dumps({"images": _entries(names, None), "dataset": "flickr30k"}))
    for number, (_, name) in enumerate(names):
        write(root / "flickr30k-images" / name, jpeg(number, 0))
    return root


def own_coco(root: Path) -> Path:
    """annotations/captions_val2017.json, where captions stand in no order of the images, and val2017/."""
    files = [{"license": 3, "file_name": f"{1000 + n:012d}.jpg", "height": 40, "id": 1000 + n} for n in range(3)]
    texts = [(number, text) for number in range(3) for text in sentences(number, CAPTIONS + (number == 1))]
    texts.sort(key=lambda pair: pair[0] % 2, reverse=True)
    captions = [{"image_id": 1000 + n, "id": 48 + row, "caption": f"{text} "} for row, (n, text) in enumerate(texts)]
    for number, entry in enumerate(files):
        write(root / "val2017" / str(entry["file_name"]), jpeg(number, 0))
    content = {"info": {}, "licenses": [], "images": files, "annotations": captions}
    return write(root / "annotations" / "captions_val2017.json", json.dumps(content))


def own_flickr30k(root: Path, name: str) -> Path:
    """results_20130124.token or Kaggle's results.csv, one line of which lacks a bar, and flickr30k-images/."""
    lines = [] if name.endswith("token") else ["image_name| comment_number| comment"]
    for number in range(3):
        image = f"{1000092795 + number}.jpg"
        write(root / "flickr30k-images" / image, jpeg(number, 0))
        for row, text in enumerate([*sentences(number)[:4], "3 dogs | cats , #1 ."]):
            bar = "   " if (number, row) == (1, 2) else "| "
            lines.append(f"{image}#{row}\t{text}" if name.endswith("token") else f"{image}| {row}{bar}{text}")
    return write(root / name, "\n".join(lines) + "\n")


class CocoCaptions(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features and splits of TFDS' `coco_captions/2014`."""

    name = "coco_captions"
    code_path = None
    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2014", description="COCO 2014")]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        objects = {
            "area": np.int64, "bbox": tfds.features.BBoxFeature(), "id": np.int64, "is_crowd": np.bool_,
            "label": tfds.features.ClassLabel(num_classes=80),
        }  # fmt: skip
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"), "image/filename": tfds.features.Text(),
            "image/id": np.int64, "objects": tfds.features.Sequence(objects),
            "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
        }  # fmt: skip
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"test": self._generate_examples(range(TEST_IMAGES)), "val": self._generate_examples(range(20, 22))}

    def _generate_examples(self, numbers: range) -> Any:
        for number in numbers:
            name = f"COCO_val2014_{1000 + number:012d}.jpg"
            captions = [{"text": text, "id": each} for each, text in enumerate(sentences(number))]
            image = io.BytesIO(jpeg(number, 0))
            yield name, {
                "image": image, "image/filename": name, "image/id": number, "objects": [], "captions": captions
            }  # fmt: skip


def coco_captions(data_dir: Path, file_format: str = "array_record") -> Path:
    """What `tfds build coco_captions` leaves; its default is tfrecord."""
    builder = CocoCaptions(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    folder = Path(builder.data_dir)
    if file_format == "tfrecord":
        for path in folder.glob("*array_record*"):
            source = ArrayRecordDataSource([str(path)])
            frames = [
                b"".join(part + struct.pack("<I", masked_crc(part)) for part in (struct.pack("<Q", len(one)), one))
                for one in map(source.__getitem__, range(len(source)))
            ]
            path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(b"".join(frames))
            path.unlink()
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace("array_record", "tfrecord").replace("ARRAY_RECORD", "TFRECORD"))
    return data_dir / "coco_captions"


def synset_lines(synsets: Sequence[str] = SYNSETS) -> str:
    """LOC_synset_mapping.txt."""
    return "".join(f"{key} {name}\n" for key, name in zip(synsets, NAMES, strict=False))


def imagenet(root: Path, *, flat: bool = False, train_images: int = 4) -> Path:
    """train/ and val/, two validation images of each class, numbered across the classes."""
    for label, key in enumerate(SYNSETS):
        for number in range(train_images):
            write(root / "train" / key / f"{key}_{10026 + number}.JPEG", jpeg(label, number))
    for number in range(2 * len(SYNSETS)):
        label = number % len(SYNSETS)
        name = VALIDATION.format(number + 1)
        write(root / "val" / (name if flat else f"{SYNSETS[label]}/{name}"), jpeg(label, 50 + number))
    return root


def validation_labels() -> list[int]:
    """Of the validation images, by number."""
    return [number % len(SYNSETS) for number in range(2 * len(SYNSETS))]


def kaggle(root: Path) -> Path:
    """ILSVRC/Data/CLS-LOC, with the labels and the classes in files above it."""
    imagenet(root / "ILSVRC" / "Data" / "CLS-LOC", flat=True)
    rows = [
        f"{Path(VALIDATION.format(n + 1)).stem},{SYNSETS[label]} 1 2 30 40 "
        for n, label in enumerate(validation_labels())
    ]
    write(root / "LOC_val_solution.csv", "ImageId,PredictionString\n" + "\n".join(reversed(rows)) + "\n")
    write(root / "LOC_synset_mapping.txt", synset_lines())
    return root / "ILSVRC" / "Data" / "CLS-LOC"


def devkit(root: Path) -> Path:
    """ILSVRC2012_devkit_t12/data: numbers that are not in the order of the synsets, and inner nodes."""
    numbers = {key: number for number, key in enumerate(reversed(SYNSETS), start=1)}
    rows = [(number, key, 0) for key, number in numbers.items()] + [(len(SYNSETS) + 1, "n00001740", 3)]
    table = np.zeros((len(rows), 1), dtype=[(name, "O") for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")])
    for row, (number, key, children) in enumerate(rows):
        table[row, 0] = (number, key, "words", children)
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    scipy.io.savemat(folder / "meta.mat", {"synsets": table})
    lines = "".join(f"{numbers[SYNSETS[label]]}\n" for label in validation_labels())
    return write(folder / "ILSVRC2012_validation_ground_truth.txt", lines)


def imagenet_v2(root: Path) -> Path:
    """Folders named by the number of the class, among which 10 comes behind 2."""
    folder = root / "imagenetv2-matched-frequency-format-val"
    for label in (0, 1, 2, 10):
        for number in range(2):
            write(folder / str(label) / f"{label:02x}{number:038x}.jpeg", jpeg(label, number))
    return folder


def imagenet_r(root: Path) -> Path:
    """Some of the classes, with their names in the README."""
    folder = root / "imagenet-r"
    for label in (1, 3, 6):
        for name in ("art_0.jpg", "sketch_1.jpg"):
            write(folder / SYNSETS[label] / name, jpeg(label, len(name)))
    lines = "".join(f"{SYNSETS[label]} {NAMES[label].replace(' ', '_')}\n" for label in (1, 3, 6))
    write(folder / "README.txt", f"ImageNet-R(endition)\n\nThe classes are\n{lines}\nPlease cite us.\n")
    return folder


def imagenet_a(root: Path) -> Path:
    """As ImageNet-R; the names of the files have spaces."""
    folder = root / "imagenet-a"
    for label in (0, 5):
        name = f"0.00347{label}_goldfish _ goldfish_0.52.jpg"
        write(folder / SYNSETS[label] / name, jpeg(label, 0))
    write(
        folder / "README.txt", "Natural adversarial examples\n" + "".join(f"{SYNSETS[n]} {NAMES[n]}\n" for n in (0, 5))
    )
    return folder


def real(path: Path) -> Path:
    """real.json: the label and another one; nothing for the third image."""
    labels = [[] if n == 2 else [label, (label + 3) % len(SYNSETS)] for n, label in enumerate(validation_labels())]
    return write(path, json.dumps(labels))
