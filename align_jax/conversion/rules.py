"""Rule tables for weights, and the one engine that runs them in both directions.

A table says which source tensor (a name of `transformers`) holds which variable of ours, and how its axes are laid out.
Both names of a rule are templates in which `{n}` stands for a number, and the layout is a pair of axis lists, so every
rule reads either way and the two directions cannot drift apart:

    Rule("encoder.blocks.{n}.projection.project_conv.weight", "params/blocks_{n}/project/kernel", "o i h w -> h w i o")

The engine takes the wanted variables as an abstract tree (`jax.eval_shape` of the model's init). Every source tensor is
converted or ignored for a reason, every variable is filled exactly once with the right shape and type, and whatever is
wrong is reported together, before anything is returned. Only NumPy arrays pass through it.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Casting = Literal["no", "floating", "keep"]
"""What may happen to types: nothing; conversion between floating-point types; nothing, whatever the target says."""

_LISTED_PROBLEMS = 20


@dataclasses.dataclass(frozen=True)
class Rule:
    """One kind of tensor.

    Attributes:
        source: template of its name in the source, such as `encoder.layer.{n}.output.dense.weight`.
        target: template of the variable's path, starting with its collection: `params/layers_{n}/…/kernel`.
        layout: the axes on both sides, such as `o i 1 1 -> i o`; axes written `1` have length one and come and go.
            `None` where nothing moves.
    """

    source: str
    target: str
    layout: str | None = None


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Source tensors that hold nothing we keep.

    Attributes:
        source: template of the name.
        reason: why nothing is lost, for the report.
        beside: template of a variable's path; for each such variable, the way back writes the tensor again.
        value: what it then holds.
    """

    source: str
    reason: str
    beside: str | None = None
    value: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class TrainingOnly:
    """Variables of a training run that are no part of the model.

    Attributes:
        target: template of the variable's path.
        reason: why nothing is lost, for the report.
    """

    target: str
    reason: str


class RuleTable(NamedTuple):
    """All rules of an architecture.

    Several rules may name one target (spellings of different releases); the first of them names it on the way back.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[Ignored, ...] = ()
    optional_prefix: str = ""  # some files carry it on every name; it is never written
    training_only: tuple[TrainingOnly, ...] = ()

    def prefixed(self, source: str, target: str) -> Self:
        """The table of a model that holds this one as a part: `source` opens the names, `target` the paths."""

        def below(path: str) -> str:
            collection, rest = path.split("/", 1)
            return f"{collection}/{target}{rest}"

        return type(self)(
            tuple(
                dataclasses.replace(rule, source=source + rule.source, target=below(rule.target)) for rule in self.rules
            ),
            tuple(
                dataclasses.replace(entry, source=source + entry.source, beside=entry.beside and below(entry.beside))
                for entry in self.ignored
            ),
        )


class ConversionError(ValueError):
    """Weights and model do not fit; nothing was converted.

    Attributes:
        unused: source tensors (on the way back: variables) that have no place on the other side.
        missing: variables that nothing fills.
        duplicate: variables filled more than once.
        mismatched: tensors of a wrong shape or type, each with what was found and what was expected.
    """

    def __init__(
        self, unused: Iterable[str], missing: Iterable[str], duplicate: Iterable[str], mismatched: Iterable[str]
    ) -> None:
        self.unused, self.missing = tuple(unused), tuple(missing)
        self.duplicate, self.mismatched = tuple(duplicate), tuple(mismatched)
        kinds = {
            "unused (no rule gives them a place in this model)": self.unused,
            "missing (nothing fills them)": self.missing,
            "filled more than once": self.duplicate,
            "of the wrong shape or type": self.mismatched,
        }
        lines = ["the weights do not fit the model; check that its configuration is theirs"]
        for kind, problems in kinds.items():
            if problems:
                more = len(problems) - _LISTED_PROBLEMS
                shown = [*problems[:_LISTED_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
                lines.append(f"{len(problems)} {kind}:" + "".join(f"\n    {problem}" for problem in shown))
        super().__init__("\n  ".join(lines))


class LayoutError(ValueError):
    """An array is not what its rule says."""


class Place(NamedTuple):
    """Where one source tensor goes."""

    target: str
    layout: str | None


class Plan(NamedTuple):
    """A table, applied to the variables of one model."""

    places: dict[str, Place]  # by source name, every accepted spelling
    names: dict[str, str]  # source name by target, the spelling that is written
    generated: dict[str, np.ndarray]  # ignored tensors that are written on the way back, by source name
    unnamed: tuple[str, ...]  # variables that no rule names

    @classmethod
    def of(cls, table: RuleTable, targets: Iterable[str]) -> Self:
        """Names the source tensors of each variable, given the variables' paths."""
        targets = tuple(targets)
        places, names, generated = {}, {}, {}
        for target in targets:
            for rule in table.rules:
                source = _translate(rule.target, rule.source, target)
                if source is not None:
                    places[source] = Place(target, rule.layout)
                    names.setdefault(target, source)
            for entry in table.ignored:
                source = _translate(entry.beside, entry.source, target) if entry.beside is not None else None
                if source is not None:
                    generated[source] = entry.value
        return cls(places, names, generated, tuple(target for target in targets if target not in names))


