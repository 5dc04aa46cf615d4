import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from transformers import AlignProcessor

from align_jax.cli import main
from align_jax.configuration import AlignConfig, ConfigurationError
from align_jax.data.quarantine import TooManyBadRecordsError
from align_jax.data.records import PairDataset
from align_jax.inference.model_folder import load_model
from align_jax.parallel.mesh import MeshShape
from align_jax.training.experiment import Experiment
from align_jax.training.loop import NonFiniteLossError, train
from align_jax.training.metrics_log import read_metrics
from align_jax.training.optimizers import Lamb
from tests.training.conftest import write_pictures


def losses(workdir):
    return {line["step"]: line["loss"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line}


def assert_trees_identical(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.fixture
def starts(monkeypatch):
    """The steps at which loaders began, in order: a run that silently starts anew would give the same numbers."""
    from align_jax.data.loader import TrainLoader

    begun, iterate = [], TrainLoader.iterate
    monkeypatch.setattr(TrainLoader, "iterate", lambda self, step=0: begun.append(step) or iterate(self, step))
    return begun


@pytest.fixture
def straight(finished_run, tmp_path):
    """Twenty steps on eight devices without a break; the workdir may be changed."""
    state, workdir = finished_run
    shutil.copytree(workdir, tmp_path / "straight")
    return state, losses(tmp_path / "straight")


def test_one_device_gives_the_losses_of_eight(experiment, straight, tmp_path):
    _, on_eight = straight
    train(experiment, tmp_path / "one", devices=jax.devices()[:1])
    on_one = losses(tmp_path / "one")
    assert list(on_one) == list(on_eight) == list(range(1, 21))
    np.testing.assert_allclose(list(on_one.values()), list(on_eight.values()), rtol=1e-4)
    assert abs(on_eight[20] - on_eight[1]) > 0.1  # it moves, so the agreement is about more than the first step


def test_sharded_parameters_give_the_same_losses(experiment, straight, tmp_path):
    _, expected = straight
    split = dataclasses.replace(experiment, mesh=MeshShape(data=2, fsdp=2, tensor=2))
    train(split, tmp_path / "split")
    np.testing.assert_allclose(list(losses(tmp_path / "split").values()), list(expected.values()), rtol=1e-4)


def test_stopped_and_continued_run_ends_bit_equal_to_the_straight_run(experiment, straight, starts, tmp_path):
    expected_state, expected_losses = straight
    workdir = tmp_path / "stopped"
    assert int(train(experiment, workdir, stop_at=10).step) == 10
    state = train(experiment, workdir)
    assert starts == [0, 10]
    assert_trees_identical(state, expected_state)
    assert losses(workdir) == expected_losses


def test_checkpoint_written_while_training_went_on_is_that_of_its_step(experiment, straight, starts, tmp_path):
    """The arrays of step 10 were given away to step 11 while they were being written."""
    expected_state, expected_losses = straight
    shutil.rmtree(tmp_path / "straight" / "checkpoints" / "20")
    assert_trees_identical(train(experiment, tmp_path / "straight"), expected_state)
    assert starts == [10]
    assert losses(tmp_path / "straight") == expected_losses


def test_finished_run_does_not_train_again(experiment, straight, starts, tmp_path):
    state, expected_losses = straight
    again = train(experiment, tmp_path / "straight")
    assert starts == []
    assert_trees_identical(again, state)
    assert losses(tmp_path / "straight") == expected_losses


def test_run_continues_from_the_last_checkpoint_after_later_steps_were_lost(experiment, straight, half_run, tmp_path):
    """Steps 11 to 15 were logged, then the process died: their lines are dropped and written again."""
    expected_state, expected_losses = straight
    workdir = tmp_path / "killed"
    shutil.copytree(half_run, workdir)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "loss": 99.0}) + "\n" for step in range(11, 16))
    assert_trees_identical(train(experiment, workdir), expected_state)
    assert losses(workdir) == expected_losses


