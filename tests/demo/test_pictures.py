"""Pictures behind rows of an embedding folder, whatever the form of its input, and the quickstart's own."""

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from align_jax.cli import main
from align_jax.demo.examples import of_any
from align_jax.demo.pictures import Pictures, embedded_openmoji
from align_jax.inference.embedder import Embedder
from tests.inference.tiny_align import write_folder

NUMBERS = [3, 70, 130, 250]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("align"))


@pytest.fixture(scope="module")
def embedder(model) -> Embedder:
    return Embedder.from_pretrained(model, batch_size=8)


def png(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (36, 36), (number, number, number)).save(content, "PNG")
    return content.getvalue()


def embed(model: Path, source: Path, output: Path, *more: str) -> None:
    command = ["embed", "--model", model, "--input", source, "--output", output, "--batch-size", "8", *more]
    assert main(list(map(str, command))) == 0


def shades(pictures: Pictures) -> list[int | None]:
    thumbnails = [pictures.thumbnail(row) for row in range(len(pictures.captions))]
    return [None if one is None else int(np.asarray(one)[0, 0, 0]) for one in thumbnails]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pictures, and a broken one in their midst, each with a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in NUMBERS:
        (folder / f"{number:03}.png").write_bytes(png(number))
        (folder / f"{number:03}.txt").write_text(f"shade {number}")
    (folder / "100.png").write_bytes(b"broken")
    (folder / "100.txt").write_text("broken")
    return folder


def test_folder_and_tar(model, embedder, folder, tmp_path):
    embed(model, folder, tmp_path / "index")
    assert shades(Pictures(tmp_path / "index", embedder)) == NUMBERS
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    embed(model, tmp_path / "pictures.tar", tmp_path / "tar-index", "--columns", "txt")
    pictures = Pictures(tmp_path / "tar-index", embedder)
    assert shades(pictures) == NUMBERS
    assert pictures.captions == [f"shade {number}" for number in NUMBERS]
    examples = of_any(pictures, tmp_path)
    assert examples.search_labels == ("like shade 3", "like shade 70", "like shade 130")
    assert all(Path(image).is_file() for _, image in examples.searches)


def test_pictures_that_are_gone_are_absent(model, embedder, folder, tmp_path):
    embed(model, folder, tmp_path / "index")
    assert Pictures(tmp_path / "index", embedder).warning is None
    (folder / "070.png").unlink()
    (folder / "130.png").write_bytes(b"broken since")
    pictures = Pictures(tmp_path / "index", embedder)
    assert shades(pictures) == [3, None, None, 250]
    assert f"{folder} has changed since {tmp_path / 'index'} was made" in str(pictures.warning)
    shutil.rmtree(folder)
    pictures = Pictures(tmp_path / "index", embedder)
    assert shades(pictures) == [None] * 4
    assert f"'{folder}' does not exist" in str(pictures.warning)


def test_input_is_read_as_it_was_embedded(model, embedder, folder, tmp_path):
    rows = ["shade,thumbnail,name", *(f"{number:03}.png,{number:03}.txt,{number}" for number in NUMBERS)]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    options = ("--image-column", "shade", "--id-column", "name", "--root", folder)
    embed(model, tmp_path / "list.csv", tmp_path / "index", *map(str, options))
    pictures = Pictures(tmp_path / "index", embedder)
    assert (shades(pictures), pictures.warning) == (NUMBERS, None)
    assert list(pictures.captions) == list(map(str, NUMBERS))
    (tmp_path / "list.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))
    assert "list.csv has changed since" in str(Pictures(tmp_path / "index", embedder).warning)


def test_texts_and_other_models_are_refused(model, embedder, folder, tmp_path):
    embed(model, folder, tmp_path / "texts", "--texts")
    with pytest.raises(ValueError, match="holds embeddings of texts"):
        Pictures(tmp_path / "texts", embedder)


def test_the_quickstarts_pictures_are_embedded_once(embedder, folder, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="align-jax data openmoji"):
        embedded_openmoji(tmp_path, embedder, "tiny")
    (folder / "100.png").unlink()
    command = ["data", "folder", "--input", folder, "--name", "pictures", "--data-dir", tmp_path]
    assert main(list(map(str, command))) == 0
    (tmp_path / "openmoji" / "px72").parent.mkdir()
    shutil.copytree(tmp_path / "pictures" / "1.0.0", tmp_path / "openmoji" / "px72" / "1.0.0")
    first = embedded_openmoji(tmp_path, embedder, "tiny")
    assert sorted(first.captions) == sorted(f"shade {number}" for number in NUMBERS)
    assert [f"shade {shade}" for shade in shades(first)] == list(first.captions)
    (written,) = (tmp_path / "embeddings").glob("openmoji-*/part-00000.parquet")
    before = written.stat().st_mtime_ns
    np.testing.assert_array_equal(embedded_openmoji(tmp_path, embedder, "tiny").embeddings, first.embeddings)
    assert written.stat().st_mtime_ns == before
