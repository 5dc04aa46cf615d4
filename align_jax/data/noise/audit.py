"""What the rules did: pairs in, unreadable ones, dropped by each rule, kept. It adds up."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from align_jax.data.noise.rules import Rule

IN, UNREADABLE, KEPT = "in", "unreadable", "kept"
FIRST, ALONE = "first: ", "alone: "


@dataclass(frozen=True)
class Audit:
    """Counts of pairs; `pairs` is the sum of `unreadable`, all in `dropped`, and `kept`.

    Attributes:
        pairs: in the collection.
        unreadable: without an image or text that can be used.
        dropped: by each rule, in their order; a pair counts at the first that it breaks.
        alone: by each rule, how many pairs break it, whatever others say.
        kept: pairs that break none.
    """

    pairs: int
    unreadable: int
    dropped: tuple[tuple[str, int], ...]
    alone: tuple[tuple[str, int], ...]
    kept: int

    @classmethod
    def of(cls, counts: Counter[str] | dict[str, int], rules: Sequence[Rule]) -> "Audit":
        """From counts of `events`."""
        names = [rule.name for rule in rules]
        return cls(
            counts.get(IN, 0),
            counts.get(UNREADABLE, 0),
            tuple((name, counts.get(FIRST + name, 0)) for name in names),
            tuple((name, counts.get(ALONE + name, 0)) for name in names),
            counts.get(KEPT, 0),
        )

    def to_json(self) -> bytes:
        """All of it."""
        rules = [
            {"rule": name, "dropped": dropped, "alone": alone}
            for (name, dropped), (_, alone) in zip(self.dropped, self.alone, strict=True)
        ]
        content = {"pairs": self.pairs, "unreadable": self.unreadable, "rules": rules, "kept": self.kept}
        return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"

    def table(self) -> str:
        """A line for each, with the share of all pairs, and what the rule would drop alone."""
        rows = [("", "pairs", "", "breaking the rule"), ("pairs in", f"{self.pairs:,}", self._share(self.pairs), "")]
        rows.append(("unreadable", f"{self.unreadable:,}", self._share(self.unreadable), ""))
        for (name, dropped), (_, alone) in zip(self.dropped, self.alone, strict=True):
            rows.append((f"dropped: not {name}", f"{dropped:,}", self._share(dropped), f"{alone:,}"))
        rows.append(("kept", f"{self.kept:,}", self._share(self.kept), ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{name:<{widths[0]}}  {count:>{widths[1]}}  {share:>{widths[2]}}  {alone:>{widths[3]}}".rstrip()
            for name, count, share, alone in rows
        )

    def _share(self, count: int) -> str:
        return f"{100 * count / max(self.pairs, 1):.2f} %"


def events(broken: Sequence[str] | None) -> list[str]:
    """What a pair adds one to.

    Args:
        broken: names of the rules that it breaks; `None` for one that is unreadable.
    """
    if broken is None:
        return [IN, UNREADABLE]
    return [IN, *(ALONE + name for name in broken), FIRST + broken[0] if broken else KEPT]
