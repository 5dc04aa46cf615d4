"""`align-jax plan`: what the training step of a configuration will need on a TPU slice, or on this machine."""

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Sequence

from align_jax.cli.arguments import ArgumentParser
from align_jax.cli.train import load_config, override

EXAMPLE = """examples:
  align-jax plan --config configs/align_b7_base_coyo.py --topology v5e:16x16 --batch-size 16384
  align-jax plan --config configs/openmoji.py --topology local

A topology is a TPU slice (v5e:16x16 is 16 x 16 chips; v3:16x32, v4:4x4x4, v5p:4x4x4, v6e:16x16, …), cpu:8, or local for
the devices of this machine. TPU slices need the TPU compiler, `pip install 'align_jax[tpu]'`, and no TPU: everything is
compiled, nothing runs, and neither data nor tokenizer need exist. A step of full size compiles for some minutes.
Any field of the experiment is a flag, as in align-jax train; --task.rematerialize image/stage_1 image/stage_2 saves
memory. Exit status 0 if the step fits, 1 if it does not."""


def main(argv: Sequence[str]) -> int:
    """Parses, compiles, prints, and returns the exit status."""
    parser = ArgumentParser(
        "align-jax plan", description=__doc__, epilog=EXAMPLE, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE[:ARG,ARG=VALUE]", help="configuration file, with its arguments")
    parser.add_argument("--topology", metavar="NAME", help="such as v5e:16x16, cpu:8, or local")
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="TPU slices of that size")
    parser.add_argument(
        "--search", action="store_true", help="find the largest batch and the cheapest rematerialisation"
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="of one device that the step may take; all there is when absent",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("-h", "--help", action="store_true", help="show this text; with --config, every field as well")
    known, overrides = parser.parse_known_args(argv)
    if known.config is None and known.help:
        parser.print_help()
        return 0
    if known.config is None or (known.topology is None and not known.help):
        parser.error("--config FILE and --topology NAME are needed")
    if known.memory is not None and not 0 < known.memory < math.inf:
        parser.error(f"--memory {known.memory} is not possible; give the GiB of one device, such as 14.5")
    # Before the configuration imports JAX.
    _set_environment(known.topology or "")
    help_flag = ["--help"] if known.help else []
    experiment = override(load_config(known.config), [*overrides, *help_flag], "align-jax plan --config FILE …")

    from align_jax.training.planning.report import plan_for_topology  # noqa: PLC0415  (after the help)

    plans = plan_for_topology(
        experiment,
        known.topology,
        slices=known.slices,
        memory_bytes=known.memory and int(known.memory * 2**30),
        searching=known.search,
        quiet=known.json,
    )
    if known.json:
        print(json.dumps({name: plan and _as_json(plan) for name, plan in plans.items()}, indent=2))
    return 0 if all(plan is not None and plan.fits for plan in plans.values()) else 1


def _set_environment(topology: str) -> None:
    """What JAX and the TPU compiler read when they start."""
    if topology == "local":
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    kind, _, count = topology.partition(":")
    if kind == "cpu" and count.isdigit():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        return
    # Without these the compiler asks a metadata server what machine this is, and allows one process at a time.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }


def _as_json(plan: object) -> dict[str, object]:
    values = dataclasses.asdict(plan)  # pyrefly: ignore  (a Plan, whose module imports JAX)
    for name in ("collectives", "embedding_collectives"):
        values[name] = {kind: traffic._asdict() for kind, traffic in values[name].items()}
    return values
