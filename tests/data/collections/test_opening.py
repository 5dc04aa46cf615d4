"""What an input is found out to be, and what is said where it is nothing."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align_jax.data.builders.captioned_images import CaptionedImages, prepare
from align_jax.data.captions import find_captioned_files
from align_jax.data.collections import CollectionError, Options, open_images, open_texts
from tests.data.collections.made import (
    assert_restarts_anywhere,
    entries,
    ids,
    picture,
    sample,
    tar_bytes,
    write_csv,
    write_tree,
)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Three prepared pairs."""
    root = tmp_path_factory.mktemp("prepared")
    files = {f"{name}.png": picture(seed, form="PNG") for seed, name in enumerate("abc")}
    write_tree(root / "pictures", files | {f"{name}.txt": f"a {name}" for name in "abc"})
    found = find_captioned_files(root / "pictures", None, "image", "caption")
    prepare(CaptionedImages("letters", found, root / "data"))
    return root / "data"


@pytest.mark.parametrize("below", ["", "letters", "letters/1.0.0"])
def test_prepared_data_set_is_images_and_texts(data_set, below):
    images, texts = open_images(data_set / below), open_texts(data_set / below)
    assert images.form == "array_record"
    assert sorted(entry.content for entry in entries(texts)) == [b"a a", b"a b", b"a c"]
    assert ids(images) == ids(texts)
    assert_restarts_anywhere(images)
    carried = entries(open_images(data_set / below, Options(columns=("text",))))
    assert [entry.columns["text"].encode() for entry in carried] == [entry.content for entry in entries(texts)]


def test_data_set_without_a_split_or_feature_names_those_there_are(data_set):
    with pytest.raises(CollectionError, match="has no split 'val'; it has train"):
        open_images(data_set, Options(split="val"))
    with pytest.raises(CollectionError, match="has no column picture; it has"):
        open_images(data_set, Options(column="picture"))


def test_options_open_the_same_again_and_others_have_other_digests(data_set, tmp_path):
    write_tree(
        tmp_path,
        {f"{root}/a.jpg": picture() for root in "rs"} | {"list.txt": "a.jpg\n", "0.tar": tar_bytes(sample("a"))},
    )
    write_csv(tmp_path / "a.csv", [["text", "other", "key"], ["x", "y", "z"]])
    pq.write_table(pa.table({"text": ["x"], "other": ["y"], "key": ["z"]}), tmp_path / "a.parquet")
    named: Any = {"column": "other"}, {"id_column": "text"}
    roots: Any = {"root": tmp_path / "r"}, {"root": tmp_path / "s"}
    for opener, path, first, others in (
        (open_texts, tmp_path / "a.csv", {"column": "text", "id_column": None}, named),
        (open_texts, tmp_path / "a.parquet", {"column": "text", "id_column": "key"}, named),
        (open_texts, tmp_path / "0.tar", {"column": None}, [{"column": "json"}]),
        (open_texts, data_set, {"column": "text", "split": "train"}, [{"column": "key"}, {"split": "train[:2]"}]),
        (open_images, tmp_path / "list.txt", {"column": None, "id_column": None, "root": None}, roots),
    ):
        collections = [opener(path, Options(**each)) for each in ({}, *others)]
        assert collections[0].options == first
        assert len({collection.digest for collection in collections}) == len(collections)
        for collection in collections:
            assert opener(path, Options(**collection.options)).digest == collection.digest
    assert open_images(tmp_path / "list.txt", Options(root=tmp_path)).options["root"] is None


def test_another_header_is_another_input(tmp_path):
    write_tree(tmp_path, {"a/0.csv": "text,other\nx,y\n", "b/0.csv": "other,text\nx,y\n"})
    assert open_texts(tmp_path / "a").digest != open_texts(tmp_path / "b").digest


def test_form_is_found_out(tmp_path):
    write_tree(tmp_path, {"images/a.jpg": picture(), "tars/0.tar": tar_bytes(sample("a")), "list.txt": "images/a.jpg"})
    write_csv(tmp_path / "a.csv", [["image", "text"], ["images/a.jpg", "x"]])
    forms = {"images": "folder", "tars": "tar", "list.txt": "list", "a.csv": "csv", "images/a.jpg": "files"}
    assert {name: open_images(tmp_path / name).form for name in forms} == forms
    assert open_texts(tmp_path / "list.txt").form == "lines"


@pytest.mark.parametrize(
    ("files", "named", "message"),
    [
        ({"a/x.md": ""}, ["a"], "holds nothing that can be read"),
        ({"a/x.jpg": b"", "a/y.tar": b""}, ["a"], "holds several forms"),
        ({"x.jpg": b"", "y.tar": b""}, ["x.jpg", "y.tar"], "are of several forms"),
        ({"x.mp4": b""}, ["x.mp4"], "is of no form that is known"),
        ({"a/x.jpg": b"", "b/x.jpg": b""}, ["a", "b"], "is a folder; give one folder"),
        ({"a/x.tar": bytes(1024), "b/x.tar": bytes(1024)}, ["a/x.tar", "b/x.tar"], "two inputs have the name 'x'"),
    ],
)
def test_input_that_is_nothing_or_several_things_says_so(tmp_path, files, named, message):
    write_tree(tmp_path, files)
    with pytest.raises(CollectionError, match=message):
        open_images([tmp_path / name for name in named])


def test_input_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere' does not exist"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(CollectionError, match="form 'zip' is not known"):
        open_images(tmp_path, Options(form="zip"))  # pyrefly: ignore