def to_flax(
    tensors: Mapping[str, np.ndarray],
    table: RuleTable,
    target: Mapping[str, Any],
    *,
    casting: Casting = "no",
    place: Callable[[np.ndarray], Any] = lambda array: array,
) -> dict[str, Any]:
    """Converts source tensors to a tree of variables.

    Args:
        tensors: by source name; each is read once, so the mapping may load them one by one.
        table: the rules of the architecture.
        target: abstract variables with `shape` and `dtype`, such as `{"params": …, "batch_stats": …}`.
        casting: whether types must be, become or need not be those of the target.
        place: where each variable is kept, such as `jax.device_put`; called once one is complete.

    Raises:
        ConversionError: if a tensor is unused, missing, given twice, or of the wrong shape or type.
    """
    abstract: dict[str, Any] = flatten_dict(dict(target), sep="/")
    plan = Plan.of(table, abstract)
    unused, duplicate, mismatched = [], [], []
    filled: dict[str, Any] = {}
    seen: set[str] = set()
    for name in tensors:
        found = plan.places.get(name.removeprefix(table.optional_prefix))
        if found is None:
            if ignored_reason(table, name) is None:
                unused.append(name)
            continue
        path, layout = found
        if path in seen:
            duplicate.append(f"{path}, the second time by {name}")
            continue
        seen.add(path)
        tensor = tensors[name]
        try:
            filled[path] = place(_fit(_arrange(tensor, layout), abstract[path], casting))
        except LayoutError as error:
            mismatched.append(f"{name} -> {path} {tuple(abstract[path].shape)}: {error}")
    missing = [f"{path} ({plan.names.get(path, 'no rule names it')})" for path in abstract if path not in seen]
    if unused or missing or duplicate or mismatched:
        raise ConversionError(unused, missing, duplicate, mismatched)
    return unflatten_dict(filled, sep="/")


def from_flax(
    variables: Mapping[str, Any], table: RuleTable, target: Mapping[str, Any], *, casting: Casting = "no"
) -> dict[str, np.ndarray]:
    """Converts a tree of variables to source tensors: the inverse of `to_flax`.

    Args:
        variables: arrays of any kind that NumPy reads.
        table: the rules of the architecture.
        target: abstract variables, as for `to_flax`; `variables` must have exactly these, besides those that the table
            calls training-only.
        casting: as for `to_flax`.

    Raises:
        ConversionError: if a variable is missing, has no source name, or is of the wrong shape or type.
    """
    abstract: dict[str, Any] = flatten_dict(dict(target), sep="/")
    arrays: dict[str, Any] = flatten_dict(of_model(variables, table), sep="/")
    plan = Plan.of(table, abstract)
    tensors: dict[str, np.ndarray] = {name: value.copy() for name, value in plan.generated.items()}
    duplicate, mismatched = [], []
    unused = [path for path in arrays if path not in abstract or path in plan.unnamed]
    missing = [path for path in abstract if path not in arrays]
    for path, name in plan.names.items():
        if path not in arrays:
            continue
        if plan.places[name].target != path or name in plan.generated:
            duplicate.append(f"{name}, the name of {path}, is taken")
            continue
        try:
            array = _fit(np.asarray(arrays[path]), abstract[path], casting)
            tensors[name] = _arrange(array, _reversed(plan.places[name].layout))
        except LayoutError as error:
            mismatched.append(f"{path} {tuple(abstract[path].shape)}: {error}")
    if unused or missing or duplicate or mismatched:
        raise ConversionError(unused, missing, duplicate, mismatched)
    return tensors


