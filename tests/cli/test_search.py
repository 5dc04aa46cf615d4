"""`align-jax search`: an index folder, the model that made it, and queries of texts and images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from align_jax.cli import main
from align_jax.inference.embedder import Embedder
from align_jax.inference.embedding.part import Part, part_name, write_part
from align_jax.inference.search import combine
from tests.inference.tiny_align import write_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("align"))


@pytest.fixture(scope="module")
def embedder(model: Path) -> Embedder:
    return Embedder.from_pretrained(model, batch_size=8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (36, 36, 3), np.uint8)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def gallery(embedder: Embedder, pictures: list[Path]) -> np.ndarray:
    return embedder.images(pictures)


@pytest.fixture(scope="module")
def index(
    tmp_path_factory: pytest.TempPathFactory, embedder: Embedder, pictures: list[Path], gallery: np.ndarray
) -> Path:
    folder = tmp_path_factory.mktemp("index")
    ids, columns = [path.name for path in pictures], {"place": ["a", "b", "c", "d", None]}
    write_part(folder / part_name(0), Part("run", 0, 5, 5, ()), ids, gallery, columns, {})
    metadata = {
        "finished": True, "columns": {"place": "string"}, "parts": 1, "embedding_size": gallery.shape[1],
        "counts": {"embedded": 5}, "model": {"source": "models/this", "digest": embedder.digest},
    }  # fmt: skip
    (folder / "embeddings.json").write_text(json.dumps(metadata))
    return folder


def found(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict]:
    assert main(["search", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def ranked(gallery: np.ndarray, query: np.ndarray) -> list[str]:
    return [f"{number}.png" for number in np.argsort(-(gallery @ query), kind="stable")]


def test_an_image_finds_itself_first(model, index, pictures, capsys):
    results = found(capsys, "--index", index, "--model", model, "--image", pictures[3], "--top-k", 2)
    assert results[0] == {"id": "3.png", "score": pytest.approx(1, abs=1e-5), "columns": {"place": "d"}}
    assert len(results) == 2


@pytest.mark.parametrize("method", ["exact", "approximate", "faiss"])
def test_text_image_and_minus_are_summed(model, index, pictures, gallery, embedder, method, capsys):
    text, minus = embedder.texts(["a cat", "the mat"])
    results = found(
        capsys, "a cat", "--index", index, "--model", model, "--image", pictures[1], "--minus", "the mat",
        "--text-weight", "0.3", "--method", method,
    )  # fmt: skip
    query = combine(text, gallery[1], minus, 0.3)
    assert [result["id"] for result in results] == ranked(gallery, query)
    np.testing.assert_allclose([result["score"] for result in results], sorted(gallery @ query)[::-1], atol=1e-5)


def test_lines_and_table(model, index, gallery, embedder, monkeypatch, capsys):
    arguments = ["search", "a dog", "--index", str(index), "--model", str(model), "--top-k", "1"]
    best = ranked(gallery, embedder.texts(["a dog"])[0])[0]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0].split("\t")[1] == best
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("score", "place", best))


def test_another_model_is_refused(model, index, tmp_path, capsys):
    (tmp_path / part_name(0)).write_bytes((index / part_name(0)).read_bytes())
    metadata = json.loads((index / "embeddings.json").read_text())
    metadata["model"]["digest"] = "0" * 64
    (tmp_path / "embeddings.json").write_text(json.dumps(metadata))
    assert main(["search", "cat", "--index", str(tmp_path), "--model", str(model)]) == 2
    message = capsys.readouterr().err
    assert "embedded with models/this (digest 000000000000)" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["cat"], "--index"),
        (["--index", "{index}"], "nothing to search for"),
        (["--index", "{index}", " "], "nothing to search for"),
        (["--index", "{index}", "cat", "--text-weight", "nan"], "--text-weight nan is not positive"),
        (["--index", "{index}", "cat", "--text-weight", "0"], "--text-weight 0 is not positive"),
        (["--index", "{index}", "cat", "--image-weight", "inf"], "--image-weight inf is not positive and finite"),
        (["--index", "{index}", "cat", "--top-k", "0"], "--top-k 0"),
        (["--index", "{index}", "--image", "absent.png"], "absent.png is not a file"),
        (["--index", "{index}", "cat"], "make quickstart"),
        (["--index", "absent", "--model", "{model}", "cat"], "absent has no embeddings.json"),
        (["--index", "{index}", "--model", "{model}", "--image", "{index}/embeddings.json"], "not an image format"),
        (["--index", "{index}", "--model", "{model}", "cat", "--minus", "cat"], "cancel out"),
    ],
)
def test_wrong_input_is_one_line_and_status_two(model, index, arguments, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["search", *(argument.format(index=index, model=model) for argument in arguments)]) == 2
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1
