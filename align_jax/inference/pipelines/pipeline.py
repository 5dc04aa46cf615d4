"""`pipeline`: the function of `transformers`, for the two tasks that these models are for."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from align_jax.checkpoints import Weights
from align_jax.configuration import AlignConfig
from align_jax.conversion.model_folder import read_model
from align_jax.conversion.sources import local_path
from align_jax.data.preprocessing import Preprocessing
from align_jax.data.text import Tokenizer
from align_jax.inference.classifier import Classifier
from align_jax.inference.classifier_facade import EfficientNetForImageClassification, ViTForImageClassification
from align_jax.inference.embedder import Embedder
from align_jax.inference.facade import AlignModel
from align_jax.inference.model_inputs import InputError
from align_jax.inference.pipelines.image_classification import ImageClassificationPipeline
from align_jax.inference.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline
from align_jax.inference.text_length import pipeline_text_length

ZERO_SHOT = ZeroShotImageClassificationPipeline.task
IMAGE_CLASSIFICATION = ImageClassificationPipeline.task
TASKS = (ZERO_SHOT, IMAGE_CLASSIFICATION)

_WITHOUT_EFFECT = {"device", "device_map", "use_fast", "token", "trust_remote_code", "framework"}


def pipeline(
    task: str | None = None,
    model: Any = None,
    *,
    tokenizer: Any = None,
    image_processor: Any = None,
    processor: Any = None,
    batch_size: int = 1,
    dtype: Any = "float32",
    revision: str | None = None,
    weights: Weights = "ema",
    **settings: Any,
) -> Any:
    """Makes what classifies images; calls and results are those of the pipelines of `transformers`.

        classify = pipeline("zero-shot-image-classification", model="kakaobrain/align-base")
        classify(["cat.jpg", "dog.jpg"], candidate_labels=["cat", "dog"], hypothesis_template="a photo of a {}")

    Args:
        task: "zero-shot-image-classification", for ALIGN models; or "image-classification", for Vision Transformers
            and EfficientNets with classes of their own. Where it is absent, the model decides.
        model: a model folder in our form or in that of `transformers`, the workdir of a training run, an id of the
            Hub; an `Embedder` or a `Classifier`; or an `AlignModel`, `ViTForImageClassification` or
            `EfficientNetForImageClassification`, which need an image processor (and a tokenizer) beside them.
        tokenizer: a folder that holds one, or one of `transformers`; that of the model's folder when absent.
        image_processor: a folder that holds its settings, or one of `transformers`; likewise.
        processor: both in one.
        batch_size: images that the model takes at once, rounded up to a multiple of the devices. Results do not depend
            on it.
        dtype: "float32" or "bfloat16".
        revision: branch, tag or commit on the Hub.
        weights: of a workdir: "ema" for the averaged parameters where there are any, "raw" for the last ones.
        settings: arguments of the pipeline's class, such as `hypothesis_template` or `urls`. `device`, `device_map`,
            `use_fast`, `token` and `trust_remote_code` are accepted and have no effect: JAX decides where it computes.

    Raises:
        KeyError: if there is no such task.
        FileNotFoundError: if there is no such model.
        ValueError: if the model cannot do the task, or anything of it is missing or damaged.
        TypeError: if the pipeline has no such setting.
    """
    if model is None:
        raise ValueError("there is no model; give a model folder, or a model on the Hub such as kakaobrain/align-base")
    if task is not None and task not in TASKS:
        raise KeyError(f"Unknown task {task}, available tasks are {list(TASKS)}")
    settings = {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT}
    tokenizer = tokenizer if processor is None or tokenizer is not None else processor.tokenizer
    image_processor = image_processor if processor is None or image_processor is not None else processor.image_processor
    devices = jax.device_count()
    size = -(-max(batch_size, 1) // devices) * devices
    name = "float32" if dtype in (None, "auto") else str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")
    if not isinstance(model, Embedder | Classifier):
        options = {"batch_size": size, "dtype": name}
        model = _runner(task, model, tokenizer, image_processor, options, revision, weights)
    if isinstance(model, Embedder):
        _require(task, ZERO_SHOT, "an ALIGN model, which has no classes of its own; give it candidate_labels")
        return ZeroShotImageClassificationPipeline(model, batch_size=batch_size, **settings)
    _require(task, IMAGE_CLASSIFICATION, "a classifier, whose classes are its own")
    return ImageClassificationPipeline(model, batch_size=batch_size, **settings)


def _runner(
    task: str | None,
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    options: dict[str, Any],
    revision: str | None,
    weights: Weights,
) -> Embedder | Classifier:
    """What runs the model: of a folder, or of a model that is in memory."""
    folder = None
    if isinstance(model, AlignModel | ViTForImageClassification | EfficientNetForImageClassification):
        config, variables = model.config, model.variables
    else:
        read = read_model(model, model_type="align" if task == ZERO_SHOT else None, revision=revision, weights=weights)
        config, variables, folder = read.config, read.variables, read.folder
    if not isinstance(config, AlignConfig):
        return Classifier(config, variables, _preprocessing(image_processor, folder), **options)
    return Embedder(
        config,
        variables,
        _tokenizer(tokenizer, folder),
        _preprocessing(image_processor, folder),
        text_length=pipeline_text_length(folder, config),
        **options,
    )


def _require(task: str | None, possible: str, kind: str) -> None:
    if task not in (None, possible):
        raise ValueError(f"{task} is not for this model, which is {kind}; use the task {possible!r}")


def _tokenizer(given: Any, folder: Path | None) -> Tokenizer:
    """The tokenizer of a folder, or the one of `transformers` that is given."""
    given = folder if given is None else given
    if given is None:
        raise InputError("the model brings no tokenizer; give tokenizer=… or processor=…, or the model's folder")
    if isinstance(given, str | Path):
        return Tokenizer(local_path(given))
    with tempfile.TemporaryDirectory() as temporary:
        given.save_pretrained(temporary)
        return Tokenizer(temporary)


def _preprocessing(given: Any, folder: Path | None) -> Preprocessing:
    """The image settings of a folder, or those of the image processor of `transformers` that is given."""
    given = folder if given is None else given
    if given is None:
        raise InputError("the model brings no image processor; give image_processor=… or processor=…, or its folder")
    if isinstance(given, Preprocessing):
        return given
    if isinstance(given, str | Path):
        return Preprocessing.from_folder(local_path(given))
    return Preprocessing.from_dict(given.to_dict())
