"""Stops a real training over and over at random moments, and compares what it ends with to the run that was left alone.

    python -m tests.end_to_end.survival --kill 20 --terminate 10 --processes 1 --devices 8
    python -m tests.end_to_end.survival --kill 20 --terminate 10 --processes 2 --devices 4

Every start is the same command line. Parameters, optimizer state, batch statistics, averages and `metrics.jsonl` must
end with the same bytes (of the metrics, all but the measured times).
"""

import argparse
import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from align_jax.checkpoints import Checkpoints
from align_jax.cli import main as align_jax_command
from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig
from align_jax.data.images import ImageTransform
from align_jax.data.pairs import PairData
from align_jax.data.records import PairDataset
from align_jax.parallel.sharding import path_name
from align_jax.training.evaluations import Every, RetrievalEvaluation
from align_jax.training.experiment import Experiment
from align_jax.training.optimizers import Lamb
from align_jax.training.state import abstract_state, state_initializer
from align_jax.training.tasks import Contrastive
from tests.processes import ROOT, environment_on_cpu, start_flags, write_config
from tests.training.conftest import write_pictures

TIMES = {"pairs_per_second", "pairs_per_second_per_device", "data_wait_share", "flop_utilization"}
LIMIT_SECONDS = 300.0
"""Of one start, on a machine that is busy with other things as well."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Processes of this machine that train together.

    Attributes:
        folder: of the data, the configuration, the runs and the compiled programs.
        processes: how many there are.
        devices: of CPU, in each process.
        steps: of the run.
    """

    folder: Path
    processes: int
    devices: int
    steps: int

    def prepare(self) -> None:
        """Makes the data set and the configuration file."""
        data = self.folder / "data"
        write_pictures(self.folder / "pictures")
        made = ["data", "folder", "--input", str(self.folder / "pictures"), "--name", "discs", "--data-dir", str(data)]
        assert align_jax_command(made) == 0
        words = ["data", "vocabulary", "--data", "discs", "--data-dir", str(data), "--size", "60"]
        assert align_jax_command([*words, "--output", str(data / "vocabulary")]) == 0
        write_config(_experiment(data, self.steps), self.folder / "discs.py")

    @contextmanager
    def start(self, workdir: Path) -> Iterator[list[subprocess.Popen]]:
        """Starts the command in every process; none is left at the end of the block."""
        environment = environment_on_cpu(self.devices, self.folder / "compiled")
        command = [sys.executable, "train.py", "--config", str(self.folder / "discs.py"), "--workdir", str(workdir)]
        running = []
        try:
            for index, together in enumerate(start_flags(self.processes)):
                with (self.folder / f"output-{index}.txt").open("ab") as output:
                    running.append(
                        subprocess.Popen(
                            [*command, *together], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
                        )
                    )
            yield running
        finally:
            for process in running:
                process.kill()
                process.wait()

    def run_to_the_end(self, workdir: Path) -> None:
        """Starts the command and lets it finish.

        Raises:
            RuntimeError: if it does not, with the end of what it printed.
        """
        with self.start(workdir) as running:
            statuses = [process.wait(LIMIT_SECONDS) for process in running]
        if any(statuses):
            raise RuntimeError(f"exit statuses {statuses}:\n{self.output()}")

    def output(self) -> str:
        """The end of what the processes printed."""
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("output-*.txt")))

    def kill_at(self, workdir: Path, moment: "Moment", generator: random.Random) -> bool:
        """Ends one process with SIGKILL, as the kernel does when memory is short, and then the others.

        Returns:
            Whether the moment came before the run was through.
        """
        with self.start(workdir) as running:
            came = moment.wait(workdir, running)
            generator.choice(running).kill()
        return came

    def terminate_at(self, workdir: Path, moment: "Moment") -> bool:
        """Asks every process to stop; checks exit statuses, and that the newest checkpoint is of the last step.

        Returns:
            Whether the moment came before the run was through.

        Raises:
            AssertionError: if it is not as documented.
        """
        with self.start(workdir) as running:
            came = moment.wait(workdir, running)
            for process in running:
                process.send_signal(signal.SIGTERM)
                if moment.twice:
                    time.sleep(0.02)
                    process.send_signal(signal.SIGTERM)
            statuses = [process.wait(LIMIT_SECONDS) for process in running]
        newest = max((int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()), default=0)
        # Behind the last step there is nothing left to save, and the signal may just end the process.
        expected = {143} if newest < self.steps else {143, 0, -signal.SIGTERM}
        assert set(statuses) <= expected, f"{statuses}:\n{self.output()}"
        assert newest == last_step(workdir), f"checkpoint {newest}, but step {last_step(workdir)} was finished"
        return came