def test_damaged_checkpoint_is_named_and_the_one_before_continues_bit_equal(
    experiment, straight, starts, tmp_path, capsys
):
    expected_state, expected_losses = straight
    workdir = tmp_path / "straight"
    damaged = max((workdir / "checkpoints" / "20").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert_trees_identical(train(experiment, workdir), expected_state)
    assert starts == [10]
    assert losses(workdir) == expected_losses
    assert (
        f"checkpoint 20 is not used: {damaged.relative_to(workdir / 'checkpoints' / '20')}" in capsys.readouterr().out
    )
    assert (workdir / "checkpoints" / "20.damaged").is_dir()


def test_evaluation_report_and_model_folder(evaluated, finished_evaluated_run):
    state, workdir = finished_evaluated_run
    recalls = [line for line in read_metrics(workdir / "metrics.jsonl") if "discs/image_to_text_recall@1" in line]
    assert [line["step"] for line in recalls] == [10, 20]
    assert all(0.0 <= value <= 1.0 for line in recalls for key, value in line.items() if key != "step")
    page = (workdir / "report.html").read_text()
    assert page.count("disc on a") > 24 * 5  # queries and what was found for them
    assert "data:image/" in page
    assert AlignConfig.from_json(workdir) == evaluated.task.model
    assert Experiment.from_json(workdir / "experiment.json") == evaluated
    inputs = AlignProcessor.from_pretrained(workdir)(
        text=["a red disc"], images=Image.new("RGB", (40, 30)), return_tensors="np", max_length=12
    )
    assert inputs["pixel_values"].shape == (1, 3, 17, 17)
    assert inputs["input_ids"].shape == (1, 12)
    _, variables, tokenizer = load_model(workdir)
    assert_trees_identical(variables, state.variables())
    assert tokenizer.encode(["a red disc"], 12)[0].tolist() == inputs["input_ids"].tolist()


def test_bfloat16_training_follows_float32(experiment, straight, tmp_path):
    _, expected = straight
    low = dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, dtype="bfloat16"))
    state = train(low, tmp_path / "low", stop_at=5)
    found = losses(tmp_path / "low")
    np.testing.assert_allclose(list(found.values()), [expected[step] for step in found], rtol=0.03)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}


def test_experiment_with_lamb_survives_its_file(experiment, tmp_path):
    lamb = dataclasses.replace(experiment, optimizer=Lamb(peak_learning_rate=5e-3, clip_norm=1.0))
    lamb.to_json(tmp_path / "experiment.json")
    assert Experiment.from_json(tmp_path / "experiment.json") == lamb


def test_unknown_field_in_an_experiment_file_is_named(experiment, tmp_path):
    path = tmp_path / "experiment.json"
    experiment.to_json(path)
    values = json.loads(path.read_text())
    values["optimizer"]["learning_rat"] = 1.0
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigurationError, match="learning_rat"):
        Experiment.from_json(path)


def test_loss_that_is_not_a_number_stops_with_its_step_and_is_not_saved(experiment, tmp_path):
    wild = dataclasses.replace(experiment, optimizer=Lamb(peak_learning_rate=1e30, decay="constant", warmup_steps=2))
    with pytest.raises(NonFiniteLossError, match=r"loss is nan at step \d+"):
        train(wild, tmp_path)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]


def test_batch_that_does_not_divide_is_refused_before_anything_is_written(experiment, tmp_path):
    with pytest.raises(ValueError, match="batch_size 36 is not divisible by 8 devices; use 32 or 40"):
        train(dataclasses.replace(experiment, batch_size=36), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_workdir_of_another_model_is_refused(experiment, half_run, tmp_path):
    workdir = shutil.copytree(half_run, tmp_path / "run")
    wider = dataclasses.replace(experiment.task.model, projection_dim=24, image_projection=True)
    other = dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, model=wider))
    with pytest.raises(ConfigurationError, match="holds a run of another model"):
        train(other, workdir)


def test_another_order_of_examples_is_refused(experiment, half_run, tmp_path):
    workdir = shutil.copytree(half_run, tmp_path / "run")
    data = dataclasses.replace(experiment.data, neighbours=2)
    with pytest.raises(ConfigurationError, match=r"seed was 0 and is now 1; neighbours was 1 and is now 2"):
        train(dataclasses.replace(experiment, seed=1, data=data), workdir)
    assert Experiment.from_json(workdir / "experiment.json") == experiment


