"""Converts a model from one form to another, whole or not at all, and proves on request that nothing changed."""

import shutil
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from align_jax.conversion.model_folder import (
    EachTensor,
    OpenModel,
    open_model,
    require_in_transformers,
    write_flax,
    write_hf,
)
from align_jax.conversion.readers.tensorflow import TensorflowCheckpoint
from align_jax.conversion.report import ConversionReport
from align_jax.conversion.rules import from_flax
from align_jax.conversion.verify import TOLERANCE, LayerDifference, compare_layers, format_table
from align_jax.data.preprocessing import PREPROCESSOR_FILE, Preprocessing
from align_jax.files import new_folder
from align_jax.json_config import ConfigurationError
from align_jax.progress import progress

Form = Literal["flax", "hf"]

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_TEXT_MODELS = ("align", "align_text_model", "bert")
_IMAGE_MODELS = ("align", "align_vision_model", "efficientnet", "vit")


class DisagreementError(RuntimeError):
    """The converted model computes something else than its source; nothing was kept."""


def convert(
    source: str | Path,
    output: Path,
    *,
    to: Form = "flax",
    param_dtype: Any = jnp.float32,
    verify: bool = False,
    revision: str | None = None,
    console: Console | None = None,
) -> ConversionReport:
    """Converts a model and prints the report.

    Args:
        source: a folder, a weight file with `config.json` beside it, or an id of the Hub.
        output: the folder to make; it appears when everything in it is written.
        to: our own form, or that of `transformers`.
        param_dtype: of the parameters that the model does not keep in float32.
        verify: whether to compare every layer with `transformers`' model in torch.
        revision: branch, tag or commit on the Hub.
        console: where to show progress and report; standard output if None.

    Raises:
        DisagreementError: if a layer differs by more than the tolerance.
        ValueError, FileNotFoundError: if the source is damaged or does not fit, or the output exists.
    """
    console = console or Console()
    opened = open_model(source, revision=revision)
    if output.resolve().is_relative_to(opened.folder.resolve()):
        raise ValueError(f"{output} lies inside the source; give a folder outside of {opened.folder}")
    if to == "hf":
        require_in_transformers(opened.config)
    preprocessing = _preprocessing(opened)
    target = opened.architecture.abstract_variables(opened.config, param_dtype)
    report = ConversionReport(str(source), opened.form, str(output), to, opened.config.model_type, opened.table, target)
    with new_folder(output, opened.size_bytes(param_dtype)) as folder:
        variables = _convert_weights(opened, folder, to, param_dtype, report, console)
        _copy_companions(opened, folder, preprocessing, report)
        report.write(folder)
        if verify:
            with console.status("comparing every layer with torch"):
                differences = _verify(opened, folder, variables, param_dtype, report)
            console.print(format_table(differences), highlight=False, soft_wrap=True)
            _require_agreement(differences, output)
    console.print(report.summary(), highlight=False, soft_wrap=True)
    return report


def _convert_weights(
    opened: OpenModel, folder: Path, to: Form, param_dtype: Any, report: ConversionReport, console: Console
) -> dict[str, Any]:
    """Writes configuration and weights, and returns the variables."""
    with progress(f"converting {opened.folder.name}", opened.bytes_to_read(param_dtype), console) as advance:

        def observe(name: str, tensor: np.ndarray) -> None:
            report.add(name, tensor)
            advance(tensor.nbytes)

        named = opened.tensors is not None
        variables = opened.read(
            param_dtype, observe if named else None, lambda path, reason: report.left_out({path: reason})
        )
        if opened.tensors is not None:
            report.ignore(opened.tensors)
        if isinstance(opened.tensors, TensorflowCheckpoint):
            report.left_out(opened.tensors.ignored)
        if to == "hf":
            write_hf(opened.config, variables, folder, observe=None if named else observe)
            return variables
        if not named:
            table, target = opened.architecture.table, opened.architecture.abstract_variables(opened.config)
            for name, tensor in from_flax(variables, table, target, casting="keep").items():
                observe(name, tensor)
        write_flax(opened.config, variables, folder)
    return variables


def _preprocessing(opened: OpenModel) -> Preprocessing | None:
    """What the model's images go through, if it has any and its folder says."""
    if opened.config.model_type not in _IMAGE_MODELS:
        return None
    try:
        return Preprocessing.from_folder(opened.folder)
    except FileNotFoundError:
        # A checkpoint of the released trainer comes without the file, but its resize is known.
        return Preprocessing("tf") if opened.form == "tensorflow" else None
    except ConfigurationError as error:
        raise ConfigurationError(f"{opened.folder / PREPROCESSOR_FILE}: {error}") from None


def _copy_companions(
    opened: OpenModel, folder: Path, preprocessing: Preprocessing | None, report: ConversionReport
) -> None:
    """Copies what makes the model's inputs, and notes what is not there."""
    found = [name for name in TOKENIZER_FILES if (opened.folder / name).is_file()]
    for name in found:
        shutil.copyfile(opened.folder / name, folder / name)
    if not found and opened.config.model_type in _TEXT_MODELS:
        report.absent_files.append("tokenizer files")
    if preprocessing is not None:
        preprocessing.to_folder(folder)
    elif opened.config.model_type in _IMAGE_MODELS:
        report.absent_files.append(PREPROCESSOR_FILE)


def _verify(
    opened: OpenModel, folder: Path, variables: dict[str, Any], param_dtype: Any, report: ConversionReport
) -> list[LayerDifference]:
    """Compares source and output: torch reads the one in the form of `transformers`, we read the other."""
    written = open_model(folder)
    if written.tensors is not None:
        return compare_layers(opened.config, written.tensors, variables)
    ours = written.read(param_dtype)
    if opened.form in ("safetensors", "pytorch"):
        # Rounded as the output is: what is proven is that nothing else happened.
        types = {one.name: one.written for one in report.converted}
        reference = EachTensor(opened.tensors or {}, lambda name, tensor: tensor.astype(types.get(name, tensor.dtype)))
        return compare_layers(opened.config, reference, ours)
    table, target = opened.architecture.table, opened.architecture.abstract_variables(opened.config)
    return compare_layers(opened.config, from_flax(variables, table, target, casting="keep"), ours)


def _require_agreement(differences: list[LayerDifference], output: Path) -> None:
    """Refuses an output whose worst layer is off."""
    worst = differences[0]
    if not worst.relative <= TOLERANCE:
        raise DisagreementError(
            f"{worst.layer} differs by {worst.relative:.2e} of its largest value, more than {TOLERANCE:g}; "
            f"{output} was not written"
        )
