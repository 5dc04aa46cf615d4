"""What the models of `transformers` have in common: a configuration, weights, and folders to load and save them."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import jax
import jax.numpy as jnp

from align_jax.configuration import AlignTextConfig, BertConfig
from align_jax.conversion.model_folder import read_model, write_hf
from align_jax.inference.initialization import random_variables
from align_jax.inference.model_inputs import InputError
from align_jax.json_config import JsonConfig

Config = TypeVar("Config", bound=JsonConfig)
Module = TypeVar("Module")

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class PretrainedModel(Generic[Config, Module]):
    """A model with its weights, always in evaluation mode.

    Args:
        config: of the model.
        seed: of random weights.
        dtype: "float32" or "bfloat16" (JAX's and torch's names for them will do), of the weights and the computation;
            normalisation, softmax and everything after the towers is float32 in any case.
        variables: weights to use instead of random ones, `{"params": …, "batch_stats": …}`.

    Attributes:
        config: of the model.
        module: the Linen module; `module.apply(variables, …)` is the model underneath.
        variables: parameters and batch-norm statistics, on JAX's default device.
    """

    config_class: ClassVar[type]
    module_class: ClassVar[type]

    def __init__(
        self, config: Config, seed: int = 0, *, dtype: Any = "float32", variables: dict[str, Any] | None = None
    ):
        if not isinstance(config, self.config_class):
            raise InputError(
                f"{type(self).__name__} takes an {self.config_class.__name__} of align_jax, not a "
                f"{type(config).__module__}.{type(config).__name__}; convert that of transformers with "
                f"{self.config_class.__name__}.from_dict(config.to_dict())"
            )
        self.config = config
        number_type = _number_type(dtype)
        self.module: Module = self.module_class(config, dtype=number_type, param_dtype=number_type)
        self.variables = random_variables(config, seed, number_type) if variables is None else jax.device_put(variables)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        dtype: Any = "float32",
        revision: str | None = None,
        device_map: Any = None,
        **options: Any,
    ) -> Self:
        """Loads a model.

        Args:
            source: a model folder in the form of `transformers` or in ours, the workdir of a training run, or an id
                of the Hub. A tower takes its part of a whole ALIGN model.
            dtype: as for the class.
            revision: branch, tag or commit on the Hub.
            device_map: has no effect: JAX decides where it computes (`JAX_PLATFORMS`).
            options: further arguments of the class.

        Raises:
            FileNotFoundError: if there is no such model.
            ValueError: if it is of another kind, damaged or incomplete.
        """
        del device_map
        model_type = cls.config_class.model_type
        found = read_model(source, model_type=model_type, param_dtype=_number_type(dtype), revision=revision)
        return cls(_as_tower(found.config), dtype=dtype, variables=found.variables, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors`, which `transformers` and this class load.

        Raises:
            ConfigurationError: if the classes of `transformers` cannot hold the model.
            InputError: if the folder holds a model in our own form.
        """
        folder = Path(folder)
        taken = [name for name in ("params", "checkpoints") if (folder / name).exists()]
        if taken:
            raise InputError(f"{folder} holds {taken[0]}/, which would be read instead; save to another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_hf(self.config, self.variables, folder)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters, without the batch-norm statistics."""
        return self.variables["params"]

    @property
    def device(self) -> str:
        """Where torch tensors are expected, the host; the model itself is on JAX's default device."""
        return "cpu"

    def to(self, device: Any) -> Self:
        """The model itself: JAX decides where it computes, and takes tensors from any device of torch.

        Raises:
            InputError: if a type is asked for; a model keeps the one that it was loaded with.
        """
        if "float" in str(device):
            raise InputError(f"a model cannot change to {device}; load it with from_pretrained(…, dtype=…)")
        return self

    def eval(self) -> Self:
        """The model itself: it has no dropout to switch off, because it is always in evaluation mode."""
        return self


def _as_tower(config: Any) -> Any:
    """A BERT model's configuration becomes that of the text tower it serves as; others are what they are."""
    if not isinstance(config, BertConfig):
        return config
    names = [field.name for field in dataclasses.fields(AlignTextConfig)]
    return AlignTextConfig(**{name: getattr(config, name) for name in names})


def _number_type(dtype: Any) -> Any:
    name = getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")
    if name not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is not supported; use one of {', '.join(_DTYPES)}")
    return _DTYPES[name]
