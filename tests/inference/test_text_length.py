"""Texts are cut to what was trained; without a training, embeddings and pipelines have a rule each."""

import json

import pytest

from align_jax import AlignConfig
from align_jax.inference.text_length import pipeline_text_length, text_length_of


@pytest.mark.parametrize(
    ("positions", "trained", "embedded", "classified"),
    [(512, None, 64, 512), (40, None, 40, 40), (512, 32, 32, 32), (512, 128, 128, 128)],
)
def test_length_of_the_training_comes_first(positions, trained, embedded, classified, tmp_path):
    text_config = AlignConfig.tiny().text_config.to_dict() | {"max_position_embeddings": positions}
    config = AlignConfig.from_dict(AlignConfig.tiny().to_dict() | {"text_config": text_config})
    if trained is not None:
        (tmp_path / "experiment.json").write_text(json.dumps({"data": {"text_length": trained}}))
    assert text_length_of(tmp_path, config) == embedded
    assert pipeline_text_length(tmp_path, config) == classified
    assert pipeline_text_length(None, config) == positions
