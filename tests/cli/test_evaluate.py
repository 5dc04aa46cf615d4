"""`align-jax evaluate` on small data sets laid out as the real ones, against direct computations in NumPy."""

import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from align_jax.cli import main
from align_jax.data.benchmarks import open_captioned, open_labelled
from align_jax.evaluation.prompts import TEMPLATES
from align_jax.inference.classifier import Classifier
from align_jax.inference.embedder import Embedder
from tests.data.benchmarks import layouts
from tests.data.benchmarks.layouts import NAMES, SYNSETS, imagenet, synset_lines, validation_labels, write
from tests.inference.tiny_align import write_folder
from tests.inference.tiny_classifiers import write_vit


@pytest.fixture(scope="module", autouse=True)
def _models_are_loaded_once() -> Iterator[None]:
    """The same model with the same settings is compiled by the first test that wants it."""
    with pytest.MonkeyPatch.context() as patch:
        for model in (Embedder, Classifier):
            patch.setattr(model, "from_pretrained", functools.cache(model.from_pretrained))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet with synset folders, class names and ReaL labels; one training image is broken."""
    root = imagenet(tmp_path_factory.mktemp("imagenet"))
    write(root / "train" / SYNSETS[0] / "n01440764_9999.JPEG", b"no image")
    write(root / "LOC_synset_mapping.txt", synset_lines())
    real = json.loads(layouts.real(root / "real.json").read_text())
    write(root / "outside.json", json.dumps([*real[:-1], [7]]))
    return root


@pytest.fixture
def evaluate(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command, and gives the JSON and what was printed."""

    def run(task: str, data: Path, *arguments: object, model: str | None = model) -> dict[str, Any]:
        output = tmp_path / "results" / f"{task}.json"
        chosen = [] if model is None else ["--model", model]
        line = ["evaluate", *chosen, "--task", task, "--data", data, *arguments, "--output", output, "--resamples", 20]
        status = main([*map(str, line), "--batch-size", "8"])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        report = json.loads(output.read_text())
        for name, number in report["results"].items():
            assert 0 <= number["low"] <= number["value"] <= number["high"] <= 1
            assert f"{name} " in printed.out
            assert f"{100 * number['value']:.2f}" in printed.out
        return report | {"printed": printed}

    return run


def embedder(model: str) -> Embedder:
    return Embedder.from_pretrained(
        model, batch_size=8, dtype="float32", weights="ema", text_length=None, revision=None
    )  # fmt: skip


def values(report: dict[str, Any]) -> dict[str, float]:
    return {name: number["value"] for name, number in report["results"].items()}


def direct_recall(model: str, contents: list[bytes], captions: list[tuple[str, ...]]) -> dict[str, float]:
    """Of the best own caption among all, and of the own image of each caption."""
    texts = [text for each in captions for text in each]
    owner = np.repeat(np.arange(len(captions)), [len(each) for each in captions])
    scores = embedder(model).images(contents).astype(np.float64) @ embedder(model).texts(texts).T.astype(np.float64)
    ranks: dict[str, list[int]] = {"image_to_text": [], "text_to_image": []}
    for image, row in enumerate(scores):
        ranks["image_to_text"].append(int(np.sum(row[owner != image] >= row[owner == image].max())))
    for text, column in enumerate(scores.T):
        ranks["text_to_image"].append(int(np.sum(np.delete(column, owner[text]) >= column[owner[text]])))
    return {f"{side}_recall@{k}": np.mean([r < k for r in found]) for side, found in ranks.items() for k in (1, 5, 10)}


def direct_zero_shot(model: str, contents: list[bytes], names: list[str], templates: tuple[str, ...]) -> np.ndarray:
    """Cosines with the normalised mean of each class's sentences."""
    sentences = [[template.replace("{}", name) for template in templates] for name in names]
    means = np.stack([embedder(model).texts(each).astype(np.float64).mean(axis=0) for each in sentences])
    return embedder(model).images(contents) @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T


def top(scores: np.ndarray, labels: list[int], k: int) -> float:
    return float(np.mean([np.sum(row >= row[label]) <= k for row, label in zip(scores, labels, strict=True)]))


