"""What a conversion did with every tensor: for the screen, and in full as `conversion.json` beside the weights."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from align_jax.conversion.rules import Plan, RuleTable, ignored_reason
from align_jax.files import replace_file

FILE_NAME = "conversion.json"


@dataclasses.dataclass(frozen=True)
class ConvertedTensor:
    """One tensor.

    Attributes:
        name: that `transformers` gives it.
        variable: the path of ours.
        shape: in the layout of `transformers`.
        found: the type it had.
        written: the type it has now.
        sha256: of its bytes as they were found, in that layout, little-endian and in row-major order.
    """

    name: str
    variable: str
    shape: tuple[int, ...]
    found: str
    written: str
    sha256: str


@dataclasses.dataclass
class ConversionReport:
    """What was converted and what was left out; filled while the tensors pass."""

    source: str
    source_form: str
    output: str
    output_form: str
    model_type: str
    table: dataclasses.InitVar[RuleTable]
    target: dataclasses.InitVar[Mapping[str, Any]]
    converted: list[ConvertedTensor] = dataclasses.field(default_factory=list)
    ignored: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # names by reason
    added: list[str] = dataclasses.field(default_factory=list)  # constants that only the output has
    absent_files: list[str] = dataclasses.field(default_factory=list)
    size_bytes: int = 0

    def __post_init__(self, table: RuleTable, target: Mapping[str, Any]) -> None:
        """Keeps what names and types depend on."""
        self._table = table
        self._variables: dict[str, Any] = flatten_dict(dict(target), sep="/")
        self._places = Plan.of(table, self._variables).places

    def add(self, name: str, tensor: np.ndarray) -> None:
        """Records a tensor that passes: one that is converted, or one that the output has and no variable holds."""
        place = self._places.get(name.removeprefix(self._table.optional_prefix))
        if place is None:
            if self.output_form == "hf":
                self.added.append(name)
            return
        variable = place.target
        digest = hashlib.sha256(np.ascontiguousarray(tensor).view(np.uint8).data).hexdigest()
        written = np.dtype(self._variables[variable].dtype).name
        self.converted.append(ConvertedTensor(name, variable, tensor.shape, tensor.dtype.name, written, digest))
        self.size_bytes += tensor.nbytes

    def ignore(self, names: Iterable[str]) -> None:
        """Records the tensors among `names` that the table leaves out."""
        for name in names:
            reason = ignored_reason(self._table, name)
            if reason is not None:
                self.ignored.setdefault(reason, []).append(name)

    def left_out(self, reasons: Mapping[str, str]) -> None:
        """Records what the reader of a file already left out, with the reason for each name."""
        for name, reason in reasons.items():
            self.ignored.setdefault(reason, []).append(name)

    def numbers(self, collection: str) -> int:
        """How many numbers went into the variables of a collection, such as "params"."""
        sizes = (
            int(np.prod(one.shape, dtype=np.int64))
            for one in self.converted
            if one.variable.startswith(f"{collection}/")
        )
        return sum(sizes)

    def summary(self) -> str:
        """The report in a few lines."""
        lines = [
            ("source", f"{self.source} ({self.source_form}, {self.model_type})"),
            ("output", f"{self.output} ({self.output_form})"),
            ("converted", f"{len(self.converted):,} tensors, {self.size_bytes / 1e6:,.1f} MB"),
            ("", f"{self.numbers('params'):,} parameters, {self.numbers('batch_stats'):,} running statistics"),
        ]
        types = Counter((one.found, one.written) for one in self.converted)
        for (found, written), count in types.items():
            change = f"{found}, unchanged" if found == written else f"{found} -> {written}"
            lines.append(("types", f"{count:,} tensors {change}"))
        for reason, names in self.ignored.items():
            lines.append(("ignored", f"{len(names):,} tensors such as {names[0]}: {reason}"))
        if self.added:
            lines.append(("added", f"{len(self.added):,} tensors such as {self.added[0]}: constants of that form"))
        if self.absent_files:
            lines.append(("absent", f"{', '.join(self.absent_files)}: not in the source, so not in the output"))
        return "\n".join(f"{title:<10} {text}" for title, text in lines)

    def write(self, folder: Path) -> None:
        """Writes `conversion.json`, with every tensor and its digest."""
        fields = [field.name for field in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in fields}
        values |= {
            "parameters": self.numbers("params"),
            "running_statistics": self.numbers("batch_stats"),
            "converted": [dataclasses.asdict(one) for one in self.converted],
        }
        replace_file(folder / FILE_NAME, json.dumps(values, indent=1).encode() + b"\n")
