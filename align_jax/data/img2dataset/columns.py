"""Columns that are kept beside image and text: their types, and their values as `tf.train.Example` holds them."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align_jax.data.arrow import parquet
from align_jax.data.collections import CollectionError
from align_jax.data.records import Example

Kind = Literal["int", "float", "text", "bool"]
RESERVED = ("key", "image", "text", "aliases")
"""Features that every record has, or that loaders know."""


class ValueProblemError(ValueError):
    """A value is not of the type of its column."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      name: of the column and of the feature.
      kind: of its values.
      many: whether a row has a list of them.
    """

    name: str
    kind: Kind
    many: bool = False

    def values(self, value: Any) -> list[Any]:
        """The values of a row for `tf.train.Example`; what is not there is NaN, "" or an empty list.

        Args:
          value: as Parquet has it, or as text (other things than strings in JSON).

        Raises:
          ValueProblemError: it is of another type, or a number that must be there is not.
        """
        if isinstance(value, str) and (self.many or self.kind != "text"):
            value = self._parsed(value)
        if self.many:
            if value is not None and not isinstance(value, list):
                value = [value]
            return [self._one(one) for one in value or ()]
        return [self._one(value)]

    def _parsed(self, text: str) -> Any:
        if not text:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ValueProblemError(f"column {self.name} has text where it has a number elsewhere") from None

    def _one(self, value: Any) -> Any:
        if value is None and self.kind in ("float", "text"):
            return math.nan if self.kind == "float" else b""
        if value is None:
            raise ValueProblemError(f"column {self.name} has no value")
        if self.kind == "text":
            if isinstance(value, str | bytes):
                return value.encode() if isinstance(value, str) else value
        elif self.kind == "bool":
            if isinstance(value, bool):
                return int(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if self.kind == "float":
                return float(value)
            if isinstance(value, int) and -(2**63) <= value < 2**63:
                return value
        raise ValueProblemError(f"column {self.name} has a value that is no {self.kind}")


def columns_of_schema(names: Sequence[str], schema: Any, where: str) -> tuple[Column, ...]:
    """Columns of a Parquet file.

    Args:
      names: of those that are wanted.
      schema: in Arrow.
      where: the file.

    Raises:
      CollectionError: if one is not there, or of a type that cannot be kept.
    """
    check_names(names)
    if missing := [name for name in names if name not in schema.names]:
        raise CollectionError(f"{where} has no column {' and no '.join(missing)}; it has {', '.join(schema.names)}")
    return tuple(_column(name, schema.field(name).type, where) for name in names)


def columns_of_values(names: Sequence[str], rows: Iterable[dict[str, Any]], where: str) -> tuple[Column, ...]:
    """Columns by the first values that are found, where no table says what they are.

    Raises:
      CollectionError: if there is no value, or one that cannot be kept.
    """
    check_names(names)
    found: dict[str, Column] = {}
    for row in rows:
        for name in names:
            value = row.get(name)
            one = value[0] if isinstance(value, list) and value else value
            if name not in found and one is not None and one != []:
                kind = next((kind for kind, types in _TYPES.items() if type(one) in types), None)
                if kind is None:
                    raise CollectionError(f"{where}: column {name} has a {type(one).__name__}, which cannot be kept")
                found[name] = Column(name, kind, isinstance(value, list))
    if missing := [name for name in names if name not in found]:
        raise CollectionError(f"{where} has no values of {' and none of '.join(missing)} in its first rows")
    return tuple(found[name] for name in names)


def check_names(names: Sequence[str]) -> None:
    """Raises `CollectionError` where a name is taken or stands twice."""
    if taken := [name for name in names if name in RESERVED]:
        raise CollectionError(f"column {taken[0]!r} cannot be kept under that name: every record has a {taken[0]}")
    if len(set(names)) < len(names):
        raise CollectionError(f"columns {', '.join(names)} name one of them twice; name each once")


def serialize(features: dict[str, list[Any]], columns: Sequence[Column]) -> bytes:
    """A `tf.train.Example`; equal features give equal bytes.

    Args:
      features: values by name: bytes where no column says otherwise.
      columns: what the others are.
    """
    kinds = {column.name: column.kind for column in columns}
    example = Example()
    for name, values in features.items():
        feature, kind = example.features.feature[name], kinds.get(name, "text")
        if kind == "text":
            feature.bytes_list.value.extend(values)
        elif kind == "float":
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


_TYPES: dict[Kind, tuple[type, ...]] = {"int": (int,), "float": (float,), "text": (str, bytes), "bool": (bool,)}


def _column(name: str, arrow_type: Any, where: str) -> Column:
    arrow, _ = parquet(f"reading {where}")
    types = arrow.types
    many = types.is_list(arrow_type) or types.is_large_list(arrow_type)
    value = arrow_type.value_type if many else arrow_type
    kinds: tuple[tuple[Kind, tuple[Any, ...]], ...] = (
        ("int", (types.is_integer,)),
        ("float", (types.is_floating,)),
        ("text", (types.is_string, types.is_large_string)),
        ("bool", (types.is_boolean,)),
    )
    for kind, tests in kinds:
        if any(test(value) for test in tests):
            return Column(name, kind, many)
    raise CollectionError(f"{where}: column {name} is of type {arrow_type}, which cannot be kept; leave it out")
