import io
import json

import numpy as np
import pytest
from PIL import Image

from align_jax.data.builders.captioned_images import CaptionedImages, prepare, skipped_by_reason
from align_jax.data.captions import CaptionedFiles, Skipped, find_captioned_files
from align_jax.data.records import DatasetError, PairDataset


def png(level):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name, content in {"a": png(1), "deep/b": png(2), "broken": png(3)[:30], "mute": png(4)}.items():
        (folder / f"{name}.png").write_bytes(content)
        (folder / f"{name}.txt").write_text("" if name == "mute" else f"{name} one\n{name} two\n")
    return folder


def test_pairs_are_stored_as_they_are_and_the_rest_is_listed(folder, tmp_path):
    builder = CaptionedImages("pictures", find_captioned_files(folder), tmp_path / "data")
    prepare(builder)
    source = PairDataset("pictures", "train", str(tmp_path / "data")).open()
    found = {record.key: record for record in source}
    assert {key: record.texts for key, record in found.items()} == {
        "a.png": ("a one", "a two"),
        "deep/b.png": ("deep/b one", "deep/b two"),
    }
    assert found["a.png"].image == png(1)
    lines = (tmp_path / "data" / "pictures" / "1.0.0" / "skipped.jsonl").read_text().splitlines()
    skipped = {entry["name"]: entry["reason"] for entry in map(json.loads, lines)}
    assert skipped.keys() == {"broken.png", "mute.png"}
    assert skipped["mute.png"] == "it has no caption"
    assert skipped["broken.png"].startswith("it does not decode: ")


def test_two_data_sets_of_one_process_keep_apart(folder, tmp_path):
    for name in ("first", "second", "second"):
        files = CaptionedFiles(folder, {"a.png": (f"caption of {name}",)})
        prepare(CaptionedImages(name, files, tmp_path / "data"))
    (record,) = PairDataset("second", "train", str(tmp_path / "data")).open()
    assert record.texts == ("caption of second",)


def test_nothing_usable_is_an_error_that_counts_reasons(folder, tmp_path):
    files = CaptionedFiles(folder, {"broken.png": ("x",)}, [Skipped("mute.png", "it has no caption")])
    with pytest.raises(DatasetError, match=r"no usable pair.*1 left out because it has no caption \(as mute.png\)"):
        prepare(CaptionedImages("pictures", files, tmp_path / "data"))
    assert not CaptionedImages("pictures", files, tmp_path / "data").is_prepared()


def test_reasons_are_counted_most_frequent_first():
    skipped = [Skipped("a", "it is late"), Skipped("b", "it is early"), Skipped("c", "it is early")]
    assert skipped_by_reason(skipped) == ("2 left out because it is early (as b); 1 left out because it is late (as a)")
    assert skipped_by_reason([]) == "nothing was left out"


@pytest.mark.parametrize("name", ["../x", "Birds", "", "1st"])
def test_name_that_is_no_name_is_an_error(folder, tmp_path, name):
    with pytest.raises(DatasetError, match="lower-case letters"):
        CaptionedImages(name, CaptionedFiles(folder, {}), tmp_path)
