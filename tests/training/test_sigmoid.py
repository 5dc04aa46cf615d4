"""Training with the sigmoid loss: its bias is a parameter of the run, and no part of the model."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from align_jax.cli import main
from align_jax.cli.train import override
from align_jax.configuration import AlignConfig
from align_jax.conversion.rules import of_model
from align_jax.inference.model_folder import load_model
from align_jax.parallel.mesh import MeshShape
from align_jax.parallel.sharding import logical_axes
from align_jax.training.experiment import Experiment
from align_jax.training.loop import train
from align_jax.training.metrics_log import read_metrics
from align_jax.training.optimizers import AdamW, Lamb
from align_jax.training.state import abstract_state, state_initializer
from align_jax.training.tasks import Contrastive


@pytest.fixture
def sigmoid(experiment):
    task = dataclasses.replace(experiment.task, objective="sigmoid", loss_form="ring", accumulation=2)
    data = dataclasses.replace(experiment, task=task, batch_size=64)
    return dataclasses.replace(data, optimizer=Lamb(peak_learning_rate=1e-2, decay="constant"))


def test_bias_is_trained_shown_and_left_out_of_every_model(sigmoid, tmp_path):
    run = tmp_path / "run"
    state = train(sigmoid, run, stop_at=2)
    shown = [line["logit_bias"] for line in read_metrics(run / "metrics.jsonl") if "logit_bias" in line]
    assert shown[0] == -10.0
    assert shown[1] != -10.0
    assert float(state.params["logit_bias"]) != shown[1]
    _, variables, _ = load_model(run)
    assert "logit_bias" not in variables["params"]
    np.testing.assert_array_equal(variables["params"]["temperature"], state.variables()["params"]["temperature"])
    assert main(["convert", str(run), str(tmp_path / "hf"), "--to", "hf"]) == 0
    ignored = json.loads((tmp_path / "hf" / "conversion.json").read_text())["ignored"]
    assert [(names, "sigmoid loss" in reason) for reason, names in ignored.items()] == [(["params/logit_bias"], True)]


def test_only_the_sigmoid_objective_has_a_bias():
    softmax, sigmoid = (
        jax.eval_shape(Contrastive(model=AlignConfig.tiny(), objective=objective).init, jax.random.key(0))["params"]
        for objective in ("softmax", "sigmoid")
    )
    assert sigmoid.keys() - softmax.keys() == {"logit_bias"}


def test_bias_lies_whole_on_every_device_with_its_moments():
    assert logical_axes("logit_bias") == ()
    task = Contrastive(model=AlignConfig.tiny(), objective="sigmoid")
    for optimizer in (Lamb(), AdamW()):
        init = state_initializer(task.init, optimizer.build(10), seed=0, averaged=True)
        state = abstract_state(init, MeshShape(fsdp=8).build())
        found = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
            if "logit_bias" in jax.tree_util.keystr(path)
        ]
        assert len(found) == 4  # parameter, average, first and second moment
        assert all(leaf.sharding.is_fully_replicated for leaf in found)


def test_a_variable_of_no_rule_is_still_refused():
    from align_jax.conversion.align import TABLE

    assert of_model({"params": {"logit_bias": 1, "logit_scale": 2}}, TABLE) == {"params": {"logit_scale": 2}}


def test_fields_of_the_loss_survive_their_file_and_are_flags(sigmoid, tmp_path):
    flags = ["--task.loss-form", "chunked", "--task.chunk-size", "48", "--task.objective", "softmax"]
    changed = override(sigmoid, [*flags, "--task.accumulation", "4"])
    task = changed.task
    assert (task.loss_form, task.chunk_size, task.objective, task.accumulation) == ("chunked", 48, "softmax", 4)
    changed.to_json(tmp_path / "experiment.json")
    assert Experiment.from_json(tmp_path / "experiment.json") == changed


def test_micro_batches_that_do_not_divide_on_the_mesh_are_refused_before_anything_is_written(experiment, tmp_path):
    task = dataclasses.replace(experiment.task, accumulation=2)
    with pytest.raises(ValueError, match=r"batch_size 32 on 8 devices in 2 micro-batches .* use 64"):
        train(dataclasses.replace(experiment, task=task), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="use 32 or 40"):
        dataclasses.replace(experiment, task=task, batch_size=36)
