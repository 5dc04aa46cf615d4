"""Model folders: a `config.json` beside weights, in every form that is read and in the two that are written.

    read     model.safetensors or pytorch_model.bin, either in shards too; a TensorFlow checkpoint of the released
             trainer; params/ (ours); checkpoints/ (a training workdir)
    written  params/ (ours, Orbax with checksums), or model.safetensors (what `transformers` loads)

Whatever is read becomes our variables, so every form is checked against the model in the same way.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.numpy import save_file

from align_jax.checkpoints import Checkpoints, Weights, restore_variables, save_variables
from align_jax.configuration import AlignConfig, EfficientNetConfig, ViTConfig
from align_jax.conversion.architectures import Architecture, architecture_of
from align_jax.conversion.readers.tensorflow import TensorflowCheckpoint
from align_jax.conversion.rules import RuleTable, check_variables, from_flax, ignored_reason, of_model, to_flax
from align_jax.conversion.sources import Tensors, local_path, open_source
from align_jax.conversion.tensorflow_names import infer_config, rules_for
from align_jax.files import replace_file, replaced
from align_jax.json_config import ConfigurationError, JsonConfig

Observe = Callable[[str, np.ndarray], None]
"""Called with the name that `transformers` gives a tensor, and the tensor, as it passes."""

_INDEX = "model.safetensors.index.json"
_TOWERS = {"align_text_model": ("text_config", "text"), "align_vision_model": ("vision_config", "image")}


class Model(NamedTuple):
    """A configuration and the variables that go with it."""

    config: JsonConfig
    variables: dict[str, Any]  # {"params": …, "batch_stats": …}
    folder: Path


class EachTensor(Mapping[str, np.ndarray]):
    """Tensors that pass through a function of name and tensor when they are read."""

    def __init__(self, tensors: Mapping[str, np.ndarray], function: Callable[[str, np.ndarray], np.ndarray]):
        self._tensors, self._function = tensors, function

    def __getitem__(self, name: str) -> np.ndarray:
        return self._function(name, self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclasses.dataclass(frozen=True)
class OpenModel:
    """A model folder whose configuration is read and whose weights are not yet.

    Attributes:
        folder: holds `config.json`, and the tokenizer's and the image processor's files where there are any.
        config: of the model.
        form: of the weights, such as "safetensors" or "params".
        tensors: by the names of their form; `None` where the weights are our own variables.
    """

    folder: Path
    config: JsonConfig
    form: str
    tensors: Tensors | None

    @property
    def architecture(self) -> Architecture:
        """The rules of this kind of model."""
        return architecture_of(self.config.model_type)

    @property
    def table(self) -> RuleTable:
        """The rules for the names that the weights have."""
        if isinstance(self.tensors, TensorflowCheckpoint):
            return rules_for(self.tensors, self.tensors.paths)
        return self.architecture.table

    def bytes_to_read(self, param_dtype: Any) -> int:
        """The size of the weights as they are, without what is ignored."""
        if self.tensors is None:
            return self.size_bytes(param_dtype)
        kept = (name for name in self.tensors if ignored_reason(self.table, name) is None)
        return sum(self.tensors.info(name).size_bytes for name in kept)

    def size_bytes(self, param_dtype: Any) -> int:
        """The size of the variables."""
        target = self.architecture.abstract_variables(self.config, param_dtype)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(target))

    def read(
        self,
        param_dtype: Any = jnp.float32,
        observe: Observe | None = None,
        left_out: Callable[[str, str], None] | None = None,
        weights: Weights = "ema",
    ) -> dict[str, Any]:
        """The variables, in the types that the model has for `param_dtype`.

        Args:
            param_dtype: of the parameters that the model does not keep in float32.
            observe: called with every tensor that `transformers` has a name for.
            left_out: called with the path of every variable of a workdir that is no part of the model, and the reason.
            weights: of a workdir, see `Checkpoints.restore_variables`; other folders have one set.

        Raises:
            ConversionError: if weights and configuration do not fit.
            SourceError, ManifestError, CheckpointError: if the weights cannot be read.
        """
        target = self.architecture.abstract_variables(self.config, param_dtype)
        if self.tensors is None:
            if self.form == "params":
                return check_variables(restore_variables(self.folder / "params"), target, casting="floating")
            with Checkpoints(self.folder / "checkpoints") as checkpoints:
                trained = of_model(checkpoints.restore_variables(weights), self.table, left_out)
                return check_variables(trained, target, casting="floating")

        def seen(name: str, tensor: np.ndarray) -> np.ndarray:
            if observe is not None:
                observe(name, tensor)
            return tensor

        named = EachTensor(self.tensors, seen)
        return to_flax(named, self.table, target, casting="floating", place=jax.device_put)


def open_model(source: str | Path, *, revision: str | None = None) -> OpenModel:
    """Finds the configuration and the weights of a folder, a weight file, or a model of the Hub.

    Raises:
        FileNotFoundError: if there is no such folder, or it holds no configuration or no weights.
        ConfigurationError: if the configuration is of an unknown kind, or has unknown fields.
        SourceError: if the weights' files are damaged.
    """
    path = local_path(source, revision=revision)
    for form in ("params", "checkpoints"):
        if (path / form).is_dir():
            return OpenModel(path, read_config(path), form, None)
    opened = open_source(path)
    tensors = opened.tensors
    # The released trainer writes no configuration; the sizes of its tensors give it away.
    bare = isinstance(tensors, TensorflowCheckpoint) and not (opened.folder / "config.json").is_file()
    config = infer_config(tensors, tensors.paths) if bare else read_config(opened.folder)
    return OpenModel(opened.folder, config, opened.format, tensors)


def read_config(folder: Path) -> JsonConfig:
    """The configuration of a folder, of the kind that its `model_type` names.

    Raises:
        FileNotFoundError: if there is no `config.json`.
        ConfigurationError: if it is not JSON, of an unknown kind, or has unknown fields.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put the model's configuration beside its weights")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise ConfigurationError(f'{path} names no "model_type"; it is not the configuration of a model')
    try:
        return architecture_of(values["model_type"]).config.from_dict(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def read_model(
    source: str | Path,
    *,
    model_type: str | None = None,
    param_dtype: Any = jnp.float32,
    revision: str | None = None,
    weights: Weights = "ema",
) -> Model:
    """Reads a model.

    Args:
        source: a folder, a weight file with `config.json` beside it, or an id of the Hub.
        model_type: the kind that is wanted; a tower may be taken out of a whole ALIGN model. `None` takes what is
            there.
        param_dtype: of the parameters that the model does not keep in float32.
        revision: branch, tag or commit on the Hub.
        weights: of a training workdir: its averaged parameters where it has any, or the last ones.

    Raises:
        ConfigurationError: if the model is not of the wanted kind.
        ValueError, FileNotFoundError: as `open_model` and `OpenModel.read`.
    """
    opened = open_model(source, revision=revision)
    config, found = opened.config, opened.config.model_type
    if model_type in _TOWERS and isinstance(config, AlignConfig):
        field, part = _TOWERS[model_type]
        variables = opened.read(param_dtype, weights=weights)
        return Model(
            getattr(config, field),
            {name: tree[part] for name, tree in variables.items() if part in tree},
            opened.folder,
        )
    # BERT is the text tower's network, whatever its file calls it; a subclass for images is another network.
    allowed = {model_type, "bert"} if model_type == "align_text_model" else {model_type}
    if model_type is not None and found not in allowed:
        raise ConfigurationError(f"{source} holds a model of type {found!r}, not {model_type!r}")
    return Model(config, opened.read(param_dtype, weights=weights), opened.folder)


def write_flax(config: JsonConfig, variables: dict[str, Any], folder: Path) -> None:
    """Writes `config.json` and `params/` into a folder that has neither."""
    save_variables(folder / "params", variables)
    _write_json(folder / "config.json", config.to_dict())


def write_hf(
    config: JsonConfig,
    variables: dict[str, Any],
    folder: Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
    observe: Observe | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors`, in shards with an index above a size, as `transformers` does.

    Raises:
        ConfigurationError: if the class of `transformers` cannot hold the model.
        ConversionError: if the variables are not those of the configuration.
    """
    require_in_transformers(config)
    architecture = architecture_of(config.model_type)
    target = architecture.abstract_variables(config)
    tensors = from_flax(variables, architecture.table, target, casting="keep")
    if observe is not None:
        for name, tensor in tensors.items():
            observe(name, tensor)
    shards = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    for file_name, names in shards.filename_to_tensors.items():
        with replaced(folder / file_name) as temporary:
            try:
                save_file({name: tensors[name] for name in names}, temporary, metadata={"format": "pt"})
            except SafetensorError as error:  # which is no OSError, and hides one
                raise OSError(f"{folder / file_name} cannot be written: {error}") from error
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        _write_json(folder / _INDEX, index)
    _remove_weights(folder, keep={*shards.filename_to_tensors, *([_INDEX] if shards.is_sharded else [])})
    described = {"architectures": [architecture.reference], "dtype": _main_type(tensors)}
    _write_json(folder / "config.json", described | config.to_dict())


def require_in_transformers(config: JsonConfig) -> None:
    """Refuses what the classes of `transformers` would load, and compute without.

    Raises:
        ConfigurationError: if there is such a thing.
    """
    if isinstance(config, AlignConfig) and config.image_projection:
        raise ConfigurationError(
            "transformers' AlignModel has no image projection and would compute other embeddings from these weights; "
            f"keep our own form, or train with projection_dim {config.vision_config.feature_size}"
        )
    if isinstance(config, AlignConfig) and isinstance(config.vision_config, ViTConfig):
        raise ConfigurationError(
            "transformers' AlignModel has no Vision Transformer as its image tower; keep our own form"
        )
    if isinstance(config, EfficientNetConfig | ViTConfig) and config.own_fields:
        raise ConfigurationError(
            f"transformers' {config.model_type} does not know {', '.join(config.own_fields)} and would compute another "
            "network; keep our own form"
        )


def _remove_weights(folder: Path, keep: Iterable[str]) -> None:
    """Removes weights that were saved here before and would not be replaced: a reader would find them first."""
    for pattern in ("model.safetensors", "model-*-of-*.safetensors", _INDEX):
        for path in folder.glob(pattern):
            if path.name not in keep:
                path.unlink()


def _main_type(tensors: Mapping[str, np.ndarray]) -> str:
    """The type that holds the most numbers."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype.name] = sizes.get(tensor.dtype.name, 0) + tensor.size
    return max(sizes, key=lambda name: sizes[name])


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(values, indent=2, sort_keys=True).encode() + b"\n")
