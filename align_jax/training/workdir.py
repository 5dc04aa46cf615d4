"""A workdir is also a model folder: what it needs besides the checkpoints is written before the first step."""

import hashlib
import json
from pathlib import Path

from align_jax.configuration import ConfigurationError
from align_jax.data.preprocessing import Preprocessing
from align_jax.data.text import Tokenizer
from align_jax.files import replace_file
from align_jax.training.experiment import Experiment

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


def open_tokenizer(experiment: Experiment) -> Tokenizer:
    """The experiment's tokenizer.

    Raises:
        ConfigurationError: if it has more tokens than the text tower.
    """
    tokenizer = Tokenizer(experiment.data.tokenizer)
    vocab_size = experiment.task.model.text_config.vocab_size
    if tokenizer.vocab_size > vocab_size:
        raise ConfigurationError(
            f"the tokenizer in {experiment.data.tokenizer} has {tokenizer.vocab_size} tokens but the text tower has "
            f"vocab_size {vocab_size}; train a smaller vocabulary or raise vocab_size"
        )
    return tokenizer


def tokenizer_digest(experiment: Experiment) -> str:
    """A digest of the tokenizer's files: another vocabulary at the same path would scramble a run that continues."""
    digest = hashlib.sha256()
    for path in _tokenizer_files(experiment):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


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
    """Writes `experiment.json`, `config.json`, the tokenizer's files and `preprocessor_config.json`."""
    workdir.mkdir(parents=True, exist_ok=True)
    experiment.to_json(workdir / "experiment.json")
    replace_file(workdir / "config.json", _json(experiment.task.model.to_dict()))
    for path in _tokenizer_files(experiment):
        replace_file(workdir / path.name, path.read_bytes())
    transform = experiment.data.transform
    # Training resizes without antialiasing, so that is how the model wants its images.
    Preprocessing("tf", transform.resize_px, transform.crop_px).to_folder(workdir)


def _tokenizer_files(experiment: Experiment) -> list[Path]:
    paths = [Path(experiment.data.tokenizer) / name for name in TOKENIZER_FILES]
    return [path for path in paths if path.exists()]


def _json(values: dict[str, object]) -> bytes:
    return json.dumps(values, indent=2, sort_keys=True).encode() + b"\n"
