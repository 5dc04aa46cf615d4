"""Classifiers train through the same loop and step as ALIGN, continue exactly, and are model folders."""

import dataclasses
import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_jax.cli import main
from align_jax.configuration import ConfigurationError, EfficientNetConfig, ViTConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.readers.tensors import SourceError
from align_jax.data.images import ImageTransform
from align_jax.data.labelled import LabelledDataset
from align_jax.data.labels import LabelData
from align_jax.inference.classifier import Classifier
from align_jax.inference.pipelines.pipeline import pipeline
from align_jax.parallel.mesh import MeshShape, batch_sharding, place_batch
from align_jax.training import doctor
from align_jax.training.evaluations import ClassificationEvaluation, Every, RetrievalEvaluation
from align_jax.training.experiment import Experiment
from align_jax.training.loop import train
from align_jax.training.metrics_log import read_metrics
from align_jax.training.optimizers import AdamW, Momentum
from align_jax.training.start import Start
from align_jax.training.tasks import Classification
from align_jax.training.workdir import write_model_folder
from align_jax.types import LabelBatch
from tests.training.conftest import COLOURS
from tests.training.test_loop import assert_trees_identical, losses, starts  # noqa: F401  (a fixture)

CLASSES = tuple(COLOURS)
PICTURE = np.full((20, 18, 3), 128, np.uint8)


class Grounds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Pictures of one colour with some noise; the colour is the class, or the number of its class is even or odd."""

    name = "grounds"
    classes = CLASSES
    code_path = None
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(self.classes))),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 64), "held_out": self._generate_examples(64, 21)}

    def _generate_examples(self, first, count):
        for number in range(first, first + count):
            name = CLASSES[number % len(CLASSES)]
            noise = np.random.default_rng(number).integers(-20, 20, (20, 18, 3))
            file = io.BytesIO()
            Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)).save(file, "PNG")
            yield number, {"image": file.getvalue(), "labels": [number % len(CLASSES) % len(self.classes)]}


class Cut(Grounds, skip_registration=True):
    """Half of the training's pictures are cut."""

    name = "cut"

    def _generate_examples(self, first, count):
        for number, example in super()._generate_examples(first, count):
            yield number, example | ({"image": example["image"][:60]} if number % 2 and number < 64 else {})


class Halves(Grounds, skip_registration=True):
    name = "halves"
    classes = ("even", "odd")


@pytest.fixture(scope="module")
def classification(tmp_path_factory) -> Experiment:
    """Twelve steps of a small Vision Transformer, with everything random switched on."""
    data_dir = str(tmp_path_factory.mktemp("grounds"))
    for builder in (Grounds, Halves, Cut):
        builder(data_dir=data_dir, file_format="array_record").download_and_prepare()
    model = ViTConfig.tiny(image_size=16, hidden_dropout_prob=0.1, num_hidden_layers=1, id2label=CLASSES)
    return Experiment(
        name="grounds",
        task=Classification(model=model, label_smoothing=0.1, first_class_bias=-1.0),
        data=LabelData(
            train=LabelledDataset("grounds", "train", data_dir),
            transform=ImageTransform(resize_px=16, crop_px=16, flip=True, smallest_area=0.2),
            max_labels=2,
        ),
        optimizer=AdamW(peak_learning_rate=1e-2, warmup_steps=2, weight_decay=0.1, decayed="everything", clip_norm=1.0),
        total_steps=12,
        batch_size=32,
        ema_decay=0.5,
        evaluations=(
            ClassificationEvaluation(
                name="held_out",
                data=LabelledDataset("grounds", "held_out", data_dir),
                every=Every(6),
                batch_size=16,
            ),
        ),
        log=Every(1),
        checkpoint=Every(6),
    )


@pytest.fixture(scope="module")
def finished(classification, tmp_path_factory):
    """Last state and workdir of a run without a break."""
    workdir = tmp_path_factory.mktemp("finished_classification")
    return train(classification, workdir), workdir