@pytest.mark.parametrize("captions", [5, "all"])
def test_retrieval_on_coco_counts_captions_and_names_broken_images(
    evaluate: Any, model: str, tmp_path: Path, captions: int | str
) -> None:
    folder = layouts.coco(tmp_path / "coco")
    name = open_captioned(folder).images.ids[4]
    (folder / name).write_bytes(layouts.jpeg(4, 0)[:200])
    report = evaluate("retrieval", folder, "--captions", captions, "--fold-size", 4)
    assert [one["id"] for one in report["bad_images"]] == [name]
    assert f"1 image was left out: {name}" in report["printed"].err
    data = open_captioned(folder)
    rows = [row for row in range(9) if row != 4]
    texts = [data.captions[row][: None if captions == "all" else 5] for row in rows]
    expected = direct_recall(model, [data.images.read(row) for row in rows], texts)
    folds = [direct_recall(model, [data.images.read(row) for row in part], [data.captions[row][:5] for row in part])
             for part in ([0, 1, 2, 3], [5, 6, 7])]  # fmt: skip
    if captions == 5:
        expected |= {f"fold_4_{name}": np.mean([fold[name] for fold in folds]) for name in folds[0]}
        assert values(report) == pytest.approx(expected)
    assert values(report).items() >= {name: pytest.approx(value) for name, value in expected.items()}.items()
    assert report["captions"] == (40 if captions == 5 else 41)
    assert (report["split"], report["task"], len(report["digest"])) == ("test", "retrieval", 64)


def test_retrieval_on_flickr30k_and_prepared_coco_is_the_same(evaluate: Any, tmp_path: Path) -> None:
    """The same images and captions in two layouts."""
    flickr = evaluate("retrieval", layouts.flickr30k(tmp_path / "flickr30k") / "dataset_flickr30k.json")
    prepared = evaluate("retrieval", layouts.coco_captions(tmp_path / "tfds"))
    assert values(flickr) == values(prepared)
    assert list(values(flickr)) == [
        f"{side}_recall@{k}" for side in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    ]
    assert 0 < values(flickr)["text_to_image_recall@1"] < 1


def test_zero_shot_on_imagenet_averages_our_templates_and_reports_real_labels(
    evaluate: Any, model: str, root: Path
) -> None:
    report = evaluate("zero-shot", root, "--real", root / "real.json")
    data = open_labelled(root)
    labels = data.labels.tolist()
    contents = [data.images.read(row) for row in range(len(labels))]
    scores = direct_zero_shot(model, contents, list(data.classes.names or ()), TEMPLATES)
    expected = {"top1": top(scores, labels, 1), "top5": top(scores, labels, 5)}
    real, hits = json.loads((root / "real.json").read_text()), []
    for name, row in zip(data.images.ids, scores, strict=True):
        if right := real[int(Path(name).stem[-8:]) - 1]:
            hits.append(np.sum(np.delete(row, right) >= row[right].max()))
    expected |= {"real_top1": np.mean(np.array(hits) < 1), "real_top5": np.mean(np.array(hits) < 5)}
    assert values(report) == pytest.approx(expected)
    assert report["results"]["real_top1"]["examples"] == 13  # nobody found a class for one of 14
    assert report["templates"] == list(TEMPLATES)


def test_zero_shot_on_variants_and_any_folder(evaluate: Any, model: str, tmp_path: Path) -> None:
    templates = write(tmp_path / "templates.txt", "a photo of the {}\n{} on the mat\n")
    names = write(
        tmp_path / "names.txt",
        "".join(f"{name}\n" for name in ("cat", "dog", *("an image of " * n for n in range(1, 10)))),
    )
    pets = tmp_path / "pets"
    for number, name in enumerate(("a_cat", "dog")):
        write(pets / "test" / name / "1.jpg", layouts.jpeg(number, 0))
    reports = {
        "v2": evaluate("zero-shot", layouts.imagenet_v2(tmp_path), "--templates", templates, "--classes", names),
        "r": evaluate("zero-shot", layouts.imagenet_r(tmp_path), "--templates", templates),
        "a": evaluate("zero-shot", layouts.imagenet_a(tmp_path), "--templates", templates),
        "pets": evaluate("zero-shot", pets, "--templates", templates, "--split", "test"),
    }
    data = {
        "v2": open_labelled(tmp_path / "imagenetv2-matched-frequency-format-val", classes=names),
        "r": open_labelled(tmp_path / "imagenet-r"), "a": open_labelled(tmp_path / "imagenet-a"),
        "pets": open_labelled(pets, split="test"),
    }  # fmt: skip
    for name, report in reports.items():
        images, labels, classes = data[name].images, data[name].labels.tolist(), list(data[name].classes.names or ())
        contents = [images.read(row) for row in range(len(labels))]
        scores = direct_zero_shot(model, contents, classes, ("a photo of the {}", "{} on the mat"))
        assert values(report)["top1"] == pytest.approx(top(scores, labels, 1))
        assert report["classes"] == {"v2": 11, "r": 3, "a": 2, "pets": 2}[name]
    assert "a cat" in (data["pets"].classes.names or ())


