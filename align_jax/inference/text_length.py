"""Tokens per text that models are run with, where nobody says.

Positions beyond those that a training used were never trained, so a workdir's own length comes first in both rules.
Without one, embeddings take the 64 tokens of the released model: that is what it was trained with, and more positions
would be random. The pipelines take all positions: those of `transformers`, whose numbers they give, cut no text.
"""

import json
from pathlib import Path

from align_jax.configuration import AlignConfig

RELEASED_TEXT_LENGTH = 64
"""Tokens per text of the released model, and of every model that does not say."""


def text_length_of(folder: Path, config: AlignConfig) -> int:
    """Of embeddings, with the model in a folder: that of its training, or 64, where it has as many positions."""
    return min(trained_text_length(folder) or RELEASED_TEXT_LENGTH, config.text_config.max_position_embeddings)


def pipeline_text_length(folder: Path | None, config: AlignConfig) -> int:
    """Of the pipelines: that of the training of the model in a folder, or every position."""
    trained = None if folder is None else trained_text_length(folder)
    return config.text_config.max_position_embeddings if trained is None else trained


def trained_text_length(folder: Path) -> int | None:
    """What the training that a folder is the workdir of cut its texts to."""
    path = folder / "experiment.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["data"].get("text_length")
