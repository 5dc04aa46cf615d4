"""What can be known to be wrong before a long run: devices, precision, data, and the folder of the run.

Every check looks at the real thing: it opens the data set and decodes some of its images, builds the mesh, writes to
the disk.
"""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np

from align_jax.checkpoints import Checkpoints
from align_jax.conversion.model_folder import open_model
from align_jax.cores import usable_cores
from align_jax.data.images import ImageDecodeError, decode_image
from align_jax.data.labelled import LabelledDataset
from align_jax.data.pairs import PairBatching
from align_jax.data.records import RecordError
from align_jax.parallel.mesh import batch_shards, check_batch_size
from align_jax.training.classes import names_of_classes
from align_jax.training.experiment import Experiment
from align_jax.training.state import TrainState, abstract_state, state_initializer
from align_jax.training.tasks import Classification
from align_jax.training.workdir import check_same_model

_SAMPLED_RECORDS = 64
_IMPROBABLE, _MANY_BAD = 0.05, 0.1
_PLUGINS = {"libtpu": "TPU", "jax_cuda12_plugin": "CUDA", "jax_cuda13_plugin": "CUDA", "jax_rocm7_plugin": "ROCm"}


class Finding(NamedTuple):
    """One thing that was looked at; a fault would end the run, or spoil it."""

    subject: str
    status: Literal["ok", "note", "fault"]
    text: str


def examine(experiment: Experiment, workdir: Path, checkpoint_folder: str | Path | None = None) -> Iterator[Finding]:
    """Everything that is found, as it is found; a check that fails is a fault, and the others go on."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "devices": lambda: devices(experiment),
        "precision": lambda: precision(experiment),
        "mesh": lambda: mesh(experiment),
        "data": lambda: data(experiment),
        "held out": lambda: held_out(experiment),
        "folder": lambda: folder(experiment, workdir, checkpoint_folder or workdir / "checkpoints"),
    }
    for subject, check in checks.items():
        try:
            yield from check()
        except (ValueError, OSError, RuntimeError) as error:
            yield Finding(subject, "fault", " ".join(str(error).split()))


def devices(experiment: Experiment) -> Iterator[Finding]:
    """What JAX runs on, and whether it is what the machine has."""
    found = jax.devices()
    platform = found[0].platform
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    yield Finding(
        "devices", "ok", f"{len(found)} x {found[0].device_kind} ({platform}){processes}, jax {jax.__version__}"
    )
    plugins = sorted({name for module, name in _PLUGINS.items() if find_spec(module)})
    if platform == "cpu" and plugins and not os.environ.get("JAX_PLATFORMS"):
        yield Finding(
            "devices",
            "note",
            f"support for {' and '.join(plugins)} is installed, but no such device was found: JAX runs on CPU",
        )
    limit = (found[0].memory_stats() or {}).get("bytes_limit") if platform != "cpu" else None
    if limit:
        largest = _state_bytes_per_device(experiment)
        status = "fault" if largest > limit else "ok"
        yield Finding("devices", status, f"the state takes {largest / 1e9:.2f} of {limit / 1e9:.2f} GB on a device")


def precision(experiment: Experiment) -> Iterator[Finding]:
    """Types of the computation, and switches of JAX that change them behind the experiment's back."""
    platform, dtype = jax.default_backend(), experiment.task.dtype
    advice = {
        ("cpu", "bfloat16"): "bfloat16 is slower than float32 on CPU; use --task.dtype float32 there",
        ("tpu", "float32"): "float32 inside the towers; the released recipe took --task.dtype bfloat16",
        ("gpu", "float32"): "float32 inside the towers; --task.dtype bfloat16 takes half of the memory and bandwidth",
    }
    words = advice.get((platform, dtype))
    yield Finding("precision", "note" if words else "ok", words or f"{dtype} inside the towers, float32 elsewhere")
    usual = {"default_matmul_precision": None, "enable_x64": False, "debug_nans": False, "disable_jit": False}
    for name, expected in usual.items():
        if (value := getattr(jax.config, f"jax_{name}")) != expected:
            yield Finding(
                "precision", "note", f"jax_{name} is {value}, not {expected}: other results, or another speed"
            )


def mesh(experiment: Experiment) -> Iterator[Finding]:
    """Whether devices and batch fit together."""
    built = experiment.mesh.build()
    check_batch_size(experiment.batch_size, built)
    experiment.task.check_batch_size(experiment.batch_size, batch_shards(built))
    axes = " x ".join(f"{name} {size}" for name, size in built.shape.items())
    share = experiment.batch_size // batch_shards(built)
    yield Finding("mesh", "ok", f"{axes}; {share} of {experiment.batch_size:,} {experiment.task.examples} on a device")
    group = experiment.task.examples_together
    if group is None or share % group:
        yield Finding(
            "mesh",
            "note",
            f"batch norm takes {group or 'all'} examples together, which {share} on a device cut through: every layer "
            "communicates",
        )


