"""The numbers of an evaluation as JSON and as a table."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align_jax.evaluation.estimates import Bootstrap, Estimate
from align_jax.files import replace_file


def as_json(
    task: str,
    settings: Mapping[str, Any],
    results: Mapping[str, Estimate],
    details: Mapping[str, Any],
    bad_images: Sequence[tuple[str, str]],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """One object: what was evaluated and how, and a mean between 0 and 1 with its interval for each number."""
    return {
        "task": task,
        **settings,
        **details,
        "bad_images": [{"id": name, "reason": reason} for name, reason in bad_images],
        "confidence": dataclasses.asdict(bootstrap),
        "results": {name: dataclasses.asdict(estimate) for name, estimate in results.items()},
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def table(results: Mapping[str, Estimate], bootstrap: Bootstrap) -> str:
    """A line for each number, in per cent."""
    interval = f"{100 * bootstrap.level:g} % interval"
    width = max(len(name) for name in results)
    lines = [f"{'':<{width}}   value  {interval:>15}  examples"]
    for name, estimate in results.items():
        low, high = 100 * estimate.low, 100 * estimate.high
        lines.append(
            f"{name:<{width}}  {100 * estimate.value:>6.2f}  {f'{low:.2f} - {high:.2f}':>15}  {estimate.examples:>8}"
        )
    return "\n".join(lines)
