"""Trainings from tars as they are and from mixtures."""

import dataclasses

import pytest

from align_jax.cli.train import override
from align_jax.data.mixture import PairMixture, Weighted
from align_jax.data.tar_pairs import TarPairs
from align_jax.training.experiment import Experiment
from align_jax.training.loop import train
from tests.data.collections.made import member, tar_bytes
from tests.training.test_loop import assert_trees_identical, losses


@pytest.fixture(scope="module")
def tars(experiment, tmp_path_factory):
    """The pairs of the prepared data set in the same order, in three tars."""
    folder = tmp_path_factory.mktemp("tars")
    source = experiment.data.train.open()
    for shard, numbers in enumerate((range(20), range(20, 50), range(50, len(source)))):
        members = [
            member(f"{number:06}.{suffix}", content)
            for number in reversed(numbers)  # in any order, as they were downloaded
            for suffix, content in (("png", source[number].image), ("txt", source[number].texts[0].encode()))
        ]
        (folder / f"{shard:05}.tar").write_bytes(tar_bytes(members))
    return TarPairs(str(folder))


def with_pairs(experiment, pairs):
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, train=pairs))


def test_tars_train_as_the_prepared_data_set_does_and_continue_exactly(experiment, finished_run, tars, tmp_path):
    state, workdir = finished_run
    from_tars = with_pairs(experiment, tars)
    train(from_tars, tmp_path / "run", stop_at=10)
    last = train(from_tars, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(workdir)
    assert_trees_identical(last, state)


@pytest.mark.parametrize("mixed", [False, True])
def test_experiment_file_and_flags_know_every_source(experiment, tars, tmp_path, mixed):
    pairs = PairMixture((Weighted(experiment.data.train, 0.75), Weighted(tars, 0.25))) if mixed else tars
    with_it = with_pairs(experiment, pairs)
    with_it.to_json(tmp_path / "experiment.json")
    assert Experiment.from_json(tmp_path / "experiment.json") == with_it
    flag = ["--data.train.parts.1.weight", "0.5"] if mixed else ["--data.train.folder", "elsewhere"]
    changed = override(with_it, flag).data.train
    assert changed.parts[1].weight == 0.5 if mixed else changed.folder == "elsewhere"


def test_mixture_trains(experiment, tars, tmp_path):
    pairs = PairMixture((Weighted(experiment.data.train, 3), Weighted(tars, 1)))
    mixed = with_pairs(experiment, pairs)
    train(mixed, tmp_path / "straight", stop_at=4)
    train(mixed, tmp_path / "stopped", stop_at=2)
    train(mixed, tmp_path / "stopped", stop_at=4)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
