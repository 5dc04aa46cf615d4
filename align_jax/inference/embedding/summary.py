"""What a finished run says of itself: how many inputs were embedded, and why the others were not."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_jax.data.collections.names import NameHashes
from align_jax.files import replaced
from align_jax.inference.embedding.folder import REFUSED_FILE
from align_jax.inference.embedding.part import read_ids, read_part

_SHOWN_REASONS = 5


@dataclass(frozen=True)
class Summary:
    """Counts of a finished run.

    Attributes:
        embedded: inputs that have an embedding.
        refused: inputs that have none, by reason, without the numbers and names in it; the most frequent first.
        repeated_ids: rows whose id stands in an earlier row too, which only an input can cause whose own ids do.
    """

    embedded: int
    refused: dict[str, int]
    repeated_ids: int

    def counts(self) -> dict[str, Any]:
        """For `embeddings.json`."""
        refused = sum(self.refused.values())
        return {
            "inputs": self.embedded + refused,
            "embedded": self.embedded,
            "refused": refused,
            "refused_by_reason": self.refused,
            "repeated_ids": self.repeated_ids,
        }

    def reasons(self) -> str:
        """The most frequent reasons in a line."""
        listed = [f"{count:,} because {reason}" for reason, count in self.refused.items()]
        more = f"; {len(listed) - _SHOWN_REASONS} other reasons" if len(listed) > _SHOWN_REASONS else ""
        return "; ".join(listed[:_SHOWN_REASONS]) + more


def summarize(output: Path, parts: Sequence[Path]) -> Summary:
    """Reads every part, writes `refused.jsonl`, and counts.

    Args:
        output: the folder.
        parts: its parts, in order.
    """
    embedded, reasons, hashes = 0, Counter[str](), NameHashes()
    with replaced(output / REFUSED_FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
        for path in parts:
            part = read_part(path)
            embedded += part.rows
            for name, reason in part.refused:
                file.write(json.dumps({"id": name, "reason": reason}, ensure_ascii=False) + "\n")
                reasons[kind_of(reason)] += 1
            for name in read_ids(path):
                hashes.add(name)
    repeated = hashes.repeated(lambda: (name for path in parts for name in read_ids(path)))
    return Summary(embedded, dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))), len(repeated))


def kind_of(reason: str) -> str:
    """A reason without what is particular to one input: bytes, numbers, and what is in brackets at the end."""
    general = re.sub(r"b'(?:[^'\\]|\\.)*'|b\"(?:[^\"\\]|\\.)*\"", "…", reason)
    general = re.sub(r"( \([^()]*\))+$", "", general)
    return re.sub(r"\d[\d,.]*", "N", general)
