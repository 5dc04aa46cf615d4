"""Names that come from outside: which of them are believed, and how the others are shown."""

import hashlib
from array import array
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import numpy as np

MAX_NAME_BYTES = 4096


def name_problem(name: str) -> str | None:
    """Why a relative path is not safe to use as a name, or `None` where it is.

    Safe is what, joined to any folder, stays inside it, on any system, and can be written as UTF-8.
    """
    if not name:
        return "its name is empty"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if size > MAX_NAME_BYTES:
        return f"its name has {size} bytes, more than the limit of {MAX_NAME_BYTES}"
    if "\0" in name:
        return "its name contains a zero byte"
    portable = name.replace("\\", "/")
    if portable.startswith("/") or (len(portable) > 1 and portable[0].isalpha() and portable[1] == ":"):
        return "its name is an absolute path"
    if ".." in portable.split("/"):
        return "its name leads out of the folder (..)"
    return None


def shown(name: str) -> str:
    """A name that can always be printed and written: what is not Unicode is escaped, and what is too long is cut."""
    safe = name.encode("utf-8", "backslashreplace").decode()
    return safe if len(safe) <= 1000 else f"{safe[:1000]}…"


def normal(name: str) -> str:
    """A relative path in its shortest form."""
    return PurePosixPath(name).as_posix() if name else name


class NameHashes:
    """Finds names that stand in several positions, in eight bytes of memory a name."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, name: str | None) -> None:
        """Takes the name of the next position; `None` stands for none."""
        self._hashes.append(_hash(name))

    def repeated(self, again: Callable[[], Iterable[str | None]]) -> frozenset[int]:
        """The positions whose name stood in an earlier one already.

        Args:
            again: gives all names a second time; called only where two of them may be equal.
        """
        hashes = np.sort(np.frombuffer(self._hashes, np.uint64)) if self._hashes else np.empty(0, np.uint64)
        suspicious = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist()) - {_hash(None)}
        seen: set[str] = set()
        found = set()
        for position, name in enumerate(again() if suspicious else ()):
            if name is not None and _hash(name) in suspicious:
                if name in seen:
                    found.add(position)
                seen.add(name)
        return frozenset(found)


def _hash(name: str | None) -> int:
    if name is None:
        return 0
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
