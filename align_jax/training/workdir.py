"""A workdir is also a model folder: what it needs besides the checkpoints is written before the first step."""

import json
import shutil
from pathlib import Path

from align_jax.configuration import ConfigurationError
from align_jax.data.text import Tokenizer
from align_jax.training.experiment import Experiment

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


def prepare_workdir(experiment: Experiment, workdir: Path) -> Tokenizer:
    """Writes `experiment.json`, `config.json`, the tokenizer's files and `preprocessor_config.json`.

    Raises:
        ConfigurationError: if the tokenizer has more tokens than the model, or the workdir belongs to another model.
    """
    tokenizer = Tokenizer(experiment.data.tokenizer)
    config = experiment.task.model
    if tokenizer.vocab_size > config.text_config.vocab_size:
        raise ConfigurationError(
            f"the tokenizer in {experiment.data.tokenizer} has {tokenizer.vocab_size} tokens but the text tower has "
            f"vocab_size {config.text_config.vocab_size}; train a smaller vocabulary or raise vocab_size"
        )
    earlier = workdir / "experiment.json"
    if earlier.exists() and Experiment.from_json(earlier).task.model != config:
        raise ConfigurationError(
            f"{workdir} holds a run of another model; give another workdir, or the configuration it was made with"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    experiment.to_json(earlier)
    config.to_json(workdir)
    for name in TOKENIZER_FILES:
        source = Path(experiment.data.tokenizer) / name
        if source.exists():
            shutil.copyfile(source, workdir / name)
    preprocessor = _preprocessor(experiment.data.transform.resize_px, experiment.data.transform.crop_px)
    (workdir / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    return tokenizer


def _preprocessor(resize_px: int, crop_px: int) -> dict[str, object]:
    """The settings of the released model's image processor, with this run's sizes."""
    return {
        "image_processor_type": "EfficientNetImageProcessor",
        "processor_class": "AlignProcessor",
        "do_resize": True,
        "size": {"height": resize_px, "width": resize_px},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": crop_px, "width": crop_px},
        "do_rescale": True,
        "rescale_factor": 1 / 127.5,
        "rescale_offset": True,
        "do_normalize": False,
        "include_top": False,
    }