def test_knn_and_linear_probe_find_the_classes_of_similar_pictures(evaluate: Any, root: Path) -> None:
    knn = evaluate("knn", root, "--k", 1, 3, "--real", root / "real.json")
    assert list(values(knn)) == [
        f"{real}{votes}_k={k}" for votes in ("uniform", "weighted") for k in (1, 3) for real in ("", "real_")
    ]
    assert min(values(knn).values()) > 0.8  # by chance 0.14
    assert [one["id"] for one in knn["bad_images"]] == [f"train/{SYNSETS[0]}/n01440764_9999.JPEG"]
    assert knn["train_images"] == 28
    assert list(values(evaluate("knn", root)))[:4] == ["uniform_k=1", "uniform_k=5", "uniform_k=10", "uniform_k=20"]
    probe = evaluate("linear-probe", root, "--l2", 1e-3, 1e-5, "--held-out", 0.25)
    assert values(probe)["top1"] > 0.8
    assert probe["held_out_accuracy"].keys() == {"0.001", "1e-05"}


def test_embeddings_of_folders_give_the_same_numbers_without_the_model(
    evaluate: Any, model: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = values(evaluate("knn", root, "--k", 1, 3))
    parts = []
    for split in ("train", "val"):
        parts.append(tmp_path / f"{split}-embeddings")
        line = ["embed", "--model", model, "--input", root / split, "--output", parts[-1], "--batch-size", 8]
        assert main(list(map(str, line))) == 0
    capsys.readouterr()
    report = evaluate("knn", root, "--k", 1, 3, "--embeddings", *parts, model=None)
    assert values(report) == expected
    assert [one["id"] for one in report["bad_images"]] == [f"train/{SYNSETS[0]}/n01440764_9999.JPEG"]
    assert values(evaluate("zero-shot", root, "--embeddings", parts[1])) == values(evaluate("zero-shot", root))

    def refusal(*arguments: object) -> str:
        assert main(["evaluate", "--task", "knn", "--data", str(root), *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "29 of 29 images have no embedding" in refusal("--embeddings", parts[1])
    metadata = parts[0] / "embeddings.json"
    other = json.loads(metadata.read_text())
    other["model"]["digest"] = "0" * 64
    metadata.write_text(json.dumps(other))
    assert "are of model" in refusal("--embeddings", *parts)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A Vision Transformer with a class for each synset, and what gives its logits in torch."""
    folder = tmp_path_factory.mktemp("classifier")
    return str(folder), write_vit(folder, id2label=NAMES, num_hidden_layers=1)


def direct_logits(folder: str, theirs: Any, contents: list[bytes]) -> np.ndarray:
    processor = transformers.ViTImageProcessorPil.from_pretrained(folder)
    pictures = [Image.open(io.BytesIO(content)) for content in contents]
    with torch.no_grad():
        return theirs(**processor(pictures, return_tensors="pt")).logits.numpy()


def test_classification_on_imagenet_counts_real_labels_and_names_broken_images(
    evaluate: Any, classifier: Any, tmp_path: Path
) -> None:
    root = imagenet(tmp_path / "imagenet")
    real = json.loads(layouts.real(tmp_path / "real.json").read_text())
    data = open_labelled(root)
    broken = data.images.ids[3]
    (root / broken).write_bytes(b"no image")
    report = evaluate("classification", root, "--real", tmp_path / "real.json", model=classifier[0])
    rows = [row for row in range(len(data.images)) if row != 3]
    labels = data.labels[rows].tolist()
    scores = direct_logits(*classifier, [data.images.read(row) for row in rows])
    expected = {"top1": top(scores, labels, 1), "top5": top(scores, labels, 5)}
    hits = []
    for place, scored in zip(rows, scores, strict=True):
        if right := real[int(Path(data.images.ids[place]).stem[-8:]) - 1]:
            hits.append(np.sum(np.delete(scored, right) >= scored[right].max()))
    expected |= {"real_top1": np.mean(np.array(hits) < 1), "real_top5": np.mean(np.array(hits) < 5)}
    assert values(report) == pytest.approx(expected)
    assert 0 < expected["top1"] < expected["top5"] < 1
    assert (report["results"]["top1"]["examples"], report["results"]["real_top1"]["examples"]) == (13, 12)
    assert [one["id"] for one in report["bad_images"]] == [broken]
    assert (report["classes"], report["model_classes"], len(report["digest"])) == (7, 7, 64)


def test_classification_on_some_of_the_classes_compares_only_those(
    evaluate: Any, classifier: Any, tmp_path: Path
) -> None:
    folder, theirs = classifier
    listed = write(tmp_path / "synset_words.txt", synset_lines())
    places = {"r": [1, 3, 6], "a": [0, 5]}
    for name, root in {"r": layouts.imagenet_r(tmp_path), "a": layouts.imagenet_a(tmp_path)}.items():
        data = open_labelled(root)
        scores = direct_logits(folder, theirs, [data.images.read(row) for row in range(len(data.images))])
        expected = top(scores[:, places[name]], data.labels.tolist(), 1)
        for arguments in (["--classes", listed], []):  # by their numbers in the list, or by the names in the README
            report = evaluate("classification", root, *arguments, model=folder)
            assert values(report)["top1"] == pytest.approx(expected)
            assert report["classes"] == len(places[name])


def test_a_classifier_of_other_classes_is_refused_before_it_computes(
    classifier: Any, model: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write(tmp_path / "pets" / f"breed_{number}" / "1.jpg", layouts.jpeg(number, 0))
    for chosen, data, reason in (
        (classifier[0], tmp_path / "pets", "class breed_0 (breed 0) is by its name none of its 7 classes"),
        (model, root, "has no classes of its own"),
    ):
        line = ["evaluate", "--model", chosen, "--task", "classification", "--data", str(data), "--batch-size", "8"]
        assert main(line) == 2
        message = capsys.readouterr().err
        assert reason in message
        assert message.count("\n") == 1


def test_embeddings_that_are_no_numbers_are_refused_by_name(
    model: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Embedder, items: Iterator[tuple[int, bytes]]) -> Iterator[Any]:
        rows = np.zeros((3, self.embedding_size), np.float32)
        rows[1, 0] = np.nan
        yield [next(items)[0] for _ in rows], rows, []
        pytest.fail("nothing more is asked for")

    monkeypatch.setattr(Embedder, "stream_images", broken)
    line = ["evaluate", "--model", model, "--task", "knn", "--data", str(root), "--batch-size", "8"]
    assert main(line) == 2
    name = open_labelled(root).images.ids[1]
    assert f"the model gives {name!r} values that are not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "arguments", "reason"),
    [
        ("retrieval", ["--k", "3"], "--k goes with knn"),
        ("zero-shot", ["--captions", "5"], "--captions goes with retrieval"),
        ("retrieval", ["--captions", "0"], "--captions 0"),
        ("knn", ["--k", "0"], "--k 0"),
        ("knn", ["--temperature", "0"], "--temperature 0"),
        ("knn", ["--k", "3", "-1"], "--k -1"),
        ("knn", ["--k", "30"], "--k 30 is more than the 29 training images"),
        ("knn", ["--seed", "-1"], "--seed -1"),
        ("knn", ["--train", "val"], "both evaluated and trained on"),
        ("knn", ["--real", "@outside.json"], "has ReaL label 7, which is none of the 7 classes"),
        ("knn", ["--output", "@real.json/results.json"], "real.json/results.json cannot be written: "),
        ("knn", ["--output", "@train"], "train is a folder"),
        ("linear-probe", ["--l2", "1e-3", "nan"], "--l2 nan"),
        ("linear-probe", ["--l2", "-1"], "--l2 -1"),
        ("linear-probe", ["--held-out", "-0.3"], "--held-out -0.3"),
        ("linear-probe", ["--held-out", "2"], "--held-out 2"),
        ("linear-probe", ["--held-out", "0.01"], "--held-out 0.01 are 0 of 29 training images"),
        ("knn", ["--split", "train"], "both evaluated and trained on"),
        ("knn", ["--train", "absent"], "no folder 'absent'"),
        ("zero-shot", ["--confidence", "1"], "--confidence 1"),
        ("zero-shot", ["--templates", "absent.txt"], "absent.txt"),
        ("zero-shot", ["--split", "test"], "no folder 'test'"),
        ("retrieval", [], "neither Karpathy's JSON"),
        ("zero-shot", ["--real", "absent.json"], "absent.json"),
        ("classification", ["--embeddings", "absent"], "--embeddings goes with retrieval"),
        ("classification", ["--templates", "absent.txt"], "--templates goes with zero-shot"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_two(
    root: Path, task: str, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any model is read: there is none."""
    named = [str(root / one[1:]) if one.startswith("@") else one for one in arguments]
    assert main(["evaluate", "--model", "absent", "--task", task, "--data", str(root), *named]) == 2
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1


def test_training_images_of_other_classes_are_refused_before_any_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("val/cat", "val/dog", "fit/cat", "fit/bird"):
        write(tmp_path / name / "1.jpg", b"")
    for task in ("knn", "linear-probe"):
        line = ["evaluate", "--model", "absent", "--task", task, "--data", str(tmp_path), "--train", "fit"]
        assert main(line) == 2
        assert "other classes: 2 are in one of them only, such as bird" in capsys.readouterr().err


def test_model_is_needed_and_so_are_class_names(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--task", "knn", "--data", str(root)]) == 2
    assert "--model is needed" in capsys.readouterr().err
    nameless = imagenet(tmp_path / "imagenet")
    assert main(["evaluate", "--model", "absent", "--task", "zero-shot", "--data", str(nameless)]) == 2
    assert "have no names in words" in capsys.readouterr().err
    assert validation_labels()[:2] == [0, 1]