def test_a_classifier_learns_is_evaluated_and_is_a_model_folder(classification, finished):
    state, workdir = finished
    lines = read_metrics(workdir / "metrics.jsonl")
    found = list(losses(workdir).values())
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.3
    assert [line["step"] for line in lines if "held_out/top1" in line] == [6, 12]
    last = lines[-1]
    assert last["held_out/top1"] > 0.5
    assert last["held_out/top1"] <= last["held_out/top5"] <= 1
    assert {"images_per_second", "accuracy"} <= lines[-2].keys() | lines[-3].keys()
    assert not [key for line in lines for key in line if key.startswith("pairs")]
    assert Experiment.from_json(workdir / "experiment.json") == classification
    # What the folder's classifier says is what the evaluation of the averaged parameters counted.
    source = classification.evaluations[0].data.open()
    classifier = Classifier.from_pretrained(workdir, batch_size=8)
    logits = classifier.logits([record.image for record in source])
    right = [record.labels[0] == row.argmax() for record, row in zip(source, logits, strict=True)]
    assert np.mean(right) == pytest.approx(last["held_out/top1"], abs=1e-6)
    assert classifier.config == classification.task.model
    assert not np.array_equal(state.ema_params["classifier"]["kernel"], state.params["classifier"]["kernel"])


def test_the_evaluate_command_reads_the_data_set_of_the_training(classification, finished, tmp_path, capsys):
    held_out = classification.evaluations[0].data
    data, output = f"{held_out.data_dir}/grounds", tmp_path / "numbers.json"

    def evaluate(*options):
        command = ["evaluate", "--task", "classification", "--model", str(finished[1]), "--output", str(output)]
        return main([*command, "--resamples", "10", *options])

    assert evaluate("--data", data) == 0  # the only split besides "train"
    report = json.loads(output.read_text())
    last = read_metrics(finished[1] / "metrics.jsonl")[-1]
    assert report["split"] == "held_out"
    assert report["results"]["top1"]["value"] == pytest.approx(last["held_out/top1"], abs=1e-6)
    assert report["images"] == len(held_out.open())
    for options, reason in (
        (("--data", f"{data}/1.0.0", "--split", "absent"), "has no split 'absent'; it has held_out, train"),
        (("--data", f"{held_out.data_dir}/halves"), "class even is by its name none of its 8 classes"),
        (("--data", data, "--ground-truth", "labels.txt"), "holds its labels; leave labels.txt out"),
    ):
        capsys.readouterr()
        assert evaluate(*options) == 2
        assert reason in capsys.readouterr().err


def test_the_report_shows_accuracy_and_pictures_with_their_classes(classification, finished):
    _, workdir = finished
    last = read_metrics(workdir / "metrics.jsonl")[-1]
    page = (workdir / "report.html").read_text()
    headlines = {name: number for number, name in re.findall(r"<b>([\d.]+%)</b><span>(.*?)</span>", page)}
    assert headlines.keys() == {"top1", "top5", "class mean top1"}
    assert headlines["top1"] == f"{last['held_out/top1']:.1%}"
    assert "32 images" in page
    assert re.search(r"<dt>speed</dt><dd>[\d,]+ images/s \(median\)</dd>", page)
    shown = page.split("Pictures that were held out")[1].split("</section>")[0]
    pictures = re.findall(r'<img src="data:image/webp;base64,\S+" alt="(\w+)"', shown)
    # All of the split, in its order, each among the five classes that are most probable or with its own.
    assert pictures == [CLASSES[record.labels[0]] for record in classification.evaluations[0].data.open()]
    assert shown.count('<li class="is-right">') == 21
    assert shown.count('<li class="is-wrong">') == 4 * 21


def test_stopped_and_continued_classification_ends_bit_equal(classification, finished, starts, tmp_path):  # noqa: F811
    expected, workdir = finished
    assert int(train(classification, tmp_path / "stopped", stop_at=6).step) == 6
    state = train(classification, tmp_path / "stopped")
    assert starts == [0, 6]
    assert_trees_identical(state, expected)
    assert losses(tmp_path / "stopped") == losses(workdir)


