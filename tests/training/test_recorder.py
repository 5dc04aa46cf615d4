import dataclasses

import jax.numpy as jnp
import pytest

from align_jax.data.quarantine import Quarantine
from align_jax.parallel.mesh import MeshShape
from align_jax.training.evaluations import Every
from align_jax.training.recorder import Recorder
from align_jax.training.telemetry import Telemetry


class SlowScreen(Telemetry):
    """Keeps what is logged, which takes half a second of its own clock."""

    def __init__(self, workdir):
        super().__init__(workdir, total_steps=100)
        self.seconds, self.speeds = 0.0, {}

    def log(self, step, values):
        self.seconds += 0.5
        self.speeds[step] = values.get("pairs_per_second")

    def advance(self, step):
        del step


@pytest.mark.parametrize("every", [1, 2, 5])
def test_speed_is_that_of_the_steps_also_where_the_last_one_is_asked_for_at_once(experiment, tmp_path, every):
    """Steps of a second, over when they are dispatched, as those of a CPU are."""
    screen = SlowScreen(tmp_path)
    recorder = Recorder(
        dataclasses.replace(experiment, log=Every(every)),
        screen,
        Quarantine(tmp_path / "quarantine-0.jsonl", 1),
        mesh=MeshShape().build(),
        non_finite=0,
        clock=lambda: screen.seconds,
    )
    for step in range(1, 31):
        screen.seconds += 1.0 if step > 1 else 60.0  # which compiles
        recorder.dispatched(step, {"loss": jnp.float32(1), "gradient_norm": jnp.float32(1)})
        if step % 10 == 0:  # a checkpoint, and behind every second one an evaluation
            recorder.settle()
        if step % 20 == 0:
            screen.seconds += 100.0
            recorder.restart_clock()
    assert list(screen.speeds) == list(range(every, 31, every))
    found = [speed for speed in screen.speeds.values() if speed is not None]
    assert len(found) >= len(screen.speeds) * 0.6
    pairs = experiment.batch_size
    assert pairs / 1.5 - 1e-6 <= min(found) <= max(found) <= pairs + 1e-6
