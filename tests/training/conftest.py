"""A small data set of real files, prepared the way a user would, and an experiment that fits it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from align_jax.cli import main
from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.data.images import ImageTransform
from align_jax.data.pairs import PairData
from align_jax.data.records import PairDataset
from align_jax.training.evaluations import Every, RetrievalEvaluation
from align_jax.training.experiment import Experiment
from align_jax.training.loop import train
from align_jax.training.optimizers import AdamW
from align_jax.training.state import TrainState
from align_jax.training.tasks import Contrastive

COLOURS = {
    "red": (220, 40, 30), "green": (30, 170, 60), "blue": (40, 70, 220), "yellow": (240, 220, 40),
    "black": (10, 10, 10), "white": (250, 250, 250), "purple": (140, 40, 160), "orange": (250, 140, 20),
}  # fmt: skip


def write_pictures(folder: Path) -> None:
    """One picture, with its caption beside it, for each pair of colours: a disc on a ground."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:20, :20]
    disc = (rows - 9.5) ** 2 + (columns - 9.5) ** 2 < 36
    for disc_name, disc_colour in COLOURS.items():
        for ground_name, ground_colour in COLOURS.items():
            pixels = np.where(disc[..., None], disc_colour, ground_colour).astype(np.uint8)
            stem = folder / f"{disc_name}_{ground_name}"
            Image.fromarray(pixels).save(stem.with_suffix(".png"))
            stem.with_suffix(".txt").write_text(f"a {disc_name} disc on a {ground_name} ground")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A folder of data sets with `discs` (64 pairs) and its vocabulary."""
    root = tmp_path_factory.mktemp("discs")
    write_pictures(root / "pictures")
    data = root / "data"
    folder = ["data", "folder", "--input", str(root / "pictures"), "--name", "discs", "--data-dir", str(data)]
    assert main(folder) == 0
    vocabulary = ["data", "vocabulary", "--data", "discs", "--data-dir", str(data), "--size", "60"]
    assert main([*vocabulary, "--output", str(data / "vocabulary")]) == 0
    return data


@pytest.fixture(scope="session")
def experiment(data_dir) -> Experiment:
    """Twenty steps of a small ALIGN, with batch norm in groups of 4 and every randomness switched on."""
    discs = PairDataset("discs", "train", str(data_dir))
    channels = {"in_channels": (32, 8, 16), "out_channels": (8, 16, 16)}
    vision = AlignVisionConfig.tiny(image_size=17, drop_connect_rate=0.2, **channels)
    text = AlignTextConfig.tiny(hidden_dropout_prob=0.1)
    return Experiment(
        name="discs",
        task=Contrastive(
            model=AlignConfig.of_towers(vision, text, projection_dim=16, temperature_init_value=0.2),
            batch_norm_group_size=4,
        ),
        data=PairData(
            train=discs,
            tokenizer=str(data_dir / "vocabulary"),
            transform=ImageTransform(resize_px=20, crop_px=17, flip=True),
            text_length=12,
        ),
        optimizer=AdamW(peak_learning_rate=3e-3, warmup_steps=5),
        total_steps=20,
        batch_size=32,
        ema_decay=0.9,
        log=Every(1),
        checkpoint=Every(10),
    )


@pytest.fixture(scope="session")
def evaluated(experiment, data_dir) -> Experiment:
    """The same, with retrieval evaluated on the way."""
    discs = PairDataset("discs", "train", str(data_dir))
    evaluation = RetrievalEvaluation(name="discs", queries=discs, every=Every(10), batch_size=32)
    return dataclasses.replace(experiment, evaluations=(evaluation,))


@pytest.fixture(scope="session")
def finished_run(experiment, tmp_path_factory) -> tuple[TrainState, Path]:
    """Last state and workdir of twenty steps on eight devices without a break. Many share it: copy what you change."""
    workdir = tmp_path_factory.mktemp("finished")
    return train(experiment, workdir), workdir


@pytest.fixture(scope="session")
def half_run(experiment, tmp_path_factory) -> Path:
    """Workdir of the same run, told to stop after ten steps. Many share it: copy what you change."""
    workdir = tmp_path_factory.mktemp("half")
    assert int(train(experiment, workdir, stop_at=10).step) == 10
    return workdir


@pytest.fixture(scope="session")
def finished_evaluated_run(evaluated, tmp_path_factory) -> tuple[TrainState, Path]:
    """Last state and workdir of the run with evaluations. Many share it: copy what you change."""
    workdir = tmp_path_factory.mktemp("finished_evaluated")
    return train(evaluated, workdir), workdir
