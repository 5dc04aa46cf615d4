"""Folders of files, and files named one by one."""

import json
import os

import pytest

from align_jax.data.collections import CollectionError, Options, open_images, open_texts
from align_jax.data.collections import single_files as module
from tests.data.collections.made import assert_restarts_anywhere, entries, ids, picture, reasons, write_tree


def test_images_of_a_folder_come_in_the_order_of_their_names_at_any_depth(tmp_path):
    names = ["b.png", "a/2.jpg", "a/10.JPEG", "Ü/x.webp", "a.jpg"]
    collection = open_images(write_tree(tmp_path, {name: picture() for name in names} | {"notes.md": "", "c.txt": ""}))
    assert ids(collection) == ["a/10.JPEG", "a/2.jpg", "a.jpg", "b.png", "Ü/x.webp"]
    assert_restarts_anywhere(collection)


def test_text_and_json_beside_an_image_are_carried(tmp_path):
    beside = {"a.txt": " a cat\n", "a.json": json.dumps({"url": "http://a", "size": [1, 2]})}
    write_tree(tmp_path, {"a.jpg": picture(), "b.jpg": picture()} | beside)
    first, second = entries(open_images(tmp_path, Options(columns=("txt", "url", "size"))))
    assert first.columns == {"txt": "a cat", "url": "http://a", "size": "[1, 2]"}
    assert second.columns == {"txt": None, "url": None, "size": None}


def test_text_files_are_texts(tmp_path):
    write_tree(tmp_path, {"a.txt": "ein Ü", "b/c.txt": "  \n", "d.txt": b"\xff"})
    collection = open_texts(tmp_path)
    assert [entry.content for entry in entries(collection)[:1]] == ["ein Ü".encode()]
    assert reasons(collection) == {
        "b/c.txt": "the text is empty", "d.txt": "the text is not UTF-8: invalid start byte at byte 0",
    }  # fmt: skip


def test_what_is_no_plain_file_is_refused_and_never_waited_for(tmp_path):
    write_tree(tmp_path, {"a.jpg": picture(), "elsewhere/b.jpg": picture()})
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder").symlink_to("elsewhere")
    (tmp_path / "good.jpg").symlink_to("a.jpg")
    collection = open_images(tmp_path)
    assert ids(collection) == ["a.jpg", "elsewhere/b.jpg", "good.jpg"]
    found = reasons(collection)
    assert found["pipe.jpg"] == found["device.jpg"] == "it is not a plain file"
    assert found["gone.jpg"] == "the file does not exist"
    assert "link" in found["folder"]
    assert "cannot be opened" in found["loop.jpg"]
    assert_restarts_anywhere(collection)


def test_too_large_file_is_refused_without_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", 1000)
    write_tree(tmp_path, {"a.jpg": picture()})
    with (tmp_path / "b.jpg").open("wb") as file:
        file.truncate(2**40)  # a hole, of which nothing is on disk
    assert "1099511627776 bytes" in reasons(open_images(tmp_path))["b.jpg"]


def test_name_that_is_not_unicode_is_shown_and_refused(tmp_path):
    write_tree(tmp_path, {"a.jpg": picture()})
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(picture())
    assert ids(open_images(tmp_path)) == ["a.jpg"]
    assert reasons(open_images(tmp_path)) == {"\\udcff.jpg": "its name is not UTF-8"}


def test_digest_follows_names_and_sizes(tmp_path):
    def digest(name, files):
        return open_images(write_tree(tmp_path / name, files)).digest

    one = digest("one", {"a.jpg": b"12"})
    assert one == digest("two", {"a.jpg": b"34"})
    assert len({one, digest("three", {"b.jpg": b"12"}), digest("four", {"a.jpg": b"123"})}) == 3


def test_files_named_one_by_one_keep_their_order(tmp_path):
    write_tree(tmp_path, {"b.jpg": picture(1), "a.jpg": picture(0), "other/b.jpg": picture(2)})
    collection = open_images([tmp_path / "b.jpg", tmp_path / "a.jpg"])
    assert ids(collection) == ["b.jpg", "a.jpg"]
    assert_restarts_anywhere(collection)
    with pytest.raises(CollectionError, match=r"b\.jpg is named twice"):
        open_images([tmp_path / "b.jpg", tmp_path / "other/b.jpg"])
