import dataclasses
from pathlib import Path

import pytest

from align_jax.cli.train import load_config, override
from align_jax.configuration import AlignConfig, AlignTextConfig
from align_jax.parallel.mesh import MeshShape, batch_sharding
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import Lamb
from align_jax.training.state import abstract_state, state_initializer
from align_jax.training.step import compile_step, train_step

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def lower_step(experiment):
    """Traces the whole training step, with shapes in place of arrays."""
    mesh = MeshShape().build()
    optimizer = experiment.optimizer.build(experiment.total_steps)
    init = state_initializer(experiment.task.init, optimizer, seed=0, averaged=experiment.ema_decay is not None)
    state = abstract_state(init, mesh)
    batch = experiment.task.abstract_batch(experiment.data, experiment.batch_size)
    return compile_step(train_step(experiment, optimizer, mesh), state, batch_sharding(mesh)).lower(state, batch)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds_its_step_at_debug_size(path):
    experiment = load_config(f"{path}:debug")
    assert isinstance(experiment, Experiment)
    assert experiment.total_steps <= 10
    lower_step(experiment)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_survives_its_file_at_full_size(path, tmp_path):
    experiment = load_config(str(path))
    experiment.to_json(tmp_path / "experiment.json")
    assert Experiment.from_json(tmp_path / "experiment.json") == experiment


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_where_it_comes_from(path):
    text = path.read_text()
    assert "Source:" in text
    assert f"Command: align-jax train --config configs/{path.name}" in text


@pytest.mark.parametrize(
    ("name", "model", "batch", "steps", "warmup", "rate"),
    [
        ("align_b7_base_coyo", AlignConfig.b7_base(), 65536, 300_000, 40_000, 2e-3),
        ("align_b3_mini_cc3m", AlignConfig.b3_mini(), 16384, 100_000, 10_000, 5e-3),
        (
            "align_l2_large",
            AlignConfig.l2_large(text_config=AlignTextConfig.large(vocab_size=100_000)),
            16384,
            1_200_000,
            10_000,
            1e-3,
        ),
    ],
)
def test_released_hyper_parameters(name, model, batch, steps, warmup, rate):
    experiment = load_config(f"configs/{name}.py")
    assert (experiment.task.model, experiment.batch_size, experiment.total_steps) == (model, batch, steps)
    optimizer = experiment.optimizer
    assert optimizer == Lamb(peak_learning_rate=rate, warmup_steps=warmup, weight_decay=1e-5)
    assert (optimizer.b1, optimizer.b2, optimizer.eps, optimizer.clip_norm) == (0.9, 0.999, 1e-6, None)
    task, transform = experiment.task, experiment.data.transform
    assert (task.label_smoothing, task.batch_norm_group_size, task.dtype) == (0.1, 16, "bfloat16")
    assert (transform.resize_px, transform.crop_px, transform.flip) == (346, 289, True)
    assert experiment.data.text_length == 64
    assert task.model.temperature_init_value == 1.0
    assert task.temperature_floor is None


def test_arguments_after_the_colon_are_typed():
    assert load_config("configs/openmoji.py:batch_size=64,total_steps=7").batch_size == 64
    with pytest.raises(ValueError, match=r"no argument 'btach_size'.*batch_size"):
        load_config("configs/openmoji.py:btach_size=64")
    with pytest.raises(ValueError, match=r"batch_size='many' is not of type int"):
        load_config("configs/openmoji.py:batch_size=many")
    with pytest.raises(FileNotFoundError, match=r"configs/nothing.py"):
        load_config("configs/nothing.py")


def test_flags_override_nested_fields_and_refuse_unknown_ones(capsys):
    experiment = load_config("configs/openmoji.py:debug")
    changed = override(experiment, ["--optimizer.peak-learning-rate", "3e-3", "--data.transform.flip"])
    assert changed.optimizer == dataclasses.replace(experiment.optimizer, peak_learning_rate=3e-3)
    assert changed.data.transform.flip
    with pytest.raises(SystemExit) as stopped:
        override(experiment, ["--optimizer.peak-learning-rat", "3e-3"])
    assert stopped.value.code == 2
    assert "peak-learning-rat" in capsys.readouterr().err
