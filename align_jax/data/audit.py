"""The account of a preparation: rows in, kept, and left out by reason, which add up."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SHOWN_REASONS = 20


class AuditError(RuntimeError):
    """The numbers of an audit do not add up, which is a fault of this package."""


@dataclass
class Audit:
    """How many rows came in, and what became of them.

    Attributes:
      rows: that came in.
      kept: of them.
      left_out: the others, by reason.
    """

    rows: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Audit") -> "Audit":
        return Audit(self.rows + other.rows, self.kept + other.kept, self.left_out + other.left_out)

    def check(self) -> None:
        """Raises `AuditError` unless every row is accounted for once."""
        if self.rows != self.kept + self.left_out.total():
            raise AuditError(f"{self.rows} rows are not {self.kept} kept and {self.left_out.total()} left out")

    def table(self) -> str:
        """Lines of numbers and words: rows in, each reason with the most frequent first, rows kept."""
        reasons = self.left_out.most_common(_SHOWN_REASONS)
        rest = self.left_out.total() - sum(count for _, count in reasons)
        more = [(f"{len(self.left_out) - _SHOWN_REASONS} other reasons", rest)] if rest else []
        lines = [("rows in", self.rows), *((f"- {reason}", count) for reason, count in [*reasons, *more])]
        lines.append(("kept", self.kept))
        width = len(f"{self.rows:,}")
        return "\n".join(f"{count:>{width},}  {words}" for words, count in lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"rows": self.rows, "kept": self.kept, "left_out": dict(self.left_out.most_common())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Audit":
        """What `to_dict` gave."""
        return cls(values["rows"], values["kept"], Counter(values["left_out"]))
