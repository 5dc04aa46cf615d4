"""A workdir is also a model folder: what it needs besides the checkpoints is written before the first step."""

import json
from pathlib import Path

from align_jax.configuration import ConfigurationError
from align_jax.files import replace_file
from align_jax.training.experiment import Experiment


def check_same_model(experiment: Experiment, workdir: Path) -> None:
    """Refuses to continue the checkpoints of a workdir with another model.

    Raises:
        ConfigurationError: if the workdir's experiment has another model.
    """
    earlier = workdir / "experiment.json"
    if earlier.exists() and Experiment.from_json(earlier).task.model != experiment.task.model:
        raise ConfigurationError(
            f"{workdir} holds a run of another model; give another workdir, or the configuration it was made with"
        )


def write_model_folder(experiment: Experiment, workdir: Path) -> None:
    """Writes `experiment.json`, `config.json`, `preprocessor_config.json` and, for texts, the tokenizer's files."""
    workdir.mkdir(parents=True, exist_ok=True)
    experiment.to_json(workdir / "experiment.json")
    described = experiment.task.described(experiment.data)  # pyrefly: ignore[bad-argument-type]
    replace_file(workdir / "config.json", _json(described.model.to_dict()))
    for path in experiment.data.model_files():
        replace_file(workdir / path.name, path.read_bytes())
    experiment.task.preprocessing(experiment.data).to_folder(workdir)


def _json(values: dict[str, object]) -> bytes:
    return json.dumps(values, indent=2, sort_keys=True).encode() + b"\n"
