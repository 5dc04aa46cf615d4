"""Plans for the CPU devices of this machine; those for TPUs are in `tests/end_to_end/test_tpu_compiler.py`."""

import dataclasses
import json

import jax
import pytest

from align_jax.cli import main
from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.parallel.mesh import MeshShape
from align_jax.training.planning.plan import _step_and_arguments, _too_large, available_memory, plan_step
from align_jax.training.planning.report import _verdict, plan_for_topology
from align_jax.training.planning.search import rematerialization_ladder


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


@pytest.fixture(scope="module")
def smallest(small):
    """Towers of one block and one layer, which compile in no time."""
    one = {"kernel_sizes": (3,), "strides": (2,), "num_block_repeats": (1,), "expand_ratios": (1,), "hidden_dim": 8}
    vision = AlignVisionConfig.tiny(in_channels=(32,), out_channels=(8,), **one)
    model = AlignConfig.of_towers(vision, AlignTextConfig.tiny(num_hidden_layers=1), projection_dim=8)
    return dataclasses.replace(small, task=dataclasses.replace(small.task, model=model, batch_norm_group_size=4))


def test_search_finds_the_largest_batch_that_the_memory_holds(smallest, capsys):
    """Every try is compiled. On CPU rematerialisation saves nothing, so it is the batch that must be chosen."""
    everything = rematerialization_ladder(smallest)[-1]
    task = dataclasses.replace(smallest.task, rematerialize=everything)
    enough = plan_step(dataclasses.replace(smallest, batch_size=24, task=task), jax.devices()[:2], None).needed_bytes
    plans = plan_for_topology(smallest, "cpu:2", memory_bytes=enough, searching=True)
    assert smallest.batch_size == 16
    assert {name: found.batch_size for name, found in plans.items()} == {
        "least rematerialisation": 16,
        "largest batch": 24,
    }
    assert all(found.fits and found.needed_bytes <= enough == found.available_bytes for found in plans.values())
    printed = capsys.readouterr()
    assert "largest batch" in printed.out
    assert "compiling batch 32 for cpu:2, image/stem" in printed.err
    assert "does not fit" in printed.err


def test_the_command_prints_json(plan, capsys):
    assert main(["plan", "--config", "configs/align_b7_base_coyo.py:debug", "--topology", "local", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["step"]["needed_bytes"] == plan.needed_bytes
    assert printed["step"]["collectives"]["all-gather"]["count"] == 2
    assert printed["step"]["embedding_collectives"] == {
        kind: printed["step"]["collectives"][kind] for kind in ("all-gather", "reduce-scatter")
    }


def test_a_step_that_does_not_fit_is_status_one(plan, capsys):
    command = ["plan", "--config", "configs/align_b7_base_coyo.py:debug", "--topology", "local", "--memory", "0.001"]
    assert main(command) == 1
    assert f"does not fit: {plan.needed_bytes / 2**30:.2f} of 0.00 GiB a device" in capsys.readouterr().out
    refused = dataclasses.replace(plan, fits=False, memory=None, needed_bytes=2**35)
    assert _verdict(refused).startswith("does not fit: temporaries alone need 32.00 of 1.00 GiB")


def test_memory_that_no_device_has_is_one_line(capsys):
    command = ["plan", "--config", "configs/align_b7_base_coyo.py:debug", "--topology", "local", "--memory"]
    assert main([*command, "0"]) == 2
    assert "--memory 0.0 is not possible; give the GiB of one device" in capsys.readouterr().err


def test_with_fsdp_parameters_travel_and_activations_do_not(smallest):
    """Left to itself the partitioner splits activations by features, and gathers the examples of several devices."""
    split = dataclasses.replace(smallest, mesh=MeshShape(fsdp=4), batch_size=256)
    plan = plan_step(split, jax.devices()[:4], None)
    assert "all-to-all" not in plan.collectives
    parameters = sum(4 * leaf.size for leaf in jax.tree.leaves(jax.eval_shape(split.task.init, jax.random.key(0))))
    moved = sum(traffic.bytes for traffic in plan.collectives.values())
    embeddings = sum(traffic.bytes for traffic in plan.embedding_collectives.values())
    assert moved - embeddings < 4 * parameters  # gathered for both passes, and their gradients
