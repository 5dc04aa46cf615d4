"""The Vision Transformer's configuration: the files of `transformers`, and sizes as published."""

import dataclasses
from typing import Any

import pytest
import transformers

from align_jax.configuration import AlignConfig, AlignTextConfig, ConfigurationError, ViTConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.vit import abstract_variables
from align_jax.parallel.sharding import parameter_count

THOUSAND = numbered_labels(1000)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (ViTConfig.ti(id2label=THOUSAND), 5_717_416),
        (ViTConfig.small(id2label=THOUSAND), 22_050_664),
        (ViTConfig.base(id2label=THOUSAND), 86_567_656),
        (ViTConfig.base(id2label=THOUSAND, patch_size=32), 88_224_232),
        (ViTConfig.large(id2label=THOUSAND), 304_326_632),
        (ViTConfig.large(id2label=THOUSAND, image_size=384), 304_715_752),
        (ViTConfig.huge(id2label=THOUSAND), 632_045_800),
    ],
)
def test_sizes_have_the_published_number_of_parameters(config: ViTConfig, parameters: int) -> None:
    assert parameter_count(abstract_variables(config)) == parameters


@pytest.mark.parametrize(
    "config",
    [
        ViTConfig.tiny(id2label=("cat", "dog"), problem_type="multi_label_classification"),
        ViTConfig.tiny(id2label=numbered_labels(2), position_interpolation="linear"),
        ViTConfig.tiny(id2label=("a",), representation_size=7),
        ViTConfig.tiny(representation_size=32),
        ViTConfig.tiny(representation_size=16, pooler_act="relu"),
        ViTConfig.tiny(),
        ViTConfig.coyo_large(),
    ],
)
def test_files_come_back_as_they_were(config: ViTConfig) -> None:
    assert ViTConfig.from_dict(config.to_dict()) == config
    theirs = transformers.ViTConfig.from_dict(config.to_dict())
    if not config.own_fields and (config.representation_size or config.id2label):
        assert ViTConfig.from_dict(theirs.to_dict()) == dataclasses.replace(config)


def test_files_of_transformers_mean_what_they_mean_there() -> None:
    tower = ViTConfig.from_dict({"model_type": "vit", "image_size": [384, 384]})
    assert (tower.image_size, tower.representation_size, tower.feature_size) == (384, 768, 768)
    named = {"architectures": ["ViTForImageClassification"], "num_labels": 3}
    classifier = ViTConfig.from_dict(named)
    assert (classifier.id2label, classifier.representation_size) == (numbered_labels(3), None)


def test_align_takes_it_as_its_image_tower() -> None:
    config = AlignConfig.of_towers(ViTConfig.tiny(), AlignTextConfig.tiny(), projection_dim=16)
    assert config.image_projection
    assert AlignConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigurationError, match="classifier"):
        AlignConfig.of_towers(ViTConfig.tiny(id2label=("a", "b")), AlignTextConfig.tiny())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"hidden_size": 33}, "not divisible"),
        ({"image_size": 8, "patch_size": 16}, "smaller than a patch"),
        ({"image_size": [224, 192]}, "only squares"),
        ({"hidden_act": "nonsense"}, "hidden_act 'nonsense'"),
        ({"problem_type": "nonsense"}, "problem_type 'nonsense'"),
        ({"position_interpolation": "cubic"}, "position_interpolation 'cubic'"),
        ({"num_channels": 1}, "num_channels"),
        ({"pooler_output_size": "wide"}, "pooler_output_size"),
        ({"depth": 3}, "no field 'depth'"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        ViTConfig.from_dict(values)
