"""Lists, lines and CSV: what a person or a program wrote, with all that goes wrong there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_jax.data.collections import CollectionError, Item, Options, open_images, open_texts
from align_jax.data.collections import item as limits
from align_jax.data.collections import rows as module
from tests.data.collections.made import (
    assert_restarts_anywhere,
    entries,
    ids,
    picture,
    reasons,
    write_csv,
    write_tree,
)


def test_list_names_images_relative_to_its_folder_or_to_another(tmp_path):
    write_tree(tmp_path, {"in/a.jpg": picture(0), "in/b/c.jpg": picture(1), "in/b/c.txt": "a dog"})
    listed = tmp_path / "in" / "list.txt"
    listed.write_text(f"b/c.jpg\n\n./a.jpg\r\n{tmp_path}/in/a.jpg\nmissing.jpg\n")
    collection = open_images(listed, Options(columns=("txt",)))
    assert ids(collection) == ["b/c.jpg", "a.jpg"]
    assert entries(collection)[0].columns == {"txt": "a dog"}
    assert reasons(collection) == {
        "a.jpg": "an earlier row has the same id", "missing.jpg": "the file does not exist",
    }  # fmt: skip
    assert_restarts_anywhere(collection)
    elsewhere = tmp_path / "list.txt"
    elsewhere.write_text("a.jpg\n")
    assert ids(open_images(elsewhere, Options(root=tmp_path / "in"))) == ["a.jpg"]


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/hostname", "a/../../secret.jpg", "..\\secret.jpg"])
def test_path_that_leads_out_of_the_folder_is_refused(tmp_path, path):
    write_tree(tmp_path, {"secret.jpg": picture(), "in/list.txt": f"{path}\n"})
    collection = open_images(tmp_path / "in" / "list.txt")
    assert ids(collection) == []
    assert "relative to the folder of the list" in next(iter(reasons(collection).values()))


def test_lines_are_texts_with_their_number_as_id(tmp_path):
    (tmp_path / "texts.txt").write_bytes("\ufeffa cat\r\n\nein Ü\n".encode() + b"\xff\xfe?\nlast")
    collection = open_texts(tmp_path / "texts.txt")
    found = [(entry.id, entry.content) for entry in entries(collection) if isinstance(entry, Item)]
    assert found == [("0", b"a cat"), ("2", "ein Ü".encode()), ("4", b"last")]
    assert reasons(collection) == {"1": "the text is empty", "3": "the text is not UTF-8: invalid start byte at byte 0"}
    assert_restarts_anywhere(collection)


def test_columns_of_a_csv_are_carried_and_rows_that_do_not_fit_are_refused(tmp_path):
    rows = [
        ["key", "caption", "likes"], ["x", "a cat,\nof two lines", "3"], ["y", "a dog"], ["x", "again", "1"],
        ["../z", "b", "1"], ["w", 'a "mat"', ""],
    ]  # fmt: skip
    path = write_csv(tmp_path / "texts.csv", rows)
    collection = open_texts(path, Options(columns=("likes",), id_column="key"))
    assert [entry for entry in entries(collection) if isinstance(entry, Item)] == [
        Item("x", b"a cat,\nof two lines", {"likes": "3"}),
        Item("w", b'a "mat"', {"likes": ""}),
    ]
    assert [entry.reason for entry in entries(collection) if not isinstance(entry, Item)] == [
        "the row has 2 fields instead of 3", "an earlier row has the same id", "its name leads out of the folder (..)",
    ]  # fmt: skip
    assert_restarts_anywhere(collection)


def test_several_csv_files_of_images_have_ids_of_their_own(tmp_path):
    write_tree(tmp_path, {"a.jpg": picture(), "b.jpg": picture(1)})
    for name in ("one.tsv", "two.tsv"):
        write_csv(tmp_path / name, [["image", "caption"], ["a.jpg", "x"], ["b.jpg", "y"]], "\t")
    collection = open_images([tmp_path / "one.tsv", tmp_path / "two.tsv"], Options(columns=("caption",)))
    assert ids(collection) == ["one/a.jpg", "one/b.jpg", "two/a.jpg", "two/b.jpg"]
    assert entries(collection)[3].columns == {"caption": "y"}
    assert_restarts_anywhere(collection)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,a\n1,2\n", "two columns of one name"),
        (b"a,b\n1,2\n", "name the one to read with --text-column"),
        (b'text\n"never closed\nx\n', "is a quote not closed"),
        ("text\nx\n".encode("utf-16"), "is UTF-16"),
        (b"\x1f\x8b\x08\0", "is compressed"),
        (b"PAR1xxxx", "is Parquet"),
    ],
)
def test_file_that_is_no_csv_of_texts_says_so(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(CollectionError, match=message):
        entries(open_texts(tmp_path / "a.csv"))


def test_column_that_is_not_there_is_named_with_those_there_are(tmp_path):
    path = write_csv(tmp_path / "a.csv", [["text", "url"], ["x", "y"]])
    with pytest.raises(CollectionError, match="has no column ulr; it has text, url"):
        open_texts(path, Options(columns=("ulr",)))
    with pytest.raises(CollectionError, match="'embedding' cannot be carried"):
        open_texts(path, Options(columns=("embedding",)))


def test_line_without_end_is_never_taken_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TEXT_BYTES", 100)
    (tmp_path / "a.txt").write_bytes(b"x" * (limits.MAX_TEXT_BYTES + 2**21) + b"\nshort\n")
    collection = open_texts(tmp_path / "a.txt")
    assert "more than 100 bytes" in reasons(collection)["0"]
    assert ids(collection) == ["1"]


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2, max_size=2)))
def test_any_csv_is_read_from_any_row(tmp_path_factory, rows):
    path = write_csv(tmp_path_factory.mktemp("rows") / "a.csv", [["text", "more"], *rows])
    collection = open_texts(path, Options(columns=("more",)))
    assert collection.size == len(rows)
    texts = [entry.content.decode() for entry in entries(collection) if isinstance(entry, Item)]
    # A carriage return in a quoted field is kept by the file but for one at the end of a line.
    assert len(texts) == sum(bool(text.strip()) for text, _ in rows)
    assert_restarts_anywhere(collection)


def test_long_files_are_read_from_the_middle_without_their_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STRIDE", 8)
    (tmp_path / "a.txt").write_text("".join(f"text {number}\n" for number in range(100)))
    assert_restarts_anywhere(open_texts(tmp_path / "a.txt"))
