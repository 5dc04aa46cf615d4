"""Opens a model folder, of any form and with a tokenizer, as what `Align.apply` needs."""

from pathlib import Path
from typing import Any, NamedTuple

from align_jax.conversion.model_folder import read_model
from align_jax.data.text import Tokenizer
from align_jax.models.align import Align


class LoadedModel(NamedTuple):
    """What `Align.apply` needs, and what makes its inputs."""

    module: Align
    variables: dict[str, Any]
    tokenizer: Tokenizer


def load_model(source: str | Path, *, revision: str | None = None) -> LoadedModel:
    """Reads a model and its tokenizer.

    Args:
        source: the workdir of a training run (its newest parameters count), a model folder in our form or in that of
            `transformers`, or an id of the Hub.
        revision: branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: if there is no such folder, or it holds no model.
        ValueError: if the model is not an ALIGN model, or anything of it is damaged.
        CheckpointError: if a workdir holds no finished checkpoint.
    """
    model = read_model(source, model_type="align", revision=revision)
    config: Any = model.config  # an AlignConfig, as asked for
    return LoadedModel(Align(config), model.variables, Tokenizer(model.folder))