@pytest.mark.parametrize("model", [ViTConfig.tiny(id2label=CLASSES), EfficientNetConfig.tiny(id2label=CLASSES)])
def test_first_class_bias_is_what_training_starts_from(model):
    task = Classification(model=model, objective="sigmoid", first_class_bias=-10.0)
    variables = jax.jit(task.init)(jax.random.key(0))
    assert variables["params"]["classifier"]["bias"].tolist() == [-10.0] * len(CLASSES)
    images = np.zeros((8, 32, 32, 3), np.uint8)
    batch = LabelBatch(images, np.full((8, 2), -1, np.int32))
    loss, _ = jax.jit(task.loss, static_argnums=3)(variables, batch, jax.random.key(0), MeshShape().build())
    if isinstance(model, ViTConfig):  # whose kernel starts from zero: next to nothing is wrong about no class at all
        assert float(loss) == pytest.approx(len(CLASSES) * np.log1p(np.exp(-10)), rel=1e-3)


def test_micro_batches_give_the_gradient_of_the_full_batch():
    model = ViTConfig.tiny(image_size=16, num_hidden_layers=1, id2label=CLASSES)
    whole = Classification(model=model, objective="sigmoid")
    variables = jax.jit(whole.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 2)
    kernel = jax.random.normal(keys[0], (32, len(CLASSES)))  # that of the start is zero, and so the tower's gradient
    params = {**variables["params"], "classifier": {**variables["params"]["classifier"], "kernel": kernel}}
    rng = np.random.default_rng(0)
    labels = np.stack([rng.permutation(len(CLASSES))[:2] for _ in range(64)]).astype(np.int32)
    labels[::3, 1] = -1
    batch = LabelBatch(rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8), labels)

    def gradients(task, devices):
        mesh = MeshShape().build(jax.devices()[:devices])

        def loss(params, batch):
            return task.loss({"params": params, "batch_stats": {}}, batch, jax.random.key(1), mesh)

        placed = place_batch(batch, batch_sharding(mesh))
        return jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True))(params, placed))

    parts = dataclasses.replace(whole, accumulation=4, rematerialize=("image/layers",))
    (found, (_, shown)), found_gradients = gradients(parts, devices=8)
    (wanted, (_, wanted_shown)), wanted_gradients = gradients(whole, devices=1)
    assert found == pytest.approx(float(wanted), rel=1e-6)
    assert shown["accuracy"] == wanted_shown["accuracy"]
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted_gradients))
    for a, b in zip(jax.tree.leaves(found_gradients), jax.tree.leaves(wanted_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * largest)


def test_linear_evaluation_starts_from_a_tower_and_leaves_it_as_it_is(classification, finished, tmp_path, capsys):
    """At another size, for which the position embeddings are interpolated."""
    state, workdir = finished
    model = dataclasses.replace(classification.task.model, image_size=24, id2label=Halves.classes)
    train_data, data_dir = classification.data.train, classification.data.train.data_dir
    data = dataclasses.replace(
        classification.data,
        train=dataclasses.replace(train_data, name="halves"),
        transform=ImageTransform(resize_px=24, crop_px=24),
    )
    held_out = dataclasses.replace(classification.evaluations[0], data=LabelledDataset("halves", "held_out", data_dir))
    start = Start(source=str(workdir), fresh=("^classifier/",))
    linear = dataclasses.replace(
        classification,
        task=Classification(model=model, objective="sigmoid", first_class_bias=-2.0),
        data=data,
        optimizer=Momentum(peak_learning_rate=0.1, frozen=("^image/",)),
        evaluations=(held_out,),
        start=start,
        total_steps=2,
    )
    tuned = train(linear, tmp_path)
    assert f"arrays from {workdir}; not taken: classifier/bias, classifier/kernel" in capsys.readouterr().out
    assert tuned.params["image"]["embeddings"]["position"].shape == (1 + 3 * 3, 32)
    for name in ("layers_0", "norm"):
        assert_trees_identical(tuned.params["image"][name], state.ema_params["image"][name])
    assert np.abs(tuned.params["classifier"]["kernel"]).max() > 0
    # What was trained with sigmoids answers with sigmoids, here and in transformers, and in the report.
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "multi_label_classification"
    scores = [each["score"] for each in pipeline("image-classification", model=str(tmp_path))(PICTURE)]
    assert sum(scores) < 0.8
    shown = (tmp_path / "report.html").read_text().split("Pictures that were held out")[1]
    percentages = re.findall(r"<span>([\d.]+)%</span>", shown)[:2]
    assert sum(map(float, percentages)) < 80
    with pytest.raises(ConfigurationError, match=r"classifier/bias is \[8\] there and \[2\] in the model"):
        train(dataclasses.replace(linear, start=Start(source=str(workdir))), tmp_path / "other")


def test_frozen_parameters_have_no_part_in_the_norm_that_is_clipped():
    params = {"image": {"kernel": jnp.ones((2, 2))}, "classifier": {"kernel": jnp.ones((2, 2))}}
    held = Momentum(frozen=("^image/",))

    def loss(params):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(held.without_frozen_gradients(params)))

    gradients = jax.grad(loss)(params)
    assert float(jnp.sum(gradients["image"]["kernel"])) == 0
    assert float(jnp.sum(gradients["classifier"]["kernel"])) == 4


