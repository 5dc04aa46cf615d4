"""What each form sends between devices: counted in the compiled program, for CPU here and for TPU by its compiler."""

import collections
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from align_jax.parallel.mesh import MeshShape
from tests.losses.test_forms import inputs, sharded

ROOT = Path(__file__).parents[2]
KINDS = "all-gather|reduce-scatter|all-reduce|collective-permute|all-to-all"

COMPILE_FOR_TPU = """
import json
from jax.experimental import topologies
from benchmarks.loss_memory import LOSS_FORMS, OBJECTIVES, MeshShape, compile_loss
mesh = MeshShape().build(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices)
programs = {f"{objective} {form}": compile_loss(objective, form, mesh, 512, 128, 128 if form == "chunked" else None)
            for objective in OBJECTIVES for form in LOSS_FORMS if form != "dense"}
print(json.dumps({name: program.as_text() for name, program in programs.items()}))
"""


def counts(hlo):
    """Collectives of a program; one in a loop counts once."""
    lines = [match for line in hlo.splitlines() if (match := re.search(rf" ({KINDS})(?:-start)?\(.*", line))]
    # A TPU runs a gather piece by piece between other operations; the pieces name the chain they are of.
    chains = [re.search(r'chain_id="(\d+)"', match[0]) for match in lines]
    whole = {
        (match[1], chain[1] if chain else index) for index, (match, chain) in enumerate(zip(lines, chains, strict=True))
    }
    return dict(collections.Counter(kind for kind, _ in whole))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        # Each side travels once, and its gradient; the sums and the temperature's gradient travel together.
        ("softmax", {"all-gather": 2, "reduce-scatter": 2, "all-reduce": 1}),
        # The texts travel, and their gradient; for the accuracy, the best image of every text.
        ("sigmoid", {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}),
    ],
)
def test_gathered_form_sends_each_side_once_and_its_gradient_once(objective, expected):
    """A further gather would mean that logits or labels travel."""
    assert on_cpu(objective, "all_gather") == expected


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_large_chunks_gather_slices_and_scatter_their_gradient(objective):
    found = on_cpu(objective, "chunked", chunk_size=64)
    assert found["all-gather"] >= 2  # for the statistics, and again for the gradient
    assert found["reduce-scatter"] == 1
    assert set(found) == {"all-gather", "reduce-scatter", "all-reduce"}


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_ring_gathers_nothing(objective):
    assert set(on_cpu(objective, "ring")) == {"collective-permute", "all-reduce"}


@pytest.mark.skipif(
    find_spec("libtpu") is None, reason="the TPU compiler is not installed: pip install 'align_jax[tpu]'"
)
def test_tpu_compiler_keeps_the_collectives_of_the_design():
    # The compiler is set up by the process that loads it; eight CPU devices would only cost time.
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", COMPILE_FOR_TPU]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    found = {name: counts(hlo) for name, hlo in json.loads(finished.stdout.splitlines()[-1]).items()}
    assert found["softmax all_gather"] == {"all-gather": 2, "reduce-scatter": 2, "all-reduce": 1}
    assert found["sigmoid all_gather"] == {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}
    for objective in ("softmax", "sigmoid"):
        assert found[f"{objective} chunked"]["reduce-scatter"] == 1
        assert set(found[f"{objective} ring"]) == {"collective-permute", "all-reduce"}


def on_cpu(objective, form, chunk_size=None):
    loss = sharded(objective, form, MeshShape(data=8).build(), chunk_size)
    arguments = inputs(objective, 128)
    gradient = jax.value_and_grad(lambda *values: loss(*values).loss, tuple(range(len(arguments))))
    shapes = [jax.ShapeDtypeStruct(value.shape, jnp.float32) for value in arguments]
    return counts(jax.jit(gradient).lower(*shapes).compile().as_text())
