"""COCO and Flickr30k as they are distributed, and as TFDS prepares them."""

import json
from pathlib import Path

import pytest

from align_jax.data.benchmarks import BenchmarkError, open_captioned
from align_jax.data.benchmarks.images import MissingImagesError
from align_jax.data.images import decode_image
from tests.data.benchmarks.layouts import (
    CAPTIONS,
    TEST_IMAGES,
    coco,
    coco_captions,
    flickr30k,
    jpeg,
    own_coco,
    own_flickr30k,
    sentences,
)


@pytest.mark.parametrize("layout", [coco, flickr30k])
def test_split_of_karpathy_has_its_images_and_captions(layout, tmp_path: Path) -> None:
    found = open_captioned(layout(tmp_path))
    assert len(found.images) == TEST_IMAGES
    assert found.captions[0] == tuple(sentences(0))
    assert found.captions[1] == tuple(sentences(1, CAPTIONS + 1))
    assert found.captions[2] == tuple(sentences(2))  # without the newline
    assert [found.images.read(number) for number in range(3)] == [jpeg(number, 0) for number in range(3)]
    assert all((tmp_path / name).is_file() for name in found.images.ids)  # so align-jax embed names them alike


def test_coco_folders_follow_the_image_and_splits_have_their_own(tmp_path: Path) -> None:
    coco(tmp_path)
    assert open_captioned(tmp_path, split="train").images.ids == ("train2014/COCO_train2014_000000001011.jpg",)
    assert open_captioned(tmp_path, split="restval").images.ids == ("val2014/COCO_val2014_000000001012.jpg",)
    with pytest.raises(BenchmarkError, match=r"no split 'dev'; it has restval, test, train, val"):
        open_captioned(tmp_path, split="dev")


def test_captions_of_coco_as_they_are_distributed(tmp_path: Path) -> None:
    annotations = own_coco(tmp_path)
    found = open_captioned(tmp_path)
    assert found.split == "val2017"
    assert found.captions == (tuple(sentences(0)), tuple(sentences(1, 6)), tuple(sentences(2)))
    assert found.images.ids == tuple(f"val2017/{1000 + number:012d}.jpg" for number in range(3))
    assert [found.images.read(number) for number in range(3)] == [jpeg(number, 0) for number in range(3)]
    for given in (
        open_captioned(annotations),
        open_captioned(tmp_path, split="val2017"),
        open_captioned(annotations, images=tmp_path / "val2017"),
    ):
        assert given.captions == found.captions
    with pytest.raises(BenchmarkError, match=r"is of the split val2017, not of test"):
        open_captioned(annotations, split="test")
    with pytest.raises(BenchmarkError, match=r"holds captions_val2017\.json, and no such file of the split test"):
        open_captioned(tmp_path, split="test")
    (tmp_path / "annotations" / "captions_val2014.json").write_text("{}")
    with pytest.raises(BenchmarkError, match=r"captions_val2014\.json, captions_val2017\.json; name one"):
        open_captioned(tmp_path)
    with pytest.raises(BenchmarkError, match=r"is none of COCO's files of captions"):
        open_captioned(tmp_path, split="val2014")
    coco(tmp_path)
    assert open_captioned(tmp_path).split == "test"  # Karpathy's, which published numbers are of


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"annotations": []}, r"image 000000001000\.jpg has no caption"),
        ({"annotations": [{"image_id": 5, "id": 1, "caption": "a"}]}, "none of COCO's files"),
        ({"images": []}, "none of COCO's files"),
        ({"images": [{"id": 1, "file_name": "../../a.jpg"}]}, "none of COCO's files"),
    ],
)
def test_other_json_is_none_of_cocos(change: dict, reason: str, tmp_path: Path) -> None:
    path = own_coco(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BenchmarkError, match=reason):
        open_captioned(path)