def check_variables(
    variables: Mapping[str, Any], target: Mapping[str, Any], *, casting: Casting = "no"
) -> dict[str, Any]:
    """Variables that are exactly those of a model.

    Args:
        variables: arrays of any kind.
        target: abstract variables, as for `to_flax`.
        casting: as for `to_flax`.

    Raises:
        ConversionError: if a variable is missing or unknown, or of the wrong shape or type.
    """
    abstract: dict[str, Any] = flatten_dict(dict(target), sep="/")
    arrays: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    fitted, mismatched = {}, []
    for path in abstract.keys() & arrays.keys():
        try:
            fitted[path] = _fit(arrays[path], abstract[path], casting)
        except LayoutError as error:
            mismatched.append(f"{path} {tuple(abstract[path].shape)}: {error}")
    unused = [path for path in arrays if path not in abstract]
    missing = [path for path in abstract if path not in arrays]
    if unused or missing or mismatched:
        raise ConversionError(unused, missing, (), sorted(mismatched))
    return unflatten_dict({path: fitted[path] for path in abstract}, sep="/")


def of_model(
    variables: Mapping[str, Any], table: RuleTable, left_out: Callable[[str, str], None] | None = None
) -> dict[str, Any]:
    """Variables without those that only training needs.

    Args:
        variables: arrays of any kind.
        table: the rules of the architecture.
        left_out: called with the path and the reason of each variable that goes.
    """
    kept = {}
    for path, array in flatten_dict(dict(variables), sep="/").items():
        reason = next((one.reason for one in table.training_only if _pattern(one.target).fullmatch(path)), None)
        if reason is None:
            kept[path] = array
        elif left_out is not None:
            left_out(path, reason)
    return unflatten_dict(kept, sep="/")


def ignored_reason(table: RuleTable, name: str) -> str | None:
    """Why a source tensor is left out, or `None` if the table does not say."""
    bare = name.removeprefix(table.optional_prefix)
    return next((entry.reason for entry in table.ignored if _pattern(entry.source).fullmatch(bare)), None)


def _translate(template: str, other: str, name: str) -> str | None:
    """The name that template `other` gives what template `template` calls `name`."""
    match = _pattern(template).fullmatch(name)
    return None if match is None else other.format(**match.groupdict())


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[0-9]+)", re.escape(template)))


def _arrange(array: np.ndarray, layout: str | None) -> np.ndarray:
    """Brings the axes from the left side of a layout to its right side, contiguous in memory."""
    if layout is None:
        return array
    before, after = (side.split() for side in layout.split("->"))
    ones = tuple(axis for axis, name in enumerate(before) if name == "1")
    if array.ndim != len(before) or any(array.shape[axis] != 1 for axis in ones):
        raise LayoutError(f"has shape {array.shape}, which is not of the form ({' '.join(before)})")
    kept = [name for name in before if name != "1"]
    array = array.squeeze(ones).transpose([kept.index(name) for name in after if name != "1"])
    array = np.expand_dims(array, tuple(axis for axis, name in enumerate(after) if name == "1"))
    return np.asarray(array, order="C")


def _reversed(layout: str | None) -> str | None:
    return None if layout is None else "->".join(reversed(layout.split("->")))


def _fit(array: Any, wanted: Any, casting: Casting) -> Any:
    """Checks shape and type against an abstract array."""
    if array.shape != tuple(wanted.shape):
        raise LayoutError(f"has shape {array.shape} in the model's layout")
    if array.dtype == wanted.dtype or casting == "keep":
        return array
    # JAX's test, because NumPy does not count bfloat16 among its floating-point types.
    both_floating = all(jnp.issubdtype(dtype, jnp.floating) for dtype in (array.dtype, wanted.dtype))
    if casting == "floating" and both_floating:
        return array.astype(wanted.dtype)
    raise LayoutError(f"has type {array.dtype}, not {np.dtype(wanted.dtype)}")
