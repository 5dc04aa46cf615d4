"""`load_model` opens what `Align.apply` needs from every kind of model folder."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from align_jax import AlignTextModel, load_model
from tests.inference.tiny_align import CONFIG, TOLERANCE, images, reference_model, reference_variables, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "align")


def test_opens_a_folder_of_transformers(folder: Path) -> None:
    module, variables, tokenizer = load_model(folder)
    assert module.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, variables, reference_variables())
    input_ids, attention_mask = tokenizer.encode(["a photo of a cat"], 64)
    text = jax.jit(module.apply)(variables, images(1).transpose(0, 2, 3, 1), input_ids, attention_mask).text
    with torch.no_grad():
        theirs = reference_model().get_text_features(
            torch.from_numpy(input_ids).long(), torch.from_numpy(attention_mask).long()
        )
    expected = torch.nn.functional.normalize(theirs.pooler_output).numpy()
    assert np.max(np.abs(text - expected)) <= TOLERANCE


def test_towers_and_missing_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    AlignTextModel.from_pretrained(folder).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="'align_text_model', not 'align'"):
        load_model(tmp_path / "text")
    with pytest.raises((ValueError, FileNotFoundError), match="nothing"):
        load_model(tmp_path / "nothing")
