"""Plans for the CPU devices of this machine; those for TPUs are in `tests/end_to_end/test_tpu_compiler.py`."""

import dataclasses
import json

import jax
import pytest

from align_jax.cli import main
from align_jax.parallel.mesh import MeshShape
from align_jax.training.planning.plan import _step_and_arguments, _too_large, available_memory, plan_step
from align_jax.training.planning.report import plan_for_topology


@pytest.fixture(scope="module")
def plan(small):
    """Of the small experiment on all eight devices, compiled once, with neither data nor tokenizer there."""
    with jax.default_matmul_precision("float32"):  # as in every test, so that it is one program
        return plan_step(small, jax.devices(), 2**30)


@pytest.fixture(scope="module")
def small():
    from align_jax.cli.train import load_config

    return load_config("configs/align_b7_base_coyo.py:debug,data_dir='nowhere',tokenizer='nothing'")


def test_memory_is_that_of_the_state_and_of_one_device_s_rows(plan, small):
    variables = jax.eval_shape(small.task.init, jax.random.key(0))
    parameters, statistics = (
        sum(4 * leaf.size for leaf in jax.tree.leaves(variables[name])) for name in ("params", "batch_stats")
    )
    batch = small.batch_size // 8 * (32 * 32 * 3 + 2 * 4 * small.data.text_length)
    state = 3 * parameters + statistics  # parameters and two moments, and a few counters
    assert state + batch <= plan.memory.arguments <= state + batch + 64
    assert state <= plan.memory.aliased <= plan.memory.outputs
    assert plan.memory.temporaries > 0
    assert plan.needed_bytes == plan.memory.peak
    assert plan.fits


def test_the_loss_gathers_both_embeddings_and_scatters_both_gradients(plan):
    embeddings = 4 * 16 * 32
    assert plan.collectives["all-gather"] == (2, 2, 2 * embeddings)
    assert plan.collectives["reduce-scatter"] == (2, 2, 2 * embeddings)
    assert set(plan.collectives) == {"all-gather", "reduce-scatter", "all-reduce"}


def test_the_step_itself_communicates_in_the_loss_alone(small):
    """All else is the partitioner's: sums of gradients and of batch statistics."""
    program, arguments = _step_and_arguments(small, small.mesh.build())
    text = program.lower(*arguments).as_text()
    counts = {kind: text.count(f'"stablehlo.{kind}"') for kind in ("all_gather", "reduce_scatter", "all_reduce")}
    # The sums are of losses and hits on the way forward, and of the temperature's gradient, from each direction, back.
    assert counts == {"all_gather": 2, "reduce_scatter": 2, "all_reduce": 3}
    assert "stablehlo.all_to_all" not in text
    assert "stablehlo.collective_permute" not in text


def test_it_does_not_fit_into_less(plan, small):
    less = plan_step(small, jax.devices(), plan.needed_bytes - 1)
    assert not less.fits
    assert less.memory == plan.memory
    assert plan_step(small, jax.devices(), plan.needed_bytes).fits


def test_mesh_and_batch_must_fit_the_devices(small):
    with pytest.raises(ValueError, match="16 is not divisible by 3 devices"):
        plan_step(small, jax.devices()[:3], None)
    with pytest.raises(ValueError, match="does not cover 8 devices"):
        plan_step(dataclasses.replace(small, mesh=MeshShape(data=3)), jax.devices(), None)


def test_cpu_devices_share_the_memory_of_the_host():
    assert available_memory(jax.devices()) == available_memory(jax.devices()[:1]) // 8


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (32.50G) "
            "exceeds available HBM (15.75G).",
            (int(32.5 * 2**30), int(15.75 * 2**30)),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 1.00T of 15.48G hbm. Exceeded hbm ...",
            (2**40, int(15.48 * 2**30)),
        ),
    ],
)
def test_the_compiler_s_refusal_is_read(message, expected):
    assert _too_large(RuntimeError(message)) == expected


def test_other_errors_of_the_compiler_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="INTERNAL"):
        _too_large(RuntimeError("INTERNAL: HLO pass failed"))


def test_search_prints_both_answers(small, monkeypatch, capsys, plan):
    from align_jax.training.planning import report

    def compiled(experiment, devices, available_bytes):
        needed = 2**20 * experiment.batch_size * (10 - len(experiment.task.rematerialize))
        fits = needed <= 2**20 * 16 * 8
        return dataclasses.replace(
            plan, batch_size=experiment.batch_size, rematerialize=experiment.task.rematerialize, fits=fits
        )

    monkeypatch.setattr(report, "plan_step", compiled)
    small = dataclasses.replace(small, task=dataclasses.replace(small.task, batch_norm_group_size=1))
    plans = plan_for_topology(small, "local", searching=True)
    assert {name: found.batch_size for name, found in plans.items()} == {
        "least rematerialisation": 16,
        "largest batch": 24,
    }
    printed = capsys.readouterr()
    assert "largest batch" in printed.out
    assert printed.err.count("compiling batch") >= 4


def test_the_command_prints_json(small, plan, monkeypatch, capsys):
    from align_jax.training.planning import report

    monkeypatch.setattr(report, "plan_step", lambda *arguments: plan)
    assert main(["plan", "--config", "configs/align_b7_base_coyo.py:debug", "--topology", "local", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["step"]["needed_bytes"] == plan.needed_bytes
    assert printed["step"]["collectives"]["all-gather"]["count"] == 2


def test_a_step_that_does_not_fit_is_status_one(plan, monkeypatch, capsys):
    from align_jax.training.planning import report

    refused = dataclasses.replace(plan, fits=False, memory=None, needed_bytes=2**35, collectives={})
    monkeypatch.setattr(report, "plan_step", lambda *arguments: refused)
    assert main(["plan", "--config", "configs/align_b7_base_coyo.py:debug", "--topology", "local"]) == 1
    assert "does not fit: temporaries alone need 32.00" in capsys.readouterr().out
