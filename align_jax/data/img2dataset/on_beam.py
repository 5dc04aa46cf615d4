"""The work of the shards on Apache Beam (extra `beam`), here or on the workers of Dataflow, Flink or Spark.

What one machine does in processes, workers do: each call writes its files into a folder that all of them see. Beam
makes calls again that have failed, and some twice; both give the same files.
"""

import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from align_jax.data.beam import beam, new_pipeline
from align_jax.data.img2dataset.preparation import Run


def on_beam(options: Sequence[str], folder: Path) -> Run:
    """Runs calls as the elements of a pipeline, which is through when the first of them is reported.

    Args:
        options: of Beam, such as `--runner=FlinkRunner`.
        folder: seen by all workers; in `folder/calls` they find the arguments, which pipelines have no room for: that
            of 70,000 shards would be larger than Dataflow takes.
    """

    def run(function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> Iterator[None]:
        arguments = folder / "calls"
        shutil.rmtree(arguments, ignore_errors=True)  # of a run that was killed
        arguments.mkdir()
        for number, call in enumerate(calls):
            (arguments / str(number)).write_bytes(pickle.dumps(call))
        if calls:
            with new_pipeline(options) as pipeline:
                numbers = pipeline | "calls" >> beam.Create(range(len(calls))) | "spread" >> beam.Reshuffle()
                _ = numbers | "call" >> beam.Map(_call, function, arguments)
        shutil.rmtree(arguments)
        yield from (None for _ in calls)

    return run


def _call(number: int, function: Callable[..., None], arguments: Path) -> None:
    function(*pickle.loads((arguments / str(number)).read_bytes()))
