"""`align-jax doctor`: looks for what would end or spoil a long run, before it starts."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from align_jax.cli.arguments import ArgumentParser
from align_jax.cli.train import load_config, override

EXAMPLE = """example:
  align-jax doctor --config configs/openmoji.py --workdir runs/quickstart

Takes the flags of `align-jax train`, so that the line that is checked is the line that will run. Exit status: 0 nothing
is wrong (notes may still be worth reading), 1 something is."""


def main(argv: Sequence[str]) -> int:
    """Parses, looks, and returns the exit status."""
    parser = ArgumentParser(
        "align-jax doctor", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE[:ARG,ARG=VALUE]", required=True, help="configuration file")
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="folder of the run")
    known, overrides = parser.parse_known_args(argv)
    experiment = override(load_config(known.config), overrides)

    from rich.console import Console  # noqa: PLC0415  (after the help)
    from rich.text import Text  # noqa: PLC0415

    from align_jax.training.doctor import examine  # noqa: PLC0415

    console = Console(soft_wrap=True)
    styles = {"ok": "green", "note": "yellow", "fault": "bold red"}
    faults = 0
    for finding in examine(experiment, known.workdir):
        faults += finding.status == "fault"
        console.print(Text(f"{finding.status:<5}", styles[finding.status]), f"{finding.subject:<9}", Text(finding.text))
    print("nothing is wrong" if not faults else f"{faults} {'faults' if faults > 1 else 'fault'}: this run would fail")
    return 1 if faults else 0
