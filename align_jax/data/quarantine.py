"""The list of records that cannot be used: counted, named with the reason, and limited.

Loader threads and worker processes append to one JSONL file (`{"key": …, "reason": …}` a line); the training loop reads
what was added and stops when it is too much. The file lies on a local disk, one for each host process.
"""

import json
import os
from pathlib import Path


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
        try:
            size_bytes = self.path.stat().st_size
        except FileNotFoundError:
            return len(self._reasons)
        if size_bytes > self._position_bytes:
            with self.path.open("rb") as file:
                file.seek(self._position_bytes)
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._position_bytes += len(whole)
            for line in whole.splitlines():
                entry = json.loads(line)
                self._reasons.setdefault(entry["key"], entry["reason"])
        return len(self._reasons)

    def check(self) -> None:
        """Raises `TooManyBadRecordsError` once more than `max_bad_records` are bad; cheap enough for every step."""
        if self.count > self.max_bad_records:
            first = "; ".join(f"{key}: {reason}" for key, reason in list(self._reasons.items())[:3])
            raise TooManyBadRecordsError(
                f"{self.count} records cannot be used, more than max_bad_records {self.max_bad_records}: {first}; "
                f"all are listed in {self.path}; repair the data, or allow more"
            )
