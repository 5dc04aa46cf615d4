"""Times one training step on this machine: ours, with and without keeping freed memory, and `transformers` in torch.

The model is the quickstart's (or another configuration's), the loss ALIGN's, the optimizer AdamW. Inputs are random and
already in memory, so only the step is timed. Each variant runs in a process of its own, since memory settings cannot be
undone.

    python benchmarks/train_step.py --batch-size 256 --steps 10
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

VARIANTS = ("align_jax", "align_jax, memory returned", "transformers (torch)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/openmoji.py", help="configuration file whose model is trained")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after three to warm up")
    parser.add_argument("--variant", choices=VARIANTS, help="time one variant and print it as JSON")
    arguments = parser.parse_args()
    if arguments.variant:
        measure = _torch_step if "torch" in arguments.variant else _jax_step
        print(json.dumps(measure(arguments)))
        return
    rows = {variant: _in_own_process(arguments, variant) for variant in VARIANTS}
    ours = rows[VARIANTS[0]]["seconds"]
    print("| step | ms (median) | ms (fastest) | pairs/s | page faults | times ours |")
    print("|---|---|---|---|---|---|")
    for variant, row in rows.items():
        print(
            f"| {variant} | {1e3 * row['seconds']:.0f} | {1e3 * row['fastest']:.0f} "
            f"| {arguments.batch_size / row['seconds']:.0f} | {row['faults']:.0f} | {row['seconds'] / ours:.2f} |"
        )


def _in_own_process(arguments: argparse.Namespace, variant: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--config", arguments.config, "--variant", variant]
    command += ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _timed(step: Callable[[], None], steps: int) -> dict[str, float]:
    for _ in range(3):
        step()
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps
    return {"seconds": statistics.median(seconds), "fastest": min(seconds), "faults": faults}


def _jax_step(arguments: argparse.Namespace) -> dict[str, float]:
    from align_jax.parallel.host_memory import keep_freed_memory  # before jax is imported

    if "returned" not in arguments.variant:
        keep_freed_memory()
    import jax
    import numpy as np

    from align_jax.cli.train import load_config
    from align_jax.parallel.mesh import MeshShape, batch_sharding, place_batch
    from align_jax.training.state import abstract_state, compile_init, state_initializer
    from align_jax.training.step import compile_step, train_step
    from align_jax.types import PairBatch

    experiment = load_config(arguments.config)
    mesh = MeshShape().build()
    optimizer = experiment.optimizer.build(experiment.total_steps)
    init = state_initializer(experiment.task.init, optimizer, seed=0, averaged=experiment.ema_decay is not None)
    abstract = abstract_state(init, mesh)
    state = compile_init(init, abstract)()
    images, ids, mask = _batch(experiment, arguments.batch_size)
    batch = place_batch(PairBatch(images, ids, mask), batch_sharding(mesh))
    compiled = compile_step(train_step(experiment, optimizer, mesh), abstract, batch_sharding(mesh))

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        np.asarray(jax.device_get(metrics["loss"]))

    return _timed(step, arguments.steps)


def _torch_step(arguments: argparse.Namespace) -> dict[str, float]:
    import torch
    import transformers

    from align_jax.cli.train import load_config

    experiment = load_config(arguments.config)
    model = transformers.AlignModel(transformers.AlignConfig(**experiment.task.model.to_dict())).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, ids, mask = _batch(experiment, arguments.batch_size)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    tokens, attention = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()

    def step() -> None:
        optimizer.zero_grad()
        outputs = model(input_ids=tokens, pixel_values=pixels, attention_mask=attention, return_loss=True)
        outputs.loss.backward()
        optimizer.step()

    return _timed(step, arguments.steps)


def _batch(experiment: Any, batch_size: int) -> tuple[Any, Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    size, length = experiment.data.transform.crop_px, experiment.data.text_length
    images = rng.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    ids = rng.integers(1, 1000, (batch_size, length)).astype(np.int32)
    return images, ids, np.ones_like(ids)


if __name__ == "__main__":
    main()