def data(experiment: Experiment) -> Iterator[Finding]:
    """Whether the data set opens and has the model's classes, and whether its images decode and how fast."""
    batching = experiment.task.batching(experiment.data)  # pyrefly: ignore[bad-argument-type]
    if isinstance(batching, PairBatching):
        yield Finding("data", "ok", f"{batching.tokenizer.vocab_size:,} tokens in the vocabulary")
    source = experiment.data.open()
    epochs = experiment.total_steps * experiment.batch_size / len(source)
    size = f"{len(source):,} {experiment.task.examples}"
    yield Finding("data", "ok", f"{size} in {experiment.data.train.description}; the run sees each {epochs:.1f} times")
    experiment.task.described(experiment.data)  # pyrefly: ignore[bad-argument-type]  (compares the classes)
    count = min(_SAMPLED_RECORDS, len(source))
    generator, bad, began = np.random.default_rng(0), [], time.monotonic()
    for index in np.linspace(0, len(source) - 1, count).astype(int).tolist():
        try:
            record = source[index]
            batching.read(record)  # pyrefly: ignore[bad-argument-type]
            experiment.data.transform.train(decode_image(record.image), generator)
        except (ImageDecodeError, RecordError) as error:
            bad.append(f"record {index}: {error}")
    rate = count / (time.monotonic() - began)
    cores = usable_cores()
    yield Finding("data", "ok", f"{rate:,.0f} images/s are read, decoded and cropped by one of {cores} cores")
    if bad:
        seen = min(len(source), experiment.total_steps * experiment.batch_size)
        yield bad_records(bad, count, seen, experiment.data.max_bad_records)


def bad_records(bad: list[str], sampled: int, seen: int, limit: int) -> Finding:
    """A fault where the sample all but proves that the run meets more bad records than it bears, or they are many.

    Args:
        bad: what is wrong with each of the bad ones, at least one.
        sampled: records that were looked at.
        seen: records that the run takes from the data set.
        limit: bad records that it bears.
    """
    share = min(1.0, limit / seen)
    # How probable it is to draw so many if only as many as the limit allows were bad: the tail of a binomial.
    fewer = sum(math.comb(sampled, n) * share**n * (1 - share) ** (sampled - n) for n in range(len(bad)))
    text = f"{len(bad)} of {sampled} sampled records cannot be used, such as {bad[0]}"
    if len(bad) > limit or 1 - fewer < _IMPROBABLE or len(bad) > _MANY_BAD * sampled:
        expected = round(len(bad) / sampled * seen)
        text += (
            f"; that makes about {expected:,} of the {seen:,} that the run sees, and data.max_bad_records is {limit:,}"
        )
        return Finding("data", "fault", text)
    return Finding("data", "note", text)


def held_out(experiment: Experiment) -> Iterator[Finding]:
    """Whether the data sets of the evaluations open, and have the model's classes."""
    for evaluation in experiment.evaluations:
        for dataset in evaluation.datasets:
            size = f"{len(dataset.open()):,} {evaluation.examples}"
            yield Finding("held out", "ok", f"{size} in {dataset.description}, for {evaluation.name}")
            if isinstance(experiment.task, Classification) and isinstance(dataset, LabelledDataset):
                names_of_classes(experiment.task.model.id2label, dataset)


def folder(experiment: Experiment, workdir: Path, checkpoint_folder: str | Path) -> Iterator[Finding]:
    """Whether the run's folder can be written, holds the checkpoints, and continues the same run."""
    existing = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
    with tempfile.NamedTemporaryFile(dir=existing, prefix=".doctor"):
        pass
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(_abstract_state(experiment)))
    needed, free = state_bytes * (experiment.keep_checkpoints + 1), shutil.disk_usage(existing).free
    room = (
        f"{experiment.keep_checkpoints} checkpoints and the one being written take {needed / 1e9:,.2f} GB; "
        f"the disk has {free / 1e9:,.2f} GB left"
    )
    yield Finding("folder", "ok" if needed < free else "fault", room)
    with Checkpoints(checkpoint_folder, keep_latest=experiment.keep_checkpoints) as checkpoints:
        step = checkpoints.latest_step()
    if step is not None:
        check_same_model(experiment, workdir)
        yield Finding("folder", "ok", f"the run continues after step {step}, if that checkpoint is whole")
    elif experiment.start is not None:
        source = open_model(experiment.start.source)
        yield Finding("folder", "ok", f"the run starts from {source.folder}, weights of a {source.config.model_type}")


def _abstract_state(experiment: Experiment) -> TrainState:
    optimizer = experiment.optimizer.build(experiment.total_steps)
    init = state_initializer(
        experiment.task.init, optimizer, seed=experiment.seed, averaged=experiment.ema_decay is not None
    )
    return abstract_state(init, experiment.mesh.build())


def _state_bytes_per_device(experiment: Experiment) -> int:
    leaves = jax.tree.leaves(_abstract_state(experiment))
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)
