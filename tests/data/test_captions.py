import contextlib
import csv
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.data.captions import Skipped, find_captioned_files
from align_jax.data.records import DatasetError

PAIRS = {"a.png": ("a cat", "a grey cat"), "sub/b.jpg": ("a dog",)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in PAIRS:
        (tmp_path / name).write_bytes(b"pixels")
    return tmp_path


def rows():
    return [(name, caption) for name, captions in PAIRS.items() for caption in captions]


def write_list(folder, kind, image="image", caption="caption", extra=()):
    path = folder / f"list.{kind}"
    found = [*rows(), *extra]
    match kind:
        case "csv" | "tsv":
            with path.open("w", newline="", encoding="utf-8-sig") as file:
                csv.writer(file, delimiter="\t" if kind == "tsv" else ",").writerows([(image, caption), *found])
        case "jsonl":
            path.write_text("".join(json.dumps({image: name, caption: text}) + "\n" for name, text in found))
        case "parquet":
            names, texts = zip(*found, strict=True)
            pyarrow.parquet.write_table(pyarrow.table({image: names, caption: texts}), path)
    return path


def test_folder_with_captions_beside_the_images(folder):
    (folder / "a.txt").write_text("a  cat \r\n\n  a grey cat\n")
    (folder / "sub" / "b.txt").write_text("a dog")
    (folder / "notes.md").write_text("no image")
    found = find_captioned_files(folder)
    assert found.captions == PAIRS
    assert not found.skipped


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_lists_with_several_rows_for_an_image(folder, kind):
    assert find_captioned_files(write_list(folder, kind)).captions == PAIRS


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_with_several_captions_in_a_row(folder, kind):
    path = folder / f"list.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"image": name, "caption": texts}) + "\n" for name, texts in PAIRS.items()))
    else:
        table = pyarrow.table({"image": list(PAIRS), "caption": [list(texts) for texts in PAIRS.values()]})
        pyarrow.parquet.write_table(table, path)
    assert find_captioned_files(path).captions == PAIRS


def test_list_of_paths_with_captions_beside_the_images(folder):
    (folder / "a.txt").write_text("a cat\na grey cat\n")
    (folder / "sub" / "b.txt").write_text("a dog")
    (folder / "list.txt").write_text("a.png\nsub/../sub/b.jpg\n")
    assert find_captioned_files(folder / "list.txt").captions == PAIRS


def test_columns_and_root_can_be_named(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = write_list(elsewhere, "csv", image="file", caption="title")
    assert find_captioned_files(path, folder, "file", "title").captions == PAIRS
    with pytest.raises(DatasetError, match=r"row 1 .* no column image and no caption, but file, title.*--image-column"):
        find_captioned_files(path, folder)


def test_missing_images_and_captions_are_skipped_with_reasons(folder):
    (folder / "blank.png").write_bytes(b"pixels")
    extra = [("gone.png", "a ghost"), ("blank.png", "  ")]
    found = find_captioned_files(write_list(folder, "csv", extra=extra))
    assert found.captions == PAIRS
    assert found.skipped == [
        Skipped("gone.png", "the image does not exist"),
        Skipped("blank.png", "it has no caption"),
    ]


def test_image_without_a_text_file_is_skipped(folder):
    (folder / "a.txt").write_text("a cat")
    assert find_captioned_files(folder).skipped == [Skipped("sub/b.jpg", "it has no caption")]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "sub/../../x.png", "C:\\x.png", "", ".", "..\\x.png"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_path_outside_the_folder_is_an_error(folder, kind, name):
    with pytest.raises(DatasetError, match="not a path inside the folder"):
        find_captioned_files(write_list(folder, kind, extra=[(name, "a secret")]))


def test_what_is_not_there_or_not_a_list_is_an_error(folder):
    with pytest.raises(FileNotFoundError, match=r"absent does not exist; give a folder"):
        find_captioned_files(folder / "absent")
    with pytest.raises(DatasetError, match=r"a\.png is not a list.*\.parquet"):
        find_captioned_files(folder / "a.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.jsonl", b'{"image": "a.png", "caption": "cat"}\nnot json\n', "line 2 .* is not JSON"),
        ("list.jsonl", b"[1]\n", "line 1 .* is not a JSON object"),
        ("list.jsonl", b"\xff\xfe", "not UTF-8"),
        ("list.csv", b"image,caption\na.png,\xff\n", "UTF-8"),
        ("list.parquet", b"PAR1 no", "not a Parquet file"),
    ],
)
def test_damaged_list_is_an_error(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        find_captioned_files(folder / name)


@settings(deadline=None, max_examples=80)
@given(content=st.binary(max_size=120), kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet", "txt"]))
def test_any_bytes_give_files_or_a_data_set_error(tmp_path_factory, content, kind):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(content)
    with contextlib.suppress(DatasetError):
        assert not find_captioned_files(path).captions


@settings(deadline=None, max_examples=80)
@given(name=st.text(max_size=30))
def test_any_path_stays_inside_the_folder_or_is_an_error(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "fuzz_names.jsonl"
    path.write_text(json.dumps({"image": name, "caption": "x"}) + "\n")
    try:
        found = find_captioned_files(path)
    except DatasetError:
        return
    for one in [*found.captions, *(skip.name for skip in found.skipped)]:
        assert (folder / one).resolve().is_relative_to(folder.resolve())
