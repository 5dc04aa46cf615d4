"""ImageNet, its variants, and any folder of classes: every layout gives every image its label."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from align_jax.data.benchmarks import BenchmarkError, open_labelled, read_real, real_labels
from align_jax.data.benchmarks.images import MissingImagesError
from tests.data.benchmarks import layouts
from tests.data.benchmarks.layouts import SYNSETS, VALIDATION, imagenet, jpeg, synset_lines, validation_labels, write

FIRST_NAMES = ("cat", "dogs", "mat", "photo", "image", "the cat", "an image")


def by_number(found) -> list[int]:
    """Labels of validation images in the order of their numbers."""
    names = [Path(name).name for name in found.images.ids]
    return [int(label) for _, label in sorted(zip(names, found.labels, strict=True))]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imagenet(tmp_path_factory.mktemp("imagenet"))


def test_imagenet_with_synset_folders(root: Path) -> None:
    found, train = open_labelled(root), open_labelled(root, split="train")
    assert by_number(found) == validation_labels()
    assert found.classes.keys == train.classes.keys == SYNSETS
    assert found.classes.names is None
    assert train.labels.tolist() == sorted(list(range(7)) * 4)
    assert train.images.read(5) == jpeg(1, 1)
    assert all((root / name).is_file() for name in [*found.images.ids, *train.images.ids])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("synset_words.txt", synset_lines()),
        ("shuffled.txt", "".join(reversed(synset_lines().splitlines(keepends=True)))),
        (
            "imagenet_class_index.json",
            json.dumps({str(n): [SYNSETS[n], FIRST_NAMES[n].replace(" ", "_")] for n in range(7)}),
        ),
        ("names.txt", "".join(f"{name}\n" for name in FIRST_NAMES)),
        ("names.json", json.dumps(FIRST_NAMES)),
    ],
)
def test_class_names_come_from_any_usual_file(root: Path, tmp_path: Path, name: str, content: str) -> None:
    classes = open_labelled(root, classes=write(tmp_path / name, content)).classes
    assert dict(zip(classes.keys, classes.names or (), strict=True)) == dict(zip(SYNSETS, FIRST_NAMES, strict=True))
    assert classes.total == 7


class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Validation images and a test split, as TFDS has ImageNet; the classes are synsets, or bare numbers."""

    name = "prepared"
    code_path = None
    VERSION = tfds.core.Version("2.0.0")
    label: Any = tfds.features.ClassLabel(names=list(SYNSETS))
    several = False

    def _info(self):
        label = {"labels": tfds.features.Sequence(self.label)} if self.several else {"label": self.label}
        features = tfds.features.FeaturesDict(
            {"image": tfds.features.Image(), "file_name": tfds.features.Text()} | label
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "validation": self._generate_examples(3)}

    def _generate_examples(self, count):
        for number in range(count):
            label = {"labels": [number, number + 1]} if self.several else {"label": number}
            yield number, {"image": jpeg(number, 0), "file_name": f"{number}.JPEG"} | label


class BareNumbers(Prepared, skip_registration=True):
    name = "bare_numbers"
    label = np.int64


class SeveralClasses(Prepared, skip_registration=True):
    name = "several_classes"
    several = True


