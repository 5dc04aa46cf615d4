"""The list of records that cannot be used: counted, named with the reason, and limited.

Loader threads and worker processes append to one JSONL file (`{"key": …, "reason": …}` a line); the training loop reads
what was added and stops when it is too much. The file lies on a local disk, one for each host process.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any


class TooManyBadRecordsError(ValueError):
    """More records than allowed cannot be used; the message names some, with reasons."""


class Quarantine:
    """Counts distinct bad records over all workers, and over the runs that append to the same file.

    Attributes:
      path: the JSONL file; it is made with the first bad record.
      max_bad_records: so many distinct records may be bad before `check` raises.
    """

    def __init__(self, path: str | Path, max_bad_records: int) -> None:
        if max_bad_records < 0:
            raise ValueError(f"max_bad_records {max_bad_records} is negative; 0 allows none")
        self.path = Path(path)
        self.max_bad_records = max_bad_records
        self._written: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._position_bytes = 0
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
                f"all are listed in {self.path}; repair the data and then delete that file, since its entries count "
                "until it is gone, or allow more"
            )

    def _read_added(self) -> None:
        """Reads what was added since the last time; the lock must be held, as threads would read the same lines."""
        start = self._position_bytes
        try:
            if self.path.stat().st_size <= start:
                return
        except FileNotFoundError:
            return
        with self.path.open("rb") as file:
            file.seek(start)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        for line in whole.splitlines():
            entry = json.loads(line)
            self._reasons.setdefault(entry["key"], entry["reason"])
        self._position_bytes = start + len(whole)