@pytest.mark.parametrize("name", ["results_20130124.token", "results.csv"])
def test_captions_of_flickr30k_as_they_are_distributed(name: str, tmp_path: Path) -> None:
    path = own_flickr30k(tmp_path, name)
    for found in (open_captioned(tmp_path), open_captioned(path, split="all")):
        assert found.split == "all"
        assert found.captions == tuple((*sentences(number)[:4], "3 dogs | cats , #1 .") for number in range(3))
        assert found.images.ids == tuple(f"flickr30k-images/{1000092795 + number}.jpg" for number in range(3))
        assert found.images.read(2) == jpeg(2, 0)
    with pytest.raises(BenchmarkError, match=r"no split 'test'; take dataset_flickr30k\.json of Karpathy"):
        open_captioned(tmp_path, split="test")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1]]))
    with pytest.raises(BenchmarkError, match=rf"line {len(lines) + 1} of .* is no new caption"):
        open_captioned(path)
    path.write_text(f"{lines[0]}\n../a.jpg|0|a dog\n")
    with pytest.raises(BenchmarkError, match=r"leads out of the folder"):
        open_captioned(path)
    path.write_text(lines[0][:4])
    with pytest.raises(BenchmarkError, match=r"line 1 of .* is no new caption"):
        open_captioned(path)


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    annotations = (tmp_path / "coco" / "dataset_coco.json").rename(tmp_path / "dataset_coco.json")
    found = open_captioned(annotations, images=tmp_path / "coco" / "val2014")
    assert found.images.ids[0] == "COCO_val2014_000000001000.jpg"
    assert open_captioned(tmp_path, images=tmp_path / "coco").images.ids[0].startswith("val2014/")


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    coco(tmp_path)
    for number in (3, 5):
        (tmp_path / "val2014" / f"COCO_val2014_{1000 + number:012d}.jpg").unlink()
    with pytest.raises(MissingImagesError, match=r"2 of 9 images .* val2014/COCO_val2014_000000001003\.jpg"):
        open_captioned(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": [{"filename": "a.jpg", "split": "test"}]}', '{"images": 3}']
)
def test_other_json_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_coco.json").write_text(content)
    with pytest.raises(BenchmarkError, match=r"is not one of Karpathy's"):
        open_captioned(tmp_path)


@pytest.mark.parametrize("change", [{"filename": "../../secret.jpg"}, {"filename": "/etc/passwd"}, {"sentences": []}])
def test_names_that_lead_out_and_images_without_caption_are_refused(change: dict, tmp_path: Path) -> None:
    path = coco(tmp_path) / "dataset_coco.json"
    content = json.loads(path.read_text())
    content["images"][4].update(change, filepath="")
    path.write_text(json.dumps(content))
    with pytest.raises(BenchmarkError, match=r"cannot be read: its name|has no caption"):
        open_captioned(path)


def test_folder_that_is_something_else_or_ambiguous_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent"):
        open_captioned(tmp_path / "absent")
    with pytest.raises(BenchmarkError, match=r"neither Karpathy's JSON"):
        open_captioned(tmp_path)
    coco(tmp_path)
    flickr30k(tmp_path)
    with pytest.raises(BenchmarkError, match=r"dataset_coco\.json, dataset_flickr30k\.json; name one"):
        open_captioned(tmp_path)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_what_tfds_prepared_is_read_in_either_format(file_format: str, tmp_path: Path) -> None:
    folder = coco_captions(tmp_path, file_format)
    found = open_captioned(folder)
    assert len(found.images) == TEST_IMAGES
    assert sorted(found.captions) == sorted(tuple(sentences(number)) for number in range(TEST_IMAGES))
    numbers = [[tuple(sentences(n)) for n in range(TEST_IMAGES)].index(texts) for texts in found.captions]
    for row, number in enumerate(numbers):
        assert found.images.read(row) == jpeg(number, 0)
        assert decode_image(found.images.read(row)).shape[2] == 3
    with pytest.raises(BenchmarkError, match=r"no split 'train'; it has test, val"):
        open_captioned(folder, split="train")
    with pytest.raises(BenchmarkError, match=r"leave"):
        open_captioned(folder, images=tmp_path)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (3, "ends within record 0"),  # of the length
        (9, "ends within record 0"),  # of its checksum
        (200, "record 0 of .* cannot be read: its checksum"),
        (-1, "record 8 of .* cannot be read: its checksum"),
    ],
)
def test_flipped_bit_of_a_tfrecord_is_an_error(place: int, reason: str, tmp_path: Path) -> None:
    folder = coco_captions(tmp_path, "tfrecord")
    (path,) = folder.glob("*/*/*test.tfrecord*")
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(BenchmarkError, match=reason):
        open_captioned(folder)


def test_cut_tfrecord_is_an_error(tmp_path: Path) -> None:
    folder = coco_captions(tmp_path, "tfrecord")
    (path,) = folder.glob("*/*/*test.tfrecord*")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BenchmarkError, match=r"ends within record 8"):
        open_captioned(folder)
