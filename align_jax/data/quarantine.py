"""The list of records that cannot be used: counted, named with the reason, and limited.

Loader threads and worker processes append to one JSONL file (`{"key": …, "reason": …}` a line). Each process of a run
has a file of its own, in a folder that all of them see (`quarantine-0.jsonl`, `quarantine-1.jsonl`, …), and counts what
is in all of them: the limit holds for the run, however many processes it has, and had before it was stopped.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any


class TooManyBadRecordsError(ValueError):
    """More records than allowed cannot be used; the message names some, with reasons."""


class Quarantine:
    """Counts distinct bad records over all processes and their workers, and over the runs in the same folder.

    Attributes:
      path: this process's file; it is made with the first bad record. Where its name ends in a number, files whose
        names end in another number belong to other processes of the run.
      max_bad_records: so many distinct records may be bad before `check` raises.
    """

    def __init__(self, path: str | Path, max_bad_records: int) -> None:
        if max_bad_records < 0:
            raise ValueError(f"max_bad_records {max_bad_records} is negative; 0 allows none")
        self.path = Path(path)
        self.max_bad_records = max_bad_records
        self._written: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._positions_bytes: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}  # locks cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def add(self, key: str, reason: str) -> None:
        """Appends a bad record in one write, so that lines of several processes never mix."""
        if key in self._written:
            return
        self._written.add(key)
        line = json.dumps({"key": key[:1000], "reason": reason[:1000]}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    @property
    def count(self) -> int:
        """The number of distinct bad records so far; reads only what was added since it was last asked."""
        with self._lock:
            self._read_added()
            return len(self._reasons)

    def check(self) -> None:
        """Raises `TooManyBadRecordsError` once more than `max_bad_records` are bad; cheap enough for every step."""
        with self._lock:
            self._read_added()
            count, first = len(self._reasons), list(self._reasons.items())[:3]
        if count > self.max_bad_records:
            examples = "; ".join(f"{key}: {reason}" for key, reason in first)
            raise TooManyBadRecordsError(
                f"{count} records cannot be used, more than max_bad_records {self.max_bad_records}: {examples}; "
                f"all are listed in {self._pattern()}; repair the data and then delete that file, since its entries "
                "count until it is gone, or allow more"
            )

    def _pattern(self) -> Path:
        """Names the files of all processes."""
        stem, dash, number = self.path.stem.rpartition("-")
        return self.path.with_name(f"{stem}-*{self.path.suffix}") if dash and number.isdigit() else self.path

    def _read_added(self) -> None:
        """Reads what was added since the last time; the lock must be held, as threads would read the same lines."""
        for path in sorted(self.path.parent.glob(self._pattern().name)):
            start = self._positions_bytes.get(path, 0)
            if path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            for line in whole.splitlines():
                entry = json.loads(line)
                self._reasons.setdefault(entry["key"], entry["reason"])
            self._positions_bytes[path] = start + len(whole)
