"""One JSON object of `transformers` as a frozen dataclass: strict reading, checking and writing.

A field that is neither the class's own nor one of the general fields that every `transformers` file may carry is an
error that names it. So is a value out of range, and one that asks for what our models do not compute.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, NamedTuple, Self, get_args

# General fields of every `transformers` configuration: they describe the Python object, text generation or a
# classification head, and never change what a tower computes.
_GENERAL_FIELDS = frozenset({
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attn_implementation", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "classifier_dropout", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
    "gradient_checkpointing", "id2label", "is_composition", "is_encoder_decoder", "label2id", "length_penalty",
    "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_past", "output_scores", "prefix",
    "problem_type", "remove_invalid_values",
    "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
    "use_bfloat16", "use_cache", "xla_device",
})  # fmt: skip

# General fields that do change what a tower computes, and the only value at which it computes what ours does. JSON's
# null means the same as leaving a field out.
_NEUTRAL_VALUES: dict[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "pruned_heads": {},
}

# Values that `transformers` knows and we refuse: what they would need.
_REFUSED_VALUES: dict[tuple[str, str], str] = {
    ("hidden_act", name): "has parameters of its own, which the weights of these models do not hold"
    for name in ("prelu", "xielu")
}


class ConfigurationError(ValueError):
    """A configuration has an unknown field, or a value that no model can be built from."""


class Limit(NamedTuple):
    """The values that a number may have."""

    allows: Callable[[Any], bool]  # False for nan, which no comparison holds for
    words: str  # completes "must be …"


POSITIVE = Limit(lambda value: 0 < value < 2**31, "positive and less than 2**31")
NOT_NEGATIVE = Limit(lambda value: 0 <= value < math.inf, "finite and not negative")
RATE = Limit(lambda value: 0 <= value <= 1, "between 0 and 1")
STRIDE = Limit(lambda value: value in (1, 2), "1 or 2")
ODD = Limit(lambda value: value > 0 and value % 2 == 1, "odd and positive")  # even kernels have no centre
COLOURS = Limit(lambda value: value == 3, "3, because the image tower reads red, green and blue")


@dataclasses.dataclass(frozen=True)
class JsonConfig:
    """Strict reading and writing of one JSON object of `transformers`."""

    model_type: ClassVar[str]
    # Fields that files carry and no model needs: they follow from others, or speak of what is not in it.
    _derived_fields: ClassVar[frozenset[str]] = frozenset()
    # Names of fields, separated by spaces. A limit on a tuple holds for each of its items.
    _limits: ClassVar[Mapping[Limit, str]] = {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the configuration from the object of a `config.json`.

        Raises:
            ConfigurationError: if fields are unknown or ask for what these models do not compute (all are named), or a
                value has the wrong type or is unsupported.
        """
        found_type = values.get("model_type", cls.model_type)
        if found_type != cls.model_type:
            raise ConfigurationError(f"model_type is {found_type!r}, but {cls.__name__} reads {cls.model_type!r}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        ignored = _GENERAL_FIELDS | _NEUTRAL_VALUES.keys() | cls._derived_fields | {"model_type"}
        unknown = sorted(set(values) - set(fields) - ignored)
        if unknown:
            raise ConfigurationError(
                f"{cls.__name__} has no field {', '.join(map(repr, unknown))}; remove it from the configuration, or "
                f"use one of: {', '.join(sorted(fields))}"
            )
        changed = [name for name, neutral in _NEUTRAL_VALUES.items() if values.get(name) not in (None, neutral)]
        if changed:
            raise ConfigurationError(
                f"{cls.__name__} supports only "
                + ", ".join(f"{name} {_NEUTRAL_VALUES[name]!r} (it is {values[name]!r})" for name in changed)
                + "; use a checkpoint of an encoder with all its heads and no cross-attention"
            )
        present = {name: values[name] for name in fields if name in values}
        return cls(
            **{name: _coerce(f"{cls.__name__}.{name}", fields[name].type, value) for name, value in present.items()}
        )

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Reads a `config.json`, or the one in a folder."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} does not exist; give a folder that holds a config.json") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path} holds a JSON {type(values).__name__}, not an object")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """The object of a `config.json`, with every field written out."""
        values: dict[str, Any] = {"model_type": self.model_type}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, JsonConfig):
                value = value.to_dict()
            values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    def to_json(self, path: str | Path) -> None:
        """Writes `config.json` (into the folder, when `path` is one)."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    def _check_limits(self) -> None:
        """Refuses numbers outside `_limits`; all of them are named. `None` is the absence of a number."""
        wrong = []
        for limit, names in self._limits.items():
            for name in names.split():
                value = getattr(self, name)
                items = value if isinstance(value, tuple) else (value,)
                if value is not None and not all(map(limit.allows, items)):
                    subject = "every item" if isinstance(value, tuple) else "it"
                    wrong.append(f"{name} is {value!r}, but {subject} must be {limit.words}")
        self._require(not wrong, "; ".join(wrong))

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ConfigurationError(f"{type(self).__name__}: {message}")

    def _require_choice(self, name: str, choices: Any) -> None:
        value = getattr(self, name)
        reason = _REFUSED_VALUES.get((name, value), "is not supported")
        self._require(value in get_args(choices), f"{name} {value!r} {reason}; use one of {get_args(choices)}")


def _coerce(name: str, kind: Any, value: Any) -> Any:
    """JSON knows no tuples and writes 1.0 as 1; everything else must have the type of the field."""
    expected = getattr(kind, "__name__", str(kind))
    choices = [one for one in get_args(kind) if isinstance(one, type) and issubclass(one, JsonConfig)]
    if choices and isinstance(value, Mapping):  # towers of different kinds
        kind = next((one for one in choices if one.model_type == value.get("model_type")), choices[0])
    if NoneType in get_args(kind):  # `int | None`
        if value is None:
            return None
        (kind,) = (given for given in get_args(kind) if given is not NoneType)
    if isinstance(kind, type) and issubclass(kind, JsonConfig):
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{name} is {value!r}, not a JSON object")
        return kind.from_dict(value)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (is_integer or isinstance(value, float)):
        return float(value)
    if kind is int and is_integer:
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind == tuple[int, ...]:
        if isinstance(value, list | tuple) and all(type(item) is int for item in value):
            return tuple(value)
    elif kind not in (int, float, bool) and isinstance(value, str):
        return value
    raise ConfigurationError(f"{name} is {value!r}, which is not of type {expected}")