def test_momentum_is_that_of_its_definition():
    optimizer = Momentum(peak_learning_rate=0.5, momentum=0.9, decay="constant", weight_decay=0.1, frozen=()).build(10)
    params, trace = {"kernel": jnp.array([[1.0, -2.0]])}, np.zeros((1, 2))
    expected, state = np.array([[1.0, -2.0]]), optimizer.init(params)
    for step in range(3):
        gradient = np.array([[0.3, 0.1]]) * (step + 1)
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
        trace = gradient + 0.9 * trace
        expected = expected - 0.5 * (trace + 0.1 * expected)
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-5)


def test_what_does_not_fit_together_is_refused(classification, experiment):
    images = dataclasses.replace(experiment.data, transform=classification.data.transform)
    pairs = dataclasses.replace(classification.data, transform=experiment.data.transform)
    discs = RetrievalEvaluation(name="discs", queries=experiment.data.train)
    model = ViTConfig.tiny(id2label=CLASSES)
    with pytest.raises(ConfigurationError, match="takes labelled images"):
        dataclasses.replace(classification, data=images)
    with pytest.raises(ConfigurationError, match="takes pairs"):
        dataclasses.replace(experiment, data=pairs)
    with pytest.raises(ConfigurationError, match="evaluation 'discs' is of pairs, and the task learns from images"):
        dataclasses.replace(classification, evaluations=(discs,))
    with pytest.raises(ConfigurationError, match="no classes to learn"):
        Classification(model=ViTConfig.tiny())
    many = dataclasses.replace(model, problem_type="multi_label_classification")
    with pytest.raises(ConfigurationError, match=r"problem_type .* 'softmax'; leave it out, or use 'single_label"):
        Classification(model=many)
    with pytest.raises(ConfigurationError, match="is of the softmax"):
        Classification(model=model, objective="sigmoid", label_smoothing=0.1)
    with pytest.raises(ConfigurationError, match="36 on 8 devices in 2 micro-batches does not divide; use 32"):
        Classification(model=model, accumulation=2).check_batch_size(36, 8)


def test_doctor_looks_for_the_weights_that_a_run_starts_from(classification, finished, tmp_path):
    def found(source, workdir):
        experiment = dataclasses.replace(classification, start=Start(source=str(source)))
        return list(doctor.folder(experiment, workdir, workdir / "checkpoints"))[-1]

    assert "finished_classification" in found(finished[1], tmp_path / "new").text
    assert "weights of a vit" in found(finished[1], tmp_path / "new").text
    with pytest.raises(SourceError, match="nowhere' does not exist"):
        found(tmp_path / "nowhere", tmp_path / "new")
    # A run that continues does not read them again.
    assert "continues after step 12" in found(tmp_path / "nowhere", finished[1]).text


