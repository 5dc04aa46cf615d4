"""Vision Transformers convert both ways, from files of all releases and from memory."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from align_jax.cli import main
from align_jax.configuration import AlignConfig, AlignTextConfig, ViTConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.model_folder import read_model, write_flax
from align_jax.conversion.vit import release_5_name
from align_jax.inference.initialization import random_variables
from tests.models.reference import reference_model, tensors_of, variables_of

CONFIG = ViTConfig.tiny(id2label=numbered_labels(7))


@pytest.mark.parametrize("config", [CONFIG, ViTConfig.tiny(representation_size=32)], ids=["classifier", "tower"])
def test_there_and_back_is_bit_equal(config: ViTConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = reference_model(config)
    source, ours, back = (tmp_path / name for name in ("source", "ours", "back"))
    model.save_pretrained(source)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(source)
    capsys.readouterr()
    assert main(["convert", str(source), str(ours), "--verify"]) == 0
    assert "all agree" in capsys.readouterr().out
    assert main(["convert", str(ours), str(back), "--to", "hf"]) == 0
    expected, found = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == tensor.tobytes() for name, tensor in expected.items())
    _, loading = type(model).from_pretrained(back, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    settings = transformers.ViTImageProcessorPil.from_pretrained(back)
    assert (settings.size["height"], settings.resample) == (32, 2)


def test_names_in_memory_are_read_too(tmp_path: Path) -> None:
    """`state_dict` of release 5 has other names than its files."""
    model = reference_model(CONFIG)
    model.save_pretrained(tmp_path)
    on_disk = load_file(tmp_path / "model.safetensors")
    in_memory = tensors_of(model)
    assert in_memory.keys() != on_disk.keys()
    assert {release_5_name(name) for name in on_disk} == in_memory.keys()
    jax.tree.map(np.testing.assert_array_equal, variables_of(CONFIG, in_memory), read_model(tmp_path).variables)


def test_the_token_of_masked_patches_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference_model(CONFIG).save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "model.safetensors"
    save_file(load_file(path) | {"vit.embeddings.mask_token": np.zeros((1, 1, 32), np.float32)}, path)
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "ours")]) == 0
    assert "masked patches" in (tmp_path / "ours" / "conversion.json").read_text()
    del capsys


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ViTConfig.tiny(id2label=numbered_labels(3), representation_size=8), "representation_size"),
        (AlignConfig.of_towers(ViTConfig.tiny(), AlignTextConfig.tiny(), projection_dim=32), "Vision Transformer"),
    ],
)
def test_what_transformers_would_compute_without_is_not_written_for_it(
    config: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    variables = random_variables(config, seed=0)
    write_flax(config, variables, tmp_path / "mine")
    jax.tree.map(np.testing.assert_array_equal, read_model(tmp_path / "mine").variables, variables)
    assert main(["convert", str(tmp_path / "mine"), str(tmp_path / "other"), "--to", "hf"]) == 2
    assert reason in capsys.readouterr().err
