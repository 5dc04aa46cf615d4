"""`align-jax doctor`: looks for what would end or spoil a long run, before it starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align_jax.cli.train import load_config, override, run_parser

EXAMPLE = """example:
  align-jax doctor --config configs/openmoji.py --workdir runs/quickstart

Takes the flags of `align-jax train`, so that the line that is checked is the line that will run. Exit status: 0 no
fault (notes may still be worth reading), 1 a fault."""


def main(argv: Sequence[str]) -> int:
    """Parses, looks, and returns the exit status."""
    parser = run_parser("align-jax doctor", __doc__, EXAMPLE)
    known, overrides = parser.parse_known_args(argv)
    if known.help:
        parser.print_help()
        return 0
    if known.config is None or known.workdir is None:
        parser.error("--config FILE and --workdir DIR are needed")
    experiment = override(load_config(known.config), overrides, parser.prog)

    from align_jax.parallel import distributed  # noqa: PLC0415  (after the help)

    together = distributed.start(known.coordinator, known.processes, known.process_id, known.start_timeout)
    faults = _examine(experiment, Path(known.workdir), known.checkpoints)
    if together is not None:
        distributed.finish()
    return 1 if faults else 0


def _examine(experiment: Any, workdir: Path, checkpoints: str | None) -> int:
    """Prints what is found, and returns the number of faults."""
    from rich.console import Console  # noqa: PLC0415  (after the help)
    from rich.text import Text  # noqa: PLC0415

    from align_jax.training.doctor import examine  # noqa: PLC0415

    console = Console(soft_wrap=True)
    styles = {"ok": "green", "note": "yellow", "fault": "bold red"}
    faults = notes = 0
    for finding in examine(experiment, workdir, checkpoints):
        faults += finding.status == "fault"
        notes += finding.status == "note"
        console.print(Text(f"{finding.status:<5}", styles[finding.status]), f"{finding.subject:<9}", Text(finding.text))
    if faults:
        print(f"{faults} {'faults' if faults > 1 else 'fault'}: this run would fail, or not be what it should")
    else:
        print(f"no fault; read the {'note' if notes == 1 else f'{notes} notes'}" if notes else "nothing is wrong")
    return faults