def test_classes_that_the_model_only_numbers_take_the_names_of_the_data(classification, tmp_path):
    def described(names):
        model = dataclasses.replace(classification.task.model, id2label=names)
        experiment = dataclasses.replace(classification, task=Classification(model=model))
        write_model_folder(experiment, tmp_path)
        return ViTConfig.from_dict(json.loads((tmp_path / "config.json").read_text())).id2label

    assert described(numbered_labels(8)) == CLASSES
    assert described([name.upper() for name in CLASSES])[0] == "RED"
    assert described([f"n0000000{number}" for number in range(8)])[0] == "n00000000"  # synsets contradict no word
    with pytest.raises(ConfigurationError, match=r"class 1 is 'blue' in the model and 'green' in grounds, train; give"):
        described(("red", "blue", "green", *CLASSES[3:]))
    with pytest.raises(ConfigurationError, match="the model has 9 classes, and grounds, train 8"):
        train(
            dataclasses.replace(
                classification,
                task=Classification(model=dataclasses.replace(classification.task.model, id2label=numbered_labels(9))),
            ),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_doctor_looks_at_labelled_images(classification):
    found = [finding.text for check in (doctor.mesh, doctor.data) for finding in check(classification)]
    assert "data 8 x fsdp 1 x tensor 1; 4 of 32 images on a device" in found[0]
    assert "64 images in grounds, train; the run sees each 6.0 times" in found[1]
    assert not [text for text in found if "batch norm" in text or "cannot be used" in text]


def test_the_doctor_command_says_what_a_recipe_lacks_and_has(classification, tmp_path, capsys):
    command = ["doctor", "--config", f"configs/vit_tiny_openmoji.py:debug,data_dir={tmp_path}"]
    command += ["--workdir", str(tmp_path / "run")]
    assert main(command) == 1
    assert f"prepare it with `align-jax data openmoji-groups --data-dir {tmp_path}`" in capsys.readouterr().out
    there = classification.data.train
    command += ["--data.train.name", there.name, "--data.train.data-dir", there.data_dir]
    assert main(command) == 1
    assert "fault held out  no data set 'openmoji_groups/px72'" in capsys.readouterr().out
    evaluation = ["--evaluations.0.data.name", there.name, "--evaluations.0.data.data-dir", there.data_dir]
    assert main([*command, *evaluation]) == 1
    printed = capsys.readouterr().out
    assert "fault data      the model has 10 classes, and grounds, train 8; give the model's id2label a name" in printed
    assert "fault held out  the model has 10 classes, and grounds, held_out 8; give" in printed
    command += ["--task.model.id2label", *CLASSES]
    assert main([*command, *evaluation]) == 0
    printed = capsys.readouterr().out
    assert "2 of 16 images on a device" in printed
    assert printed.splitlines()[-1].startswith("no fault; read the note")  # of a precision that the tests set
    assert main([*command, *evaluation, "--data.train.name", "cut"]) == 1
    assert "fault data      32 of 64 sampled records cannot be used, such as record " in capsys.readouterr().out
    assert "64 images in grounds, train; the run sees each 1.0 times" in printed


def test_the_plan_command_counts_images_and_sums_nothing_but_gradients(capsys):
    command = ["plan", "--config", "configs/vit_tiny_openmoji.py:debug", "--topology", "cpu:2"]
    for name, size in {"num-hidden-layers": 1, "hidden-size": 1024, "intermediate-size": 2048, "patch-size": 8}.items():
        command += [f"--task.model.{name}", str(size)]
    assert main(command) == 0
    rows = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert rows["devices"] == "2 x cpu"
    assert rows["images a step"] == "16, 8 a device"
    assert rows["memory a device"].startswith("fits: ")
    tokens, width, hidden = 17, 1024, 2048
    layer = 2 * tokens * (4 * width**2 + 2 * width * hidden) + 4 * tokens**2 * width
    products = 3 * (layer + 2 * width * 10) + 2 * 2 * 16 * 192 * width  # and of the patches
    assert rows["FLOPs of one of the images"] == f"{products / 1e9:.1f} G to train"
    assert "all-reduce" in rows
    assert not rows.keys() & {"all-gather", "reduce-scatter", "all-to-all", "embeddings"}


def test_experiment_files_from_before_there_was_a_choice_are_read(experiment, tmp_path):
    experiment.to_json(tmp_path / "experiment.json")
    values = json.loads((tmp_path / "experiment.json").read_text())
    for part in ("task", "data"):
        del values[part]["kind"]
    del values["start"], values["data"]["transform"]["smallest_area"]
    (tmp_path / "experiment.json").write_text(json.dumps(values))
    assert Experiment.from_json(tmp_path / "experiment.json") == experiment
