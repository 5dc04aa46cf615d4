"""The pipeline of classifiers gives what that of `transformers` gives, on the same weights and images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from align_jax import ViTForImageClassification, pipeline
from align_jax.cli import main
from align_jax.inference.classifier import Classifier
from tests.inference.tiny_align import write_folder
from tests.inference.tiny_classifiers import LABELS, write_efficientnet, write_vit

TASK = "image-classification"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("classifiers")
    write_vit(root / "vit")
    write_efficientnet(root / "efficientnet")
    return {name: root / name for name in ("vit", "efficientnet")}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index, mode in enumerate(("RGB", "L", "RGBA")):
        image = Image.fromarray(rng.integers(0, 256, (20 + index, 31, 3), np.uint8)).resize((90, 70))
        image.convert(mode).save(folder / f"{mode}.png")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def vit(folders: dict[str, Path]) -> Any:
    return pipeline(TASK, model=folders["vit"])


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal types, keys in the same order, labels and places; scores to 1e-5."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for mine, reference in zip(ours, theirs, strict=True):
            assert_same(mine, reference)
        return
    assert list(ours) == list(theirs)
    assert ours["label"] == theirs["label"]
    assert type(ours["score"]) is float
    assert abs(ours["score"] - theirs["score"]) <= 1e-5


@pytest.mark.parametrize("name", ["vit", "efficientnet"])
def test_results_are_those_of_transformers(name: str, folders: dict[str, Path], pictures: list[str]) -> None:
    ours, theirs = pipeline(TASK, model=str(folders[name])), transformers.pipeline(TASK, model=str(folders[name]))
    for options in (
        {}, {"top_k": 2}, {"top_k": 100, "batch_size": 2}, {"function_to_apply": "sigmoid"},
        {"function_to_apply": "NONE", "top_k": 7},
    ):  # fmt: skip
        expected = theirs(pictures, **options)
        assert expected[0][0]["score"] - expected[0][-1]["score"] > 0.003  # there is something to compare
        assert_same(ours(pictures, **options), expected)
        assert_same(ours(pictures[0], **options), theirs(pictures[0], **options))
    assert len(ours(pictures[0])) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"id2label": LABELS[:1]},
        {"problem_type": "regression", "id2label": LABELS[:2]},
        {"problem_type": "multi_label_classification"},
    ],
)
def test_the_problem_decides_what_scores_are(options: Any, pictures: list[str], tmp_path: Path) -> None:
    write_vit(tmp_path, num_hidden_layers=1, **options)
    expected = transformers.pipeline(TASK, model=str(tmp_path))(pictures[0])
    assert_same(pipeline(TASK, model=tmp_path)(pictures[0]), expected)


def test_models_and_classifiers_may_be_given(vit: Any, folders: dict[str, Path], pictures: list[str]) -> None:
    expected = vit(pictures)
    model = ViTForImageClassification.from_pretrained(folders["vit"])
    processor = transformers.ViTImageProcessorPil.from_pretrained(folders["vit"])
    classifier = Classifier.from_pretrained(folders["vit"], batch_size=8)
    for given in (
        {"model": model, "image_processor": processor}, {"model": folders["vit"]}, {"model": classifier},
    ):  # fmt: skip
        assert_same(pipeline(**given)(pictures), expected)
    assert_same(list(vit(iter(pictures))), expected)
    assert_same(vit(images=Image.open(pictures[1])), expected[1])
    assert vit([]) == []
    with pytest.raises(ValueError, match="no image processor"):
        pipeline(TASK, model=model)


def test_converted_folders_classify_as_their_source(
    folders: dict[str, Path], vit: Any, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(folders["vit"]), str(ours)]) == 0
    assert main(["convert", str(ours), str(back), "--to", "hf"]) == 0
    capsys.readouterr()
    assert_same(pipeline(TASK, model=ours)(pictures), vit(pictures))
    assert_same(transformers.pipeline(TASK, model=str(back))(pictures), vit(pictures))
    assert ViTForImageClassification.from_pretrained(ours).config.id2label == LABELS


def test_batches_change_nothing(folders: dict[str, Path], pictures: list[str]) -> None:
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
    small, large = (Classifier.from_pretrained(folders["vit"], batch_size=size).logits(7 * pixels) for size in (8, 16))
    np.testing.assert_allclose(small, large, rtol=0, atol=1e-5)
    half = Classifier.from_pretrained(folders["vit"], batch_size=8, dtype="bfloat16").logits(pixels)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, small[:3], rtol=0, atol=0.1)


def test_the_command_shows_the_classes(
    folders: dict[str, Path], vit: Any, pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", "--model", str(folders["vit"]), "--top-k", "2", *pictures]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{path}\t{each['label']}\t{each['score']:.4f}"
        for path, predictions in zip(pictures, vit(pictures, top_k=2), strict=True)
        for each in predictions
    ]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda vit, _: vit(), "no image"),
        (lambda vit, _: vit("absent.png"), "absent.png"),
        (lambda vit, _: vit([b"nonsense"]), "image 0: "),
        (lambda vit, _: vit("cat.png", top_k=0), "top_k 0"),
        (lambda vit, _: vit("cat.png", function_to_apply="tanh"), "'tanh' is not known"),
        (lambda _, folder: pipeline("zero-shot-image-classification", model=folder), "'vit', not 'align'"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    vit: Any, folders: dict[str, Path], call: Callable[[Any, Path], Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        call(vit, folders["vit"])


def test_align_has_no_classes_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="candidate_labels"):
        pipeline(TASK, model=write_folder(tmp_path))
