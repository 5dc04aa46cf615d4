import dataclasses
import math
import re
from pathlib import Path

import jax
import pytest

from align_jax.cli.train import load_config, override
from align_jax.configuration import AlignConfig, AlignTextConfig
from align_jax.data.images import ImageTransform
from align_jax.data.records import PairDataset
from align_jax.data.tar_pairs import TarPairs
from align_jax.parallel.mesh import MeshShape, batch_sharding
from align_jax.parallel.sharding import path_name
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import AdamW, Lamb, Momentum
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
    assert "Hardware:" in text
    assert re.search(r"^Expected\b", text, re.MULTILINE)


FROM_TARS = [path for path in CONFIGS if "dataset: pairs" in path.read_text()]


@pytest.mark.parametrize("path", FROM_TARS, ids=lambda path: path.stem)
def test_every_recipe_of_pairs_of_the_web_reads_tars_as_they_are(path):
    assert load_config(f"{path}:tars=images/2024").data.train == TarPairs("images/2024")
    assert load_config(f"{path}:dataset=mine").data.train == PairDataset("mine", "train", "data")
    assert len(FROM_TARS) == 5


def parameters(experiment):
    """Paths and shapes of what a full-size experiment trains; nothing is computed."""
    params = jax.eval_shape(experiment.task.init, jax.random.key(0))["params"]
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vit_l16_imagenet.py", "vit_l16_coyo_labeled.py"),
        ("vit_l16_imagenet.py:image_px=512", "vit_l16_coyo_labeled.py"),
        ("vit_l16_linear.py", "vit_l16_coyo_labeled.py"),
        ("align_locked_image.py", "vit_l16_imagenet.py"),
        ("align_retrieval.py", "align_b7_base_coyo.py"),
    ],
)
def test_every_start_fits_the_recipe_that_it_starts_from(path, source):
    experiment = load_config(f"configs/{path}")
    wanted, there = parameters(experiment), parameters(load_config(f"configs/{source}"))
    fresh = {name for name in wanted if any(re.search(pattern, name) for pattern in experiment.start.fresh)}
    other = {name for name in wanted.keys() - fresh if wanted[name] != there.get(name)}
    assert other <= {"image/embeddings/position"}  # which is interpolated
    assert bool(other) == ("imagenet" in path)
    assert all(any(re.search(pattern, name) for name in wanted) for pattern in experiment.start.fresh)


def test_released_hyper_parameters_of_the_vision_transformer():
    first, tuned, averaged = (
        load_config(f"configs/vit_l16_{name}")
        for name in ("coyo_labeled.py", "imagenet.py", "imagenet.py:image_px=512")
    )
    sizes = [sum(math.prod(shape) for shape in parameters(experiment).values()) for experiment in (first, tuned)]
    assert sizes == [303_301_632 + 1024 * 1025 + 1025 * 21_841, 304_715_752]
    assert (first.batch_size, first.total_steps) == (4096, 7 * 300_000_000 // 4096)
    assert first.optimizer == AdamW(
        peak_learning_rate=6e-4, final_learning_rate=1e-5, warmup_steps=10_000, decay="linear", weight_decay=0.1,
        decayed="everything", b1=0.9, b2=0.999, eps=1e-7, clip_norm=1.0,
    )  # fmt: skip
    assert (first.task.objective, first.data.max_labels, first.data.train.least_probability) == ("sigmoid", 50, None)
    assert first.data.transform == ImageTransform(resize_px=256, crop_px=224, flip=True, smallest_area=0.05)
    for experiment, size_px, decay in ((tuned, 384, None), (averaged, 512, 0.9999)):
        assert (experiment.batch_size, experiment.total_steps, experiment.ema_decay) == (512, 20_000, decay)
        assert experiment.optimizer == Momentum(
            peak_learning_rate=0.06, momentum=0.9, warmup_steps=500, decay="cosine", weight_decay=0.0, clip_norm=1.0
        )
        assert (experiment.task.objective, experiment.task.label_smoothing) == ("softmax", 0.0)
        assert experiment.task.model.image_size == experiment.data.transform.resize_px == size_px
    for experiment in (first, tuned, averaged):
        model = experiment.task.model
        assert (model.hidden_act, model.layer_norm_eps) == ("gelu_pytorch_tanh", 1e-6)
        assert model.hidden_dropout_prob == 0.0


@pytest.mark.parametrize(("benchmark", "steps"), [("flickr30k", 3000), ("coco", 6000)])
def test_published_fine_tuning_for_retrieval(benchmark, steps):
    experiment = load_config(f"configs/align_retrieval.py:benchmark={benchmark}")
    assert (experiment.batch_size, experiment.total_steps) == (2048, steps)
    assert experiment.optimizer == Lamb(peak_learning_rate=1e-5, warmup_steps=0, decay="linear", weight_decay=1e-5)
    assert experiment.data.train.name == benchmark


def test_multilingual_has_its_vocabulary():
    shapes = parameters(load_config("configs/align_multilingual.py"))
    assert [shape for name, shape in shapes.items() if "word" in name] == [(250_000, 768)]


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
