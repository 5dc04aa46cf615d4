"""What a row must be like to be kept: `COLUMN OPERATOR VALUE`.

| operator | on | keeps rows |
|---|---|---|
| `>=` `>` `<=` `<` `==` `!=` | numbers | that compare so |
| `==` `!=` | strings | that are, or are not, the value |
| `~` `!~` | strings | in which the regular expression (RE2) is found, or is not |
| `in` `not in` | integers, strings | whose value stands in a file, one a line, or does not |

A row whose value is missing is dropped by every rule on it. Of a list, one element suffices, and for `!=` and `not in`
none may be equal. Numbers are rounded to the type of the column before they are compared, as NumPy and pandas do.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_jax.data.arrow import compute, parquet
from align_jax.data.coyo.releases import Column, CoyoError, Kind, Release

COMPARISONS = (">=", "<=", "==", "!=", ">", "<")
_OPERATORS: dict[Kind, tuple[str, ...]] = {
    "integer": (*COMPARISONS, "in", "not in"),
    "number": COMPARISONS,
    "string": ("==", "!=", "~", "!~", "in", "not in"),
    "integers": (*COMPARISONS, "in", "not in"),
    "numbers": COMPARISONS,
}
_FORM = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|!~|>|<|~|not\s+in\b|in\b)\s*(.*\S)\s*", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """One condition.

    Attributes:
        column: that it is on.
        operator: as in the table above.
        value: a number, a string, or an Arrow array of those that stood in a file.
        text: as it was given.
    """

    column: Column
    operator: str
    value: Any
    text: str

    def reads(self, label_threshold: float = 0.0) -> tuple[str, ...]:
        """The published columns that it takes to decide."""
        if self.column.name == "labels" and label_threshold > 0:
            return ("labels", "label_probs")
        return self.column.sources or (self.column.name,)


def parse_rule(text: str, release: Release) -> Rule:
    """Reads a rule.

    Raises:
        CoyoError: if it is not of the form, the column does not exist, or operator or value do not fit it.
        FileNotFoundError: if it names a file that does not exist.
    """
    parts = _FORM.fullmatch(text)
    if parts is None:
        raise CoyoError(f"rule {text!r} is not COLUMN OPERATOR VALUE, such as 'clip_similarity_vitl14 >= 0.25'")
    name, operator, value = parts[1], " ".join(parts[2].split()), parts[3]
    column = release.column(name)
    if operator not in _OPERATORS[column.kind]:
        usable = " ".join(_OPERATORS[column.kind])
        raise CoyoError(f"rule {text!r}: {operator} does not go with {name}, which holds {column.kind}s; use {usable}")
    shown = f"{name} {operator} {value}"
    if operator in ("in", "not in"):
        return Rule(column, operator, _listed(Path(value), column, shown), shown)
    if column.kind == "string":
        if operator in ("~", "!~"):
            _require_expression(value, shown)
        return Rule(column, operator, value, shown)
    return Rule(column, operator, _number(value, column, shown), shown)


def _number(value: str, column: Column, rule: str) -> int | float:
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        if column.kind in ("number", "numbers"):
            return number
        whole = int(value) if re.fullmatch(r"[+-]?\d+", value) else int(number)
    except ValueError:
        raise CoyoError(f"rule {rule!r}: {value!r} is not a number") from None
    if whole != number and not re.fullmatch(r"[+-]?\d+", value):
        raise CoyoError(f"rule {rule!r}: {column.name} holds integers, and {value} is none")
    if not -(2**63) <= whole < 2**63:
        raise CoyoError(f"rule {rule!r}: {value} is beyond 64 bits")
    return whole


def _require_expression(value: str, rule: str) -> None:
    arrow, _ = parquet("choosing by a regular expression")
    try:
        compute().match_substring_regex(arrow.array([""]), value)
    except arrow.ArrowInvalid as error:
        raise CoyoError(f"rule {rule!r}: the regular expression is wrong: {error}") from error


def _listed(path: Path, column: Column, rule: str) -> Any:
    """The values in a file as an Arrow array."""
    arrow, _ = parquet("choosing by a list")
    if not path.is_file():
        raise FileNotFoundError(f"rule {rule!r}: {path} is not a file; give one with a value in each line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise CoyoError(f"rule {rule!r}: {path} is not UTF-8 text: {error}") from error
    values = [line for line in lines if line]
    if not values:
        raise CoyoError(f"rule {rule!r}: {path} is empty; give a value in each line")
    if column.kind == "string":
        return arrow.array(values, arrow.string())
    return arrow.array([_number(value, column, rule) for value in values], arrow.int64())
