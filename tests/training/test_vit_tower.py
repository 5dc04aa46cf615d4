"""ALIGN with a Vision Transformer as its image tower trains, continues, and is a model folder like any other."""

import dataclasses

import numpy as np
import pytest

from align_jax.configuration import AlignConfig, AlignTextConfig, ViTConfig
from align_jax.inference.embedder import Embedder
from align_jax.training.experiment import Experiment
from align_jax.training.loop import train
from tests.training.test_loop import losses


@pytest.fixture
def patches(experiment):
    vision = ViTConfig.tiny(image_size=17, patch_size=4, hidden_dropout_prob=0.1)
    model = AlignConfig.of_towers(vision, AlignTextConfig.tiny(), projection_dim=16, temperature_init_value=0.2)
    task = dataclasses.replace(
        experiment.task, model=model, rematerialize=("image/layers",), accumulation=2, batch_norm_group_size=2
    )
    return dataclasses.replace(experiment, task=task, total_steps=12)


def test_a_vision_transformer_trains_as_an_image_tower(patches, tmp_path):
    train(patches, tmp_path)
    found = list(losses(tmp_path).values())
    assert len(found) == 12
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.05
    assert Experiment.from_json(tmp_path / "experiment.json") == patches
    embedder = Embedder.from_pretrained(tmp_path, batch_size=8)
    assert embedder.config == patches.task.model
    rng = np.random.default_rng(0)
    embeddings = embedder.images([rng.integers(0, 256, (30, 40, 3), np.uint8) for _ in range(3)])
    assert embeddings.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
