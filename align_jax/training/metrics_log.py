"""`metrics.jsonl`: what a run measured, one JSON object a line, whole after any crash."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from align_jax.files import replace_file

Values = Mapping[str, float | int]


class MetricsLog:
    """An append-only file of JSON objects, one a line, each with a whole `step`.

    Every line reaches the operating system before `append` returns, so a killed process loses at most a part of the
    line it was writing. Opening drops such a part and all lines of steps after `start_step`. There is one line for each
    step and set of keys: writing one again, as a repeated evaluation does, replaces it.

    JSON has no NaN or infinity, and null would not say which it was, so these are the strings "NaN", "Infinity" and
    "-Infinity" (`float` reads them; so does JavaScript's `Number`).

    Args:
        path: the file; made if absent.
        start_step: last step whose lines are kept.

    Raises:
        ValueError: a line that is not the last is damaged.
    """

    def __init__(self, path: Path, *, start_step: int):
        self._path = path
        self._open(lambda record: record["step"] <= start_step)

    def append(self, step: int, values: Values) -> None:
        """Writes the line `{"step": step, **values}`."""
        record = {"step": step, **values}
        if _identity(record) in self._written:
            self.close()
            self._open(lambda old: _identity(old) != _identity(record))
        spelled = {key: value if math.isfinite(value) else _spell(value) for key, value in record.items()}
        self._file.write((json.dumps(spelled, allow_nan=False) + "\n").encode())
        self._file.flush()
        self._written.add(_identity(record))

    def sync(self) -> None:
        """Returns when every line is on disk: a checkpoint must not outlive the lines before it."""
        os.fsync(self._file.fileno())

    def rewind(self, step: int) -> None:
        """Drops the lines of all steps after `step`."""
        self.close()
        self._open(lambda record: record["step"] <= step)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _open(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Opens the file to append to, with the records to keep and nothing else."""
        kept = [(line, record) for line, record in _parse(self._path) if keep(record)]
        content = b"".join(line + b"\n" for line, _ in kept)
        if not self._path.exists() or self._path.read_bytes() != content:
            replace_file(self._path, content)
        self._written = {_identity(record) for _, record in kept}
        self._file = self._path.open("ab")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads a `metrics.jsonl`, also that of a run in progress; NaN and infinities are floats again.

    Args:
        path: the file; one that does not exist has no lines.

    Returns:
        One dictionary a line, in the order of writing; an unfinished last line is left out.

    Raises:
        ValueError: a line that is not the last is damaged.
    """
    spelled = {"NaN", "Infinity", "-Infinity"}
    return [
        {key: float(value) if isinstance(value, str) and value in spelled else value for key, value in record.items()}
        for _, record in _parse(path)
    ]


def _parse(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()] if path.exists() else []
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode())
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("no whole number named step")
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number} is not a metrics record: {line[:80]!r} ({error}); "
                "remove the line, or move the file away to start a new one"
            ) from error
        parsed.append((line, record))
    return parsed


def _identity(record: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    return record["step"], frozenset(record)


def _spell(value: float | int) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
