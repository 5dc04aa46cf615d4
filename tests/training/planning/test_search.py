"""The search over batch sizes and rematerialisation, with memory that is a formula instead of a compiler."""

import dataclasses
import itertools

import pytest

from align_jax.training.flops import part_costs, recomputed_flops_per_example
from align_jax.training.planning.plan import Plan
from align_jax.training.planning.search import batch_unit, largest_batch, rematerialization_ladder, search


class Compiler:
    """Takes `memory` for each pair, less for each part that is rematerialised."""

    def __init__(self, limit: float):
        self.limit, self.tried = limit, []

    def __call__(self, experiment):
        assert experiment not in self.tried, "the same program is compiled twice"
        self.tried.append(experiment)
        task = experiment.task
        needed = experiment.batch_size * (10 - len(task.rematerialize))
        return Plan(
            experiment=experiment.name,
            examples="pairs",
            device_kind="formula",
            devices=8,
            batch_size=experiment.batch_size,
            rematerialize=task.rematerialize,
            fits=needed <= self.limit,
            available_bytes=int(self.limit),
            needed_bytes=needed,
            memory=None,
            forward_flops_per_example=1.0,
            training_flops_per_example=3.0,
            recomputed_flops_per_example=0.0,
            compiled_flops=None,
            memory_traffic_bytes=None,
            collectives={},
            embedding_collectives={},
            compile_seconds=0.0,
        )


def test_ladder_goes_from_nothing_to_everything_in_ever_more_flops(experiment):
    ladder = rematerialization_ladder(experiment)
    parts = part_costs(experiment.task.model, 12)
    assert ladder[0] == ()
    assert ladder[-1] == tuple(parts)
    assert all(set(lower) < set(upper) for lower, upper in itertools.pairwise(ladder))
    flops = [
        recomputed_flops_per_example(
            dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, rematerialize=rung))
        )
        for rung in ladder
    ]
    assert flops == sorted(flops)


def test_finds_the_largest_batch_and_the_cheapest_rematerialisation(experiment):
    assert experiment.batch_size == 32  # 5 parts: at most 5 x 32 bytes are saved
    compiler = Compiler(limit=32 * 8)
    found = search(experiment, 16, compiler)
    assert (found.as_configured.batch_size, len(found.as_configured.rematerialize)) == (32, 2)
    assert (found.largest.batch_size, len(found.largest.rematerialize)) == (48, 5)
    assert len(compiler.tried) < 12


def test_nothing_is_rematerialised_where_everything_fits(experiment):
    found = search(experiment, 16, Compiler(limit=32 * 10))
    assert found.as_configured.rematerialize == ()
    assert found.largest.batch_size == 64


def test_a_batch_that_does_not_fit_is_none_and_a_smaller_one_is_found(experiment):
    found = search(experiment, 4, Compiler(limit=32 * 4))
    assert found.as_configured is None
    assert found.largest.batch_size == 24
    assert search(experiment, 16, Compiler(limit=1)) == (None, None)


@pytest.mark.parametrize("limit", range(1, 40))
@pytest.mark.parametrize("start", [1, 7, 64])
def test_largest_multiple_is_exact(start, limit):
    expected = limit // 3 * 3 or None
    assert largest_batch(start, 3, lambda size: size <= limit) == expected


def test_unit_is_whole_groups_on_every_device(experiment):
    assert batch_unit(experiment, 8) == 8 * 4
    task = dataclasses.replace(experiment.task, batch_norm_group_size=None)
    assert batch_unit(dataclasses.replace(experiment, task=task), 8) == 8
