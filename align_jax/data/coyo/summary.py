"""What a selection did: rows in, dropped by each rule, kept; as JSON and as a table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from align_jax.data.coyo.histograms import Histogram


@dataclass(frozen=True)
class Summary:
    """Counts; `rows` is the sum of all in `dropped`, and `kept`.

    Attributes:
        release: name of the data set.
        rows: in the input.
        dropped: by each rule, in their order; a row counts where it was dropped, at the first rule that it broke.
        kept: rows in the list.
        inputs: names of the files that were read, with their rows and how many of them were kept.
        files: names of the files of the list.
        columns: of the list.
        histograms: of some columns.
        label_threshold: labels that are less probable did not count.
    """

    release: str
    rows: int
    dropped: tuple[tuple[str, int], ...]
    kept: int
    inputs: tuple[tuple[str, int, int], ...]
    files: tuple[str, ...]
    columns: tuple[str, ...]
    histograms: tuple[Histogram, ...]
    label_threshold: float

    def to_json(self, command: str) -> bytes:
        """All of it, and the command that downloads the list."""
        content: dict[str, Any] = {
            "release": self.release,
            "rows": self.rows,
            "dropped": [{"rule": rule, "rows": rows} for rule, rows in self.dropped],
            "kept": self.kept,
            "label_threshold": self.label_threshold,
            "inputs": [{"file": file, "rows": rows, "kept": kept} for file, rows, kept in self.inputs],
            "files": list(self.files),
            "columns": list(self.columns),
            "download": command,
            "histograms": {
                one.column.name: {
                    "edges": [float(f"{edge:.6g}") for edge in one.edges],
                    "rows": one.rows.tolist(),
                    "kept": one.kept.tolist(),
                    "missing": one.missing,
                }
                for one in self.histograms
            },
        }
        return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"

    def table(self) -> str:
        """A line for the rows in, each rule, and the rows that were kept."""
        lines = [("rows in", self.rows), *((f"dropped by {rule}", rows) for rule, rows in self.dropped)]
        return table([*lines, ("kept", self.kept)], self.rows)


def table(lines: Sequence[tuple[str, int]], whole: int) -> str:
    """Names, counts, and their shares of the whole, in columns."""
    names, counts = [name for name, _ in lines], [f"{count:,}" for _, count in lines]
    shares = [f"{100 * count / max(whole, 1):.2f} %" for _, count in lines]
    widths = [max(map(len, column)) for column in (names, counts, shares)]
    return "\n".join(
        f"{name:<{widths[0]}}  {count:>{widths[1]}}  {share:>{widths[2]}}"
        for name, count, share in zip(names, counts, shares, strict=True)
    )
