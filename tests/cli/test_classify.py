"""`align-jax classify`: tables, lines and JSON of what the pipelines give."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from align_jax import pipeline
from align_jax.checkpoints import Checkpoints
from align_jax.cli import main
from tests.inference.tiny_align import reference_variables, write_folder
from tests.inference.tiny_classifiers import write_vit


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


def test_a_broken_image_is_told_and_the_others_go_on(
    folder: Path, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(Path(pictures[0]).read_bytes()[:100])
    images = ["x" * 300, pictures[0], str(tmp_path / "broken.png"), pictures[1], "dogs"]
    arguments = ["classify", "--model", str(folder), "--labels", "cat,dog", "--top-k", "1"]
    assert main([*arguments, *pictures]) == 0
    expected = capsys.readouterr().out
    for batch_size in ("1", "8"):
        assert main([*arguments, "--batch-size", batch_size, *images]) == 2
        told = capsys.readouterr()
        assert told.out == expected
        lines = told.err.splitlines()
        assert [line.startswith("align-jax classify: ") for line in lines] == [True] * 3
        assert all(name in line for name, line in zip(("xxxxx", "broken.png", "dogs is not there"), lines, strict=True))
    assert main([*arguments, "--json", "dogs"]) == 2
    assert json.loads(capsys.readouterr().out) == []


def test_weights_of_the_quickstart_are_averaged_or_the_last_ones(
    expected: Any,
    pictures: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    averaged, workdir = reference_variables(), tmp_path / "runs/quickstart"
    write_folder(workdir)
    (workdir / "model.safetensors").unlink()
    last = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + np.float32(0.3) if "bias" in jax.tree_util.keystr(path) else leaf, averaged["params"]
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(3, jax.device_put({**averaged, "params": last, "ema_params": averaged["params"]}), {})
    monkeypatch.chdir(tmp_path)
    for weights, same in (("ema", True), ("raw", False)):
        arguments = ["classify", "--labels", "cat,dog,mat", "--template", "a {}", "--weights", weights, "--json"]
        assert main([*arguments, pictures[0]]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert (found["predictions"] == expected[0]) == same


def test_a_classifier_takes_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vit(tmp_path)
    assert main(["classify", "--model", str(tmp_path), "--labels", "cat,dog", "a.png"]) == 2
    assert "leave out the labels" in capsys.readouterr().err


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
        (["--labels", "cat,dog", "http://localhost/a.png"], "use --urls public"),
        (["--labels", "cat,dog", "data:image/png;base64,AAAA"], "is not there"),
        (["a.png"], "name some with --labels"),
    ],
)
def test_wrong_input_is_one_line_and_status_two(
    folder: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", "--model", str(folder), *arguments]) == 2
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1
