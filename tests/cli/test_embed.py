"""`align-jax embed` as a user meets it: what it prints, what it writes, and what it refuses."""

import hashlib
import io
import json
import struct
import zlib

import pytest
from PIL import Image

from align_jax.cli import main
from align_jax.inference.embedding.folder import read_embeddings
from tests.data.collections.made import member, picture, sample, tar_bytes, write_csv, write_tree
from tests.inference.tiny_align import write_folder
from tests.processes import run_together, start_flags


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model"))


def png_that_claims(width, height):
    """The header of a picture of so many pixels, with next to nothing behind it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")


def sixteen_bit():
    encoded = io.BytesIO()
    Image.new("I;16", (9, 7), 40_000).save(encoded, "PNG")
    return encoded.getvalue()


def animated():
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(
        encoded, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")], duration=100
    )
    return encoded.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(3, exif=exif)


STRANGE = {
    "animated.gif": animated(), "cmyk.jpg": picture(1, mode="CMYK"), "deep.png": sixteen_bit(),
    "grey.png": picture(2, form="PNG", mode="L"), "rotated.jpg": rotated(),
    "wrong_suffix.jpg": picture(4, form="PNG"), "transparent.png": picture(5, form="PNG", mode="RGBA"),
}  # fmt: skip
HOSTILE = {
    "empty.jpg": (b"", "the image is empty (0 bytes)"),
    "bomb.png": (png_that_claims(50_000, 50_000), "pixels"),
    "cut.jpg": (picture(6, 64)[:400], "bytes)"),
    "text.jpg": (b"<html>", "not an image format that is known"),
}


def files_below(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_strange_images_are_embedded_hostile_ones_refused_and_nothing_else_is_written(model, tmp_path, capsys):
    hostile = {name: content for name, (content, _) in HOSTILE.items()}
    write_tree(tmp_path / "in", STRANGE | hostile)
    before = files_below(tmp_path)
    command = ["embed", "--model", str(model), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*command, "--batch-size", "8"]) == 0
    printed = capsys.readouterr().out
    assert f"{len(STRANGE)} of {len(STRANGE) + len(HOSTILE)} images embedded" in printed
    assert read_embeddings(tmp_path / "out").ids == sorted(STRANGE)
    lines = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == set(HOSTILE)
    assert all(HOSTILE[line["id"]][1] in line["reason"] for line in lines), lines
    after = files_below(tmp_path)
    assert {path: after[path] for path in before} == before
    assert {path.parent for path in after.keys() - before.keys()} == {tmp_path / "out"}


def test_hostile_tar_leaves_nothing_outside_of_the_output(model, tmp_path, capsys):
    members = [*sample("a"), member("../evil.jpg", picture(1)), member("/tmp/evil.jpg", picture(1)), *sample("b", 2)]
    write_tree(tmp_path, {"in/0.tar": tar_bytes(members)})
    command = ["embed", "--model", str(model), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*command, "--batch-size", "8", "--columns", "txt"]) == 0
    assert read_embeddings(tmp_path / "out").ids == ["0/a", "0/b"]
    assert "2 refused" in capsys.readouterr().out
    assert not list(tmp_path.rglob("evil*"))


def test_same_command_again_says_the_same(model, tmp_path, capsys):
    write_tree(tmp_path / "in", {"a.jpg": picture()})
    command = ["embed", "--model", str(model), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*command, "--batch-size", "8"]) == main([*command, "--batch-size", "8"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("1 of 1 images embedded") == 2
    assert main([*command, "--batch-size", "16"]) == 2
    assert "batch_size 8 then, 16 now" in capsys.readouterr().err


def test_folder_is_not_continued_with_an_input_that_is_read_otherwise(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(
        write_tree(tmp_path, {f"{root}/{name}": picture() for root in "rs" for name in ("a.jpg", "b.jpg")})
    )
    write_csv(tmp_path / "list.csv", [["one", "two", "name"], ["a.jpg", "b.jpg", "x"], ["b.jpg", "a.jpg", "y"]])
    command = ["embed", "--model", str(model), "--input", "list.csv", "--output", "out", "--batch-size", "8"]
    assert main([*command, "--root", "r", "--image-column", "one"]) == 0
    before = files_below(tmp_path / "out")
    for more, message in {
        ("--root", "r", "--image-column", "two"): "column one then, two now",
        ("--root", "s", "--image-column", "one"): f"root {tmp_path / 'r'} then, {tmp_path / 's'} now",
        ("--root", "r", "--image-column", "one", "--id-column", "name"): "id_column None then, name now",
    }.items():
        capsys.readouterr()
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert f"made from something else: {message};" in error
        assert error.count("\n") == 1
    assert main([*command, "--root", str(tmp_path / "r"), "--image-column", "one"]) == 0
    assert files_below(tmp_path / "out") == before


def test_two_processes_make_what_one_makes(model, tmp_path):
    names = [f"{number}.jpg" for number in range(7)]
    write_tree(tmp_path / "in", {name: picture(number) for number, name in enumerate(names)} | {"5.jpg": b"broken"})
    command = ["-m", "align_jax", "embed", "--model", str(model), "--input", str(tmp_path / "in")]
    command += ["--batch-size", "4", "--shard-size", "2", "--output"]
    together = [[*command, str(tmp_path / "two"), *flags] for flags in start_flags(2)]
    ended = run_together([*together, [*command, str(tmp_path / "one")]], devices=1, limit_seconds=300)
    assert [process.status for process in ended] == [0, 0, 0], [process.errors for process in ended]
    assert ["6 of 7 images embedded" in process.output for process in ended] == [True, False, True]
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert read_embeddings(tmp_path / "two").ids == [name for name in names if name != "5.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nowhere"], "'nowhere' does not exist"),
        (["--input", ".", "--batch-size", "0"], "--batch-size 0 is not positive"),
        (["--input", ".", "--texts", "--image-column", "a"], "--image-column is of images"),
        (["--input", ".", "--text-column", "a"], "--text-column is of texts"),
        (["--input", ".", "--columns", "id"], "'id' cannot be carried along"),
        (["--input", ".", "--form", "zip"], "form 'zip' is not known"),
    ],
)
def test_wrong_arguments_take_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", "--model", "m", "--output", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_input_of_which_nothing_can_be_embedded_is_an_error(model, tmp_path, capsys):
    write_tree(tmp_path / "in", {"a.jpg": b"x"})
    command = ["embed", "--model", str(model), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*command, "--batch-size", "8"]) == 2
    assert "none of 1 images could be embedded" in capsys.readouterr().err