@dataclasses.dataclass(frozen=True)
class Moment:
    """A little after a step was recorded, or, with no step to come, after so many seconds.

    Attributes:
        step: to be waited for.
        delay_seconds: to be waited after that.
        twice: whether SIGTERM is sent again at once.
        saving: whether to wait instead until a checkpoint is being written.
    """

    step: int
    delay_seconds: float
    twice: bool = False
    saving: bool = False

    def wait(self, workdir: Path, running: list[subprocess.Popen]) -> bool:
        """Waits until then; False if a process ended before."""
        limit = time.monotonic() + LIMIT_SECONDS
        while last_step(workdir) < self.step:
            if any(process.poll() is not None for process in running):
                return False
            if time.monotonic() > limit:
                raise RuntimeError(f"step {self.step} was not reached in {LIMIT_SECONDS:.0f} s")
            time.sleep(0.02)
        if self.saving:
            while not list((workdir / "checkpoints").glob("*.unfinished")):
                if any(process.poll() is not None for process in running):
                    return False
                time.sleep(0.002)
        else:
            time.sleep(self.delay_seconds)
        return all(process.poll() is None for process in running)


def last_step(workdir: Path) -> int:
    """The newest step in `metrics.jsonl`, of the run as it is now."""
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def metrics_without_times(workdir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` without what the clock gave."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def final_state(workdir: Path) -> dict[str, bytes]:
    """The bytes of every array of the newest checkpoint, by path."""
    experiment = Experiment.from_json(workdir / "experiment.json")
    optimizer = experiment.optimizer.build(experiment.total_steps)
    init = state_initializer(experiment.task.init, optimizer, seed=experiment.seed, averaged=True)
    abstract = abstract_state(init, experiment.mesh.build(jax.devices()[:1]))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(abstract)
    assert restored is not None
    leaves = jax.tree_util.tree_leaves_with_path(restored.state)
    return {path_name(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def survive(cluster: Cluster, *, kill: int, terminate: int, seed: int) -> None:
    """Trains once undisturbed and once stopped so many times, in any order, and compares.

    Raises:
        AssertionError: if anything differs.
    """
    generator = random.Random(seed)
    cluster.prepare()
    left_alone, disturbed = cluster.folder / "left_alone", cluster.folder / "disturbed"
    cluster.run_to_the_end(left_alone)
    kinds = ["KILL"] * kill + ["TERM"] * terminate
    generator.shuffle(kinds)
    in_time = dict.fromkeys(kinds, 0)
    for stopped, kind in enumerate(kinds):
        done = last_step(disturbed)
        # Spread over what is left, so that the last one still finds a run to stop. SIGKILL may come at any time;
        # before the first step nobody listens to SIGTERM.
        reach = max(1, (cluster.steps - done) // (len(kinds) - stopped))
        step = done + generator.randint(1, reach) if kind == "TERM" or generator.random() < 0.85 else 0
        moment = Moment(
            step,
            generator.uniform(0.0, 0.3 if step else 8.0),
            twice=generator.random() < 0.5,
            saving=step > 0 and generator.random() < 0.4,
        )
        came = (
            cluster.kill_at(disturbed, moment, generator) if kind == "KILL" else cluster.terminate_at(disturbed, moment)
        )
        in_time[kind] += came
        how = "while a checkpoint is written," if moment.saving else f"{moment.delay_seconds:.2f} s"
        when = f"{how} after {f'step {step}' if step else 'the start'}"
        print(f"{stopped + 1}/{len(kinds)}: {kind} {when}{'' if came else ', too late'}")
    cluster.run_to_the_end(disturbed)
    assert metrics_without_times(disturbed) == metrics_without_times(left_alone)
    expected, found = final_state(left_alone), final_state(disturbed)
    assert expected.keys() == found.keys()
    different = [path for path in expected if expected[path] != found[path]]
    assert not different, f"{len(different)} arrays differ, such as {different[:3]}"
    stops = " and ".join(f"{count} {kind}" for kind, count in in_time.items())
    lines = len(metrics_without_times(disturbed))
    print(f"after {stops} in time, {len(expected)} arrays and {lines} lines of metrics are the same")


def _experiment(data: Path, steps: int) -> Experiment:
    """A small ALIGN with every randomness switched on, an average, an evaluation on the way, and many checkpoints."""
    discs = PairDataset("discs", "train", str(data))
    vision = AlignVisionConfig.tiny(
        image_size=17, drop_connect_rate=0.2, in_channels=(32, 8, 16), out_channels=(8, 16, 16)
    )
    return Experiment(
        name="discs",
        task=Contrastive(
            model=AlignConfig.of_towers(
                vision, AlignTextConfig.tiny(hidden_dropout_prob=0.1), projection_dim=16, temperature_init_value=0.2
            ),
            batch_norm_group_size=4,
        ),
        data=PairData(
            train=discs,
            tokenizer=str(data / "vocabulary"),
            transform=ImageTransform(resize_px=20, crop_px=17, flip=True),
            text_length=12,
        ),
        optimizer=Lamb(peak_learning_rate=3e-3, warmup_steps=5),
        total_steps=steps,
        batch_size=32,
        ema_decay=0.9,
        evaluations=(RetrievalEvaluation(name="discs", queries=discs, every=Every(10), batch_size=32),),
        log=Every(1),
        checkpoint=Every(3),
        keep_checkpoints=2,
    )


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", type=int, default=20, help="times that a process ends by SIGKILL")
    parser.add_argument("--terminate", type=int, default=10, help="times that all are asked to stop by SIGTERM")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--devices", type=int, default=8, help="in each process")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), arguments.processes, arguments.devices, arguments.steps)
        survive(cluster, kill=arguments.kill, terminate=arguments.terminate, seed=arguments.seed)


if __name__ == "__main__":
    main()
