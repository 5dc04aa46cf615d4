"""Decides rules: for the rows of a batch, and from the statistics of a row group alone where they suffice."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from align_jax.data.arrow import compute, parquet
from align_jax.data.coyo.releases import Column, CoyoError
from align_jax.data.coyo.rules import COMPARISONS, Rule

Rows = Bool[np.ndarray, "rows"]

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def kept_rows(rule: Rule, batch: Any, alive: Rows, label_threshold: float = 0.0) -> Rows:
    """Which of the rows that are still there a rule keeps.

    Args:
        rule: to decide.
        batch: an Arrow record batch with the columns that the rule reads.
        alive: the rows that no earlier rule has dropped.
        label_threshold: labels that are less probable do not count.

    Raises:
        CoyoError: if a row has not as many labels as probabilities.
    """
    if rule.column.kind in ("integers", "numbers"):
        return alive & _of_list(rule, batch, label_threshold)
    if rule.column.kind == "string":
        return _of_strings(rule, batch.column(rule.column.name), alive)
    values, valid = numbers(rule.column, batch)
    kept = _of_values(rule, values)
    kept &= alive
    return kept if valid is None else kept & valid


def numbers(column: Column, batch: Any) -> tuple[np.ndarray, Rows | None]:
    """The values of a column of numbers, and where there are any; `None` where there is one in each row.

    Of lists of numbers they are the largest of each row, NaN where there is none.
    """
    if column.kind == "numbers":
        return _largest(batch.column(column.name)), None
    if not column.sources:
        return _numpy(batch.column(column.name))
    (width, has_width), (height, has_height) = (_numpy(batch.column(name)) for name in column.sources)
    valid = has_width if has_height is None else has_height if has_width is None else has_width & has_height
    if column.name == "short_side":
        return np.minimum(width, height), valid
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(width, height) / np.minimum(width, height), valid


def _largest(array: Any) -> np.ndarray:
    lengths = _lengths(array)
    elements, valid = _numpy(array.flatten())
    if valid is not None:
        elements = np.where(valid, elements, np.nan)
    largest, some = np.full(len(lengths), np.nan, elements.dtype), lengths > 0
    if some.any():  # empty rows have no elements, so that each segment ends where the next one begins
        largest[some] = np.fmax.reduceat(elements, (np.cumsum(lengths) - lengths)[some])
    return largest


def verdict(rule: Rule, statistics: Mapping[str, Any]) -> Literal["all", "none"] | None:
    """What the smallest and largest values say about a rule: that it keeps all rows of a group, or none.

    Args:
        rule: on any column.
        statistics: of a row group, by published column; those that are not there decide nothing.
    """
    bounds = _bounds(rule.column, statistics)
    if rule.operator not in COMPARISONS or bounds is None:
        return None
    low, high, whole = bounds
    values = {rule.value} if rule.column.kind == "integer" else {rule.value, float(np.float32(rule.value))}
    verdicts = {_verdict(rule.operator, value, low, high) for value in values}  # whatever type the column has
    decided = verdicts.pop() if len(verdicts) == 1 else None
    return None if decided == "all" and not whole else decided


def _verdict(operator_: str, value: float, low: float, high: float) -> Literal["all", "none"] | None:
    if operator_ in ("==", "!="):
        same, apart = low == high == value, not low <= value <= high
        return ("all" if same == (operator_ == "==") else "none") if same or apart else None
    ends = {bool(_COMPARE[operator_](end, value)) for end in (low, high)}
    return ("all" if ends.pop() else "none") if len(ends) == 1 else None


def _bounds(column: Column, statistics: Mapping[str, Any]) -> tuple[Any, Any, bool] | None:
    """The smallest and largest value, and whether every row has one that lies between them."""
    if column.kind not in ("integer", "number") or column.name == "aspect_ratio":
        return None
    found: list[Any] = [statistics.get(name) for name in column.sources or (column.name,)]
    if any(one is None or not one.has_min_max for one in found):
        return None
    low, high = min(one.min for one in found), min(one.max for one in found)  # of the smaller of two sides, too
    nothing_missing = all(one.has_null_count and one.null_count == 0 for one in found)
    return low, high, nothing_missing and column.kind == "integer"  # NaN is missing too, and in no statistics


def _of_values(rule: Rule, values: np.ndarray) -> Any:
    if rule.operator in ("in", "not in"):
        return np.isin(values, rule.value.to_numpy(), invert=rule.operator == "not in")
    found = _COMPARE[rule.operator](values, rule.value)
    return found & ~np.isnan(values) if rule.operator == "!=" and values.dtype.kind == "f" else found


def _of_strings(rule: Rule, array: Any, alive: Rows) -> Rows:
    arrow, _ = parquet("choosing by strings")
    functions = compute()
    if not alive.all():
        array = array.filter(arrow.array(alive))
    if rule.operator in ("in", "not in"):
        found = functions.is_in(array, value_set=rule.value.cast(array.type))
    elif rule.operator in ("~", "!~"):
        found = functions.match_substring_regex(array, rule.value)
    else:
        found = functions.equal(array, arrow.scalar(rule.value, array.type))
    if rule.operator in ("not in", "!~", "!="):
        found = functions.invert(found)
    found = functions.and_(found.fill_null(False), array.is_valid())
    kept = np.zeros_like(alive)
    kept[alive] = found.to_numpy(zero_copy_only=False)
    return kept


def _of_list(rule: Rule, batch: Any, label_threshold: float) -> Rows:
    array = batch.column(rule.column.name)
    lengths = _lengths(array)
    elements, valid = _numpy(array.flatten())
    unequal = rule.operator in ("!=", "not in")
    found = ~_of_values(rule, elements) if unequal else _of_values(rule, elements)  # of !=: those that are equal
    if valid is not None:
        found = found & valid
    if rule.column.name == "labels" and label_threshold > 0:
        probabilities = batch.column("label_probs")
        if not np.array_equal(_lengths(probabilities), lengths):
            raise CoyoError("a row has not as many label_probs as labels")
        found = found & (_numpy(probabilities.flatten())[0] >= label_threshold)
    until = np.concatenate([[0], np.cumsum(found)])
    ends = np.cumsum(lengths)
    some = until[ends] > until[ends - lengths]
    kept = ~some if unequal else some
    return kept if array.null_count == 0 else kept & array.is_valid().to_numpy(zero_copy_only=False)


def _lengths(array: Any) -> np.ndarray:
    return compute().list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _numpy(array: Any) -> tuple[np.ndarray, Rows | None]:
    if array.null_count == 0:
        return array.to_numpy(zero_copy_only=False), None
    return array.fill_null(0).to_numpy(zero_copy_only=False), array.is_valid().to_numpy(zero_copy_only=False)
