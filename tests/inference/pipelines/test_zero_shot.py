"""The zero-shot pipeline gives what that of `transformers` gives, on the same weights and images."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from align_jax import AlignModel, AlignProcessor, pipeline
from align_jax.inference.embedder import Embedder
from tests.inference.tiny_align import write_folder

TASK = "zero-shot-image-classification"
LABELS = ["cat", "dog on the mat", "an unknown thing", "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("align"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A photograph-like file of each of several kinds; some are transparent, grey or lie on their side."""
    paths, rng = [], np.random.default_rng(0)
    for index, mode in enumerate(("RGB", "L", "RGBA", "P", "CMYK")):
        pixels = rng.integers(0, 256, (40 + 9 * index, 61, 4), np.uint8)
        image = Image.fromarray(pixels[..., :3]).resize((90, 70)).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.fromarray(pixels[..., 3]).resize((90, 70)))
        paths.append(str(tmp_path_factory.mktemp("pictures") / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"))
        image.save(paths[-1])
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.open(io.BytesIO(Path(paths[0]).read_bytes())).save(path := f"{paths[0]}.jpg", exif=exif)
    return [*paths, path]


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    return pipeline(TASK, model=str(folder))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return transformers.pipeline(TASK, model=str(folder))


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hypothesis_template": "an image of {} of the photo"},
        {"hypothesis_template": "{}", "batch_size": 4},
        {"candidate_labels": ["dog"]},
        {"candidate_labels": [f"a {'cat ' * count}" for count in (1, 20, 37)]},
    ],
    ids=["default", "template", "bare", "one_label", "long_labels"],
)
def test_results_are_those_of_transformers(ours: Any, theirs: Any, pictures: list[str], options: Any) -> None:
    options = {"candidate_labels": LABELS} | options
    expected = theirs(pictures, **options)
    spread = max(each[0]["score"] - each[-1]["score"] for each in expected)
    assert spread > 0.003 or len(options["candidate_labels"]) == 1  # there is something to compare
    assert_same(ours(pictures, **options), expected)
    assert_same(ours(pictures[0], **options), theirs(pictures[0], **options))


def test_one_image_is_a_list_and_many_are_a_list_of_lists(ours: Any, pictures: list[str]) -> None:
    one = ours(pictures[0], candidate_labels=LABELS)
    assert [set(prediction) for prediction in one] == [{"score", "label"}] * len(LABELS)
    assert abs(sum(prediction["score"] for prediction in one) - 1) < 1e-6
    assert_same(ours([pictures[0]], candidate_labels=LABELS), [one])
    assert_same(ours(images=Image.open(io.BytesIO(Path(pictures[0]).read_bytes())), candidate_labels=LABELS), one)
    assert ours([], candidate_labels=LABELS) == []


def test_generators_are_read_as_they_are_consumed(ours: Any, pictures: list[str]) -> None:
    taken = []

    def source() -> Iterator[str]:
        for path in pictures * 10:
            taken.append(path)
            yield path

    results = ours(source(), candidate_labels=LABELS)
    first = next(results)
    assert len(taken) <= 3
    assert_same(first, ours(pictures[0], candidate_labels=LABELS))
    results.close()


def test_models_processors_and_embedders_may_be_given(ours: Any, folder: Path, pictures: list[str]) -> None:
    expected = ours(pictures[:2], candidate_labels=LABELS)
    processor = AlignProcessor.from_pretrained(folder)
    parts = {"tokenizer": processor.tokenizer, "image_processor": str(folder)}
    model = AlignModel.from_pretrained(folder)
    for given in ({"model": model, "processor": processor}, {"model": folder, **parts}, {"model": ours.embedder}):
        made = pipeline(**given, candidate_labels=LABELS, device="cpu")
        assert_same(made(pictures[:2]), expected)
    with pytest.raises(ValueError, match=r"neither|no tokenizer"):
        pipeline(TASK, model=model)


def test_labels_are_embedded_once_for_repeated_calls(
    ours: Any, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours(pictures[0], candidate_labels=LABELS)
    monkeypatch.setattr(Embedder, "texts", lambda *_: pytest.fail("embedded again"))
    ours(pictures[1], candidate_labels=LABELS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image": None, "candidate_labels": LABELS}, "no image"),
        ({"image": "cat.png"}, "no candidate_labels"),
        ({"image": "cat.png", "candidate_labels": []}, "empty"),
        ({"image": "cat.png", "candidate_labels": "cat,dog"}, r"\['cat', 'dog'\]"),
        ({"image": "cat.png", "candidate_labels": LABELS, "hypothesis_template": "a photo"}, "no place for the label"),
        ({"image": "cat.png", "candidate_labels": LABELS, "hypothesis_template": "{0} {1}"}, "no place"),
        ({"image": "absent.png", "candidate_labels": LABELS}, "absent.png"),
        ({"image": ["absent.png"], "candidate_labels": LABELS}, "absent.png"),
        ({"image": [b"nonsense"], "candidate_labels": LABELS}, "image 0: "),
        ({"image": "https://example.org/a.png", "candidate_labels": LABELS}, "urls='public'"),
        ({"image": "cat.png", "candidate_labels": LABELS, "batch_size": 0}, "batch_size 0"),
    ],
)
def test_wrong_calls_say_what_is_wrong(ours: Any, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ours(**arguments)


def test_wrong_kinds_are_type_errors(ours: Any) -> None:
    with pytest.raises(TypeError):
        ours(3, candidate_labels=LABELS)
    with pytest.raises(TypeError):
        ours("cat.png", candidate_labels=LABELS, top_k=3)


def test_tasks_and_models_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="Unknown task"):
        pipeline("summarization", model=folder)
    with pytest.raises(ValueError, match="there is no model"):
        pipeline(TASK)
    with pytest.raises(ValueError, match="absent"):
        pipeline(TASK, model=tmp_path / "absent")
    with pytest.raises(TypeError, match="nonsense"):
        pipeline(TASK, model=folder, nonsense=True)