def test_prepared_data_set_with_its_own_classes_or_a_list_of_them(tmp_path: Path) -> None:
    for builder in (Prepared, BareNumbers, SeveralClasses):
        builder(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    shuffled = write(tmp_path / "shuffled.txt", "".join(reversed(synset_lines().splitlines(keepends=True))))
    found = open_labelled(tmp_path / "prepared")
    keys = [found.classes.keys[label] for label in found.labels]
    assert found.split == "validation"
    assert sorted(keys) == list(SYNSETS[:3])
    assert [found.images.read(row) for row in range(3)] == [jpeg(SYNSETS.index(key), 0) for key in keys]
    assert (found.classes.keys, found.classes.names) == (SYNSETS, None)
    assert len(open_labelled(tmp_path / "prepared" / "2.0.0", split="train").images) == 4
    listed = open_labelled(tmp_path / "prepared", classes=shuffled)
    assert listed.classes.names == FIRST_NAMES[::-1]
    assert [listed.classes.keys[label] for label in listed.labels] == keys
    with pytest.raises(BenchmarkError, match=r"are bare numbers; give a list of the classes"):
        open_labelled(tmp_path / "bare_numbers")
    numbered = open_labelled(tmp_path / "bare_numbers", classes=write(tmp_path / "names.txt", "cat\ndog\nmat\n"))
    assert sorted(numbered.labels.tolist()) == [0, 1, 2]
    assert numbered.classes.names == ("cat", "dog", "mat")
    with pytest.raises(BenchmarkError, match=r"label 2, which is none of its 2 classes"):
        open_labelled(tmp_path / "bare_numbers", classes=write(tmp_path / "names.txt", "cat\ndog\n"))
    with pytest.raises(BenchmarkError, match=r"has 2 classes, and images of one are evaluated here"):
        open_labelled(tmp_path / "several_classes")


def test_imagenet_as_kaggle_has_it(tmp_path: Path) -> None:
    root = layouts.kaggle(tmp_path)
    found = open_labelled(root)
    assert by_number(found) == validation_labels()
    assert found.classes.names == FIRST_NAMES
    (root / "val" / VALIDATION.format(4)).unlink()
    with pytest.raises(MissingImagesError, match=r"1 of 14 images .* such as ILSVRC2012_val_00000004"):
        open_labelled(root)


@pytest.mark.parametrize("form", ["devkit", "synsets", "pairs"])
def test_flat_validation_images_with_each_file_of_labels(form: str, tmp_path: Path) -> None:
    root = imagenet(tmp_path / "imagenet", flat=True)
    with pytest.raises(BenchmarkError, match=r"no file with their labels"):
        open_labelled(root)
    labels = validation_labels()
    if form == "devkit":
        path = layouts.devkit(root)
    elif form == "synsets":
        path = write(tmp_path / "labels.txt", "".join(f"{SYNSETS[label]}\n" for label in labels))
    else:
        path = write(
            tmp_path / "val.txt", "".join(f"{VALIDATION.format(n + 1)} {label}\n" for n, label in enumerate(labels))
        )
    assert by_number(open_labelled(root, ground_truth=path)) == labels
    if form == "devkit":
        assert by_number(open_labelled(root)) == labels  # it is found by itself
        (path.parent / "meta.mat").unlink()
        with pytest.raises(FileNotFoundError, match=r"meta\.mat"):
            open_labelled(root)


def test_flat_images_without_training_images_need_a_list_of_classes(tmp_path: Path) -> None:
    folder = imagenet(tmp_path, flat=True) / "val"
    truth = write(tmp_path / "labels.txt", "".join(f"{SYNSETS[label]}\n" for label in validation_labels()))
    with pytest.raises(BenchmarkError, match=r"classes of .* are not known"):
        open_labelled(folder, ground_truth=truth)
    words = write(tmp_path / "words.txt", synset_lines())
    assert by_number(open_labelled(folder, ground_truth=truth, classes=words)) == validation_labels()
    write(tmp_path / "words.txt", synset_lines(SYNSETS[:6]))
    with pytest.raises(BenchmarkError, match=r"no class, such as n07739125"):
        open_labelled(folder, ground_truth=truth, classes=words)
    write(tmp_path / "labels.txt", f"{SYNSETS[0]}\n")
    with pytest.raises(BenchmarkError, match=r"13 images .* have no label"):
        open_labelled(folder, ground_truth=truth, classes=words)


def test_imagenet_v2_counts_folders_as_numbers(tmp_path: Path) -> None:
    folder = layouts.imagenet_v2(tmp_path)
    found = open_labelled(folder)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 10, 10]
    assert len(found.classes.keys) == 11
    names = write(tmp_path / "names.txt", "".join(f"class {n}\n" for n in range(12)))
    assert (open_labelled(folder, classes=names).classes.names or ())[10] == "class 10"
    write(tmp_path / "names.txt", "a\nb\n")
    with pytest.raises(BenchmarkError, match=r"folder 10, but .* lists 2 classes"):
        open_labelled(folder, classes=names)


def test_imagenet_r_and_a_name_their_classes_in_the_readme(tmp_path: Path) -> None:
    rendered, adversarial = open_labelled(layouts.imagenet_r(tmp_path)), open_labelled(layouts.imagenet_a(tmp_path))
    assert rendered.classes.names == ("dogs", "photo", "an image")
    assert rendered.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert adversarial.classes.names == ("cat", "the cat")
    words = write(tmp_path / "synset_words.txt", synset_lines())
    among_all = open_labelled(tmp_path / "imagenet-r", classes=words).classes
    assert (among_all.numbers, among_all.total) == ((1, 3, 6), 7)


def test_any_folder_of_classes(tmp_path: Path) -> None:
    for name in ("golden_retriever/1.png", "golden_retriever/2.WEBP", "cat/1.jpg", "cat/notes.txt"):
        write(tmp_path / "pets" / name, b"")
    found = open_labelled(tmp_path / "pets")
    assert found.classes.names == ("cat", "golden retriever")
    assert found.images.ids == ("cat/1.jpg", "golden_retriever/1.png", "golden_retriever/2.WEBP")
    assert found.labels.tolist() == [0, 1, 1]


