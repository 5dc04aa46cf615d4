"""Opens a model folder: a training workdir, with `config.json`, checkpoints and the tokenizer's files."""

from pathlib import Path
from typing import Any, NamedTuple

from align_jax.checkpoints import Checkpoints
from align_jax.configuration import AlignConfig
from align_jax.data.text import Tokenizer
from align_jax.models.align import Align


class LoadedModel(NamedTuple):
    """What `Align.apply` needs, and what makes its inputs."""

    module: Align
    variables: dict[str, Any]
    tokenizer: Tokenizer


def load_model(folder: str | Path) -> LoadedModel:
    """The newest parameters of a workdir.

    Raises:
        FileNotFoundError: if the folder holds no model.
        CheckpointError: if it holds no finished checkpoint.
    """
    folder = Path(folder)
    config = AlignConfig.from_json(folder / "config.json")
    if not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(f"{folder} holds no checkpoints; give the workdir of a training run")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return LoadedModel(Align(config), checkpoints.restore_variables(), Tokenizer(folder))