def test_remote_workdir_is_refused_rather_than_written_beside_the_project(experiment):
    with pytest.raises(ValueError, match=r"gs:.*is remote"):
        train(experiment, "gs://bucket/run")


def test_batch_that_does_not_divide_into_batch_norm_groups_is_refused(experiment):
    with pytest.raises(ValueError, match="not a multiple of the batch-norm group size 4"):
        dataclasses.replace(experiment, batch_size=30)


def test_temperature_is_never_below_its_floor(experiment, tmp_path):
    """The parameter itself, which the report and whoever loads the model divide by."""
    floored = dataclasses.replace(experiment.task, temperature_floor=0.1999)
    state = train(dataclasses.replace(experiment, task=floored, ema_decay=None), tmp_path)
    temperatures = [line["temperature"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert min(temperatures) >= np.float32(0.1999)
    assert float(state.params["temperature"]) >= np.float32(0.1999)


def test_broken_images_are_skipped_named_and_limited(experiment, tmp_path, data_dir):
    """The builder lets only whole images in, so records are broken where they lie."""
    from align_jax.data.records import PairRecord, RecordSource

    broken = {"red_blue.png", "blue_red.png"}
    original = RecordSource.__getitem__

    def damaged(self, index):
        record = original(self, index)
        name = record.key.split("/")[-1]
        return PairRecord(record.key, record.image[:40], record.texts) if name in broken else record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordSource, "__getitem__", damaged)
        train(experiment, tmp_path / "tolerant", stop_at=4)
        lines = (tmp_path / "tolerant" / "quarantine-0.jsonl").read_text().splitlines()
        assert {json.loads(line)["key"].split("/")[-1] for line in lines} == broken
        strict = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, max_bad_records=1))
        with pytest.raises(TooManyBadRecordsError, match="max_bad_records 1"):
            train(strict, tmp_path / "strict")


def test_command_line_overrides_any_field_by_type(experiment):
    from align_jax.cli.train import override

    changed = override(experiment, ["--optimizer.peak-learning-rate", "0.5", "--mesh.fsdp", "2", "--ema-decay", "None"])
    assert (changed.optimizer.peak_learning_rate, changed.mesh.fsdp, changed.ema_decay) == (0.5, 2, None)


def test_missing_data_set_names_the_command(experiment, tmp_path):
    absent = PairDataset("discs", "train", str(tmp_path))
    data = dataclasses.replace(experiment.data, train=absent)
    with pytest.raises(FileNotFoundError, match="align-jax data"):
        train(dataclasses.replace(experiment, data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_builder_of_the_fixture_is_deterministic(tmp_path, data_dir):
    write_pictures(tmp_path / "pictures")
    arguments = ["--input", str(tmp_path / "pictures"), "--name", "discs", "--data-dir", str(tmp_path / "data")]
    assert main(["data", "folder", *arguments]) == 0
    first, second = (PairDataset("discs", "train", str(root)).open() for root in (data_dir, tmp_path / "data"))
    assert [record.texts for record in first] == [record.texts for record in second]


def test_record_that_cannot_be_read_is_left_out_of_an_evaluation(evaluated, finished_evaluated_run, tmp_path):
    from align_jax.data.quarantine import Quarantine
    from align_jax.data.records import RecordError, RecordSource
    from align_jax.training.evaluations import Retrieval

    original = RecordSource.__getitem__

    def damaged(self, index):
        if index == 5:
            raise RecordError("record 5 cannot be read: checksum")
        return original(self, index)

    quarantine = Quarantine(tmp_path / "quarantine-0.jsonl", 1)
    parts = (
        evaluated.task.module(),
        evaluated.mesh.build(),
        evaluated.task.batching(evaluated.data),
        evaluated.data,
        quarantine,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordSource, "__getitem__", damaged)
        outcome = Retrieval(evaluated.evaluations[0], *parts).run(finished_evaluated_run[0].variables())
    assert 5 not in outcome.query_ids
    assert len(outcome.query_ids) == len(outcome.texts) == 63
    assert 5 not in outcome.embedded.text_ids
    assert quarantine.count == 1
    assert "checksum" in quarantine.path.read_text()