def test_val_is_evaluated_also_where_there_are_no_training_images(tmp_path: Path) -> None:
    """Never one class called val, for which every answer is right."""
    flat = imagenet(tmp_path / "flat", flat=True, train_images=0)
    labels = "".join(f"{Path(VALIDATION.format(n + 1)).stem},{SYNSETS[x]}\n" for n, x in enumerate(validation_labels()))
    write(flat / "LOC_val_solution.csv", f"ImageId,PredictionString\n{labels}")
    write(flat / "synset_words.txt", synset_lines())
    folders = imagenet(tmp_path / "folders", train_images=0)
    for root in (flat, folders):
        assert not (root / "train").exists()
        found = open_labelled(root)
        assert (found.split, found.classes.keys) == ("val", SYNSETS)
        assert by_number(found) == validation_labels()


def test_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("test/cat/1.png", "test/dog/1.png", "train/cat/2.png", "train/dog/2.png", "notes/1.png"):
        write(tmp_path / "pets" / name, b"")
    with pytest.raises(BenchmarkError, match=r"holds the splits test, train; choose one with --split"):
        open_labelled(tmp_path / "pets")
    assert open_labelled(tmp_path / "pets", split="test").labels.tolist() == [0, 1]
    write(tmp_path / "flat" / "test" / "1.png", b"")
    with pytest.raises(BenchmarkError, match=r"holds the splits test; choose one"):
        open_labelled(tmp_path / "flat")
    for name in ("bus/1.png", "train/1.png"):
        write(tmp_path / "vehicles" / name, b"")
    assert open_labelled(tmp_path / "vehicles").classes.keys == ("bus", "train")


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "val" / "cat" / "1.png", b"")
    with pytest.raises(BenchmarkError, match=r"single class cat"):
        open_labelled(tmp_path)


def test_wrong_split_and_unknown_synsets_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"no folder 'test' for that split; it has train, val"):
        open_labelled(root, split="test")
    words = write(tmp_path / "words.txt", synset_lines(SYNSETS[:5]))
    with pytest.raises(BenchmarkError, match=r"2 of 7 classes .* such as n06793231"):
        open_labelled(root, classes=words)
    other = imagenet(tmp_path / "imagenet")
    (other / "val" / SYNSETS[2]).rename(other / "val" / "n09999999")
    with pytest.raises(BenchmarkError, match=r"1 of 7 folders .* such as n09999999"):
        open_labelled(other)
    with pytest.raises(FileNotFoundError, match=r"is no folder"):
        open_labelled(tmp_path / "absent")


def test_folders_without_images_are_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(BenchmarkError, match=r"cat holds no images"):
        open_labelled(tmp_path)
    with pytest.raises(BenchmarkError, match=r"neither a folder for each class nor images"):
        open_labelled(tmp_path / "cat")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "", "lists no classes"),
        ("a.txt", "n01440764 tench\nworm\n", "lists no classes"),
        ("a.txt", "n01440764 a\nn01440764 b\n", "n01440764 more than once"),
        ("a.json", '{"1": ["n01440764", "tench"]}', "lists no classes"),
        ("a.json", "[3]", "lists no classes"),
        ("a.txt", "cat\ndog\n", "lists 2 names without synsets, but .* has 7 classes"),
    ],
)
def test_lists_of_classes_that_are_none_are_refused(
    root: Path, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    with pytest.raises(BenchmarkError, match=reason):
        open_labelled(root, classes=write(tmp_path / name, content))


def test_real_labels_follow_the_number_in_the_name(root: Path, tmp_path: Path) -> None:
    real = read_real(layouts.real(tmp_path / "real.json"))
    found = open_labelled(root)
    labels = dict(zip(found.images.ids, real_labels(real, found.images.ids, found.classes), strict=True))
    assert labels[f"val/{SYNSETS[2]}/{VALIDATION.format(3)}"] == []
    assert labels[f"val/{SYNSETS[1]}/{VALIDATION.format(9)}"] == [1, 4]
    with pytest.raises(BenchmarkError, match=r"has no ReaL labels"):
        real_labels(real, open_labelled(root, split="train").images.ids, found.classes)
    with pytest.raises(BenchmarkError, match=r"has no ReaL labels"):
        real_labels(real[:3], found.images.ids, found.classes)
    with pytest.raises(BenchmarkError, match=r"has ReaL label 9, which is none of the 7 classes"):
        real_labels([[9], *real[1:]], found.images.ids, found.classes)
    with pytest.raises(BenchmarkError, match=r"not one of 14 images has a ReaL label"):
        real_labels([[]] * len(real), found.images.ids, found.classes)


def test_real_labels_of_some_classes_are_places_among_them(tmp_path: Path) -> None:
    for label in (1, 4):
        write(tmp_path / "val" / SYNSETS[label] / VALIDATION.format(label), b"")
    write(tmp_path / "synset_words.txt", synset_lines())
    found = open_labelled(tmp_path)
    assert real_labels([[1, 4], [], [], [4]], found.images.ids, found.classes) == [[0, 1], [1]]


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[["a"]]', "[[-1]]"])
def test_other_json_is_no_list_of_real_labels(content: str, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"JSON|list of lists"):
        read_real(write(tmp_path / "real.json", content))
