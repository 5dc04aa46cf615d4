"""`align-jax classify`: tables, lines and JSON of what the pipelines give."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from align_jax import pipeline
from align_jax.cli import main
from tests.inference.tiny_align import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("align"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("first [red].png", "second.png"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def expected(folder: Path, pictures: list[str]) -> list[list[dict[str, Any]]]:
    return pipeline(model=folder)(pictures, candidate_labels=["cat", "dog", "mat"], hypothesis_template="a {}")


def test_labels_are_ranked_for_every_image(
    folder: Path, pictures: list[str], expected: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["classify", "--model", str(folder), "--template", "a {}", *pictures]
    assert main([*arguments, "--labels", "cat, dog,mat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"image": path, "predictions": predictions} for path, predictions in zip(pictures, expected, strict=True)
    ]
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n\nmat\n")
    assert main([*arguments, "--labels-file", str(labels), "--top-k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{path}\t{each['label']}\t{each['score']:.4f}"
        for path, predictions in zip(pictures, expected, strict=True)
        for each in predictions[:2]
    ]


def test_a_terminal_gets_a_table(
    folder: Path, pictures: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["classify", "--model", str(folder), "--labels", "cat,[bold]", pictures[0]]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("score", "█", "[bold]", "[red]"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--labels", "cat"], "IMAGE"),
        (["--labels", ",", "a.png"], "no labels"),
        (["--labels", "cat", "--labels-file", "x", "a.png"], "one of them"),
        (["--labels-file", "absent", "a.png"], "absent"),
        (["--template", "a {}", "a.png"], "--labels"),
        (["--labels", "cat", "--top-k", "0", "a.png"], "--top-k 0"),
        (["--labels", "cat,dog", "absent.png"], "absent.png"),
        (["--labels", "cat,dog", "--template", "a photo", "absent.png"], "no place"),
        (["--labels", "cat,dog", "http://localhost/a.png"], "URL"),
    ],
)
def test_wrong_input_is_one_line_and_status_two(
    folder: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", "--model", str(folder), *arguments]) == 2
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1
