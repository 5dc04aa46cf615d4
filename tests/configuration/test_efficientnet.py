"""EfficientNet's configuration: the JSON of `transformers`, labels, our own fields, and the published sizes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from align_jax.configuration import AlignVisionConfig, ConfigurationError, EfficientNetConfig
from align_jax.configuration.labels import numbered_labels
from align_jax.conversion.efficientnet import abstract_variables
from align_jax.parallel.sharding import parameter_count

SMALL = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "image_size": 33, "hidden_dim": 128}
OWN_FIELDS = {"squeeze_excite", "fixed_stem_and_top", "stem_padding"}
CONFIGS = {
    "tiny": EfficientNetConfig.tiny(),
    "b2_two_unnamed_labels": EfficientNetConfig.b2(id2label=numbered_labels(2)),
    "b5_labels_of_one_name": EfficientNetConfig.b5(id2label=("crane", "tench", "crane"), dropout_rate=0.1),
    "lite3": EfficientNetConfig.lite3(),
    "lite0_two_unnamed_labels": EfficientNetConfig.lite0(id2label=numbered_labels(2)),
    "lite4_odd": EfficientNetConfig.lite4(image_size=301, id2label=("cat",)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_json_round_trip_keeps_every_field(config: EfficientNetConfig, tmp_path: Path) -> None:
    config.to_json(tmp_path)
    assert EfficientNetConfig.from_json(tmp_path) == config


def test_reads_what_transformers_writes(tmp_path: Path) -> None:
    theirs = transformers.EfficientNetConfig(
        **SMALL, depthwise_padding=[5, 8], dropout_rate=0.3, hidden_act="gelu", pooling_type="max", batch_norm_eps=1e-5
    )
    theirs.save_pretrained(tmp_path)
    assert EfficientNetConfig.from_json(tmp_path) == EfficientNetConfig(
        **SMALL, depthwise_padding=(5, 8), dropout_rate=0.3, hidden_act="gelu", pooling_type="max", batch_norm_eps=1e-5
    )
    assert EfficientNetConfig.from_dict(theirs.to_dict()).id2label == ()


def test_defaults_are_those_of_transformers() -> None:
    assert EfficientNetConfig() == EfficientNetConfig.from_dict(transformers.EfficientNetConfig().to_dict())


@pytest.mark.parametrize(
    ("build", "labels", "expected"),
    [
        (transformers.EfficientNetModel, {}, ()),
        (transformers.EfficientNetModel, {"num_labels": 3}, ()),
        (transformers.EfficientNetForImageClassification, {}, ("LABEL_0", "LABEL_1")),
        (transformers.EfficientNetForImageClassification, {"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        (transformers.EfficientNetForImageClassification, {"num_labels": 0}, ()),
        (transformers.EfficientNetForImageClassification, {"id2label": {i: f"n{i}" for i in range(12)}},
         tuple(f"n{i}" for i in range(12))),
    ],
)  # fmt: skip
def test_labels_are_those_of_the_saved_classifier(
    build: Any, labels: dict[str, Any], expected: tuple[str, ...], tmp_path: Path
) -> None:
    with torch.device("meta"):
        model = build(transformers.EfficientNetConfig(**SMALL, **labels))
    model.config.architectures = [build.__name__]  # as `save_pretrained` does, which would write the weights too
    model.config.save_pretrained(tmp_path)
    assert EfficientNetConfig.from_json(tmp_path).id2label == expected


def test_number_of_labels_stands_for_labels_without_names() -> None:
    classifier = {"architectures": ["EfficientNetForImageClassification"]}
    assert EfficientNetConfig.from_dict(classifier | {"num_labels": 3}).id2label == numbered_labels(3)
    assert EfficientNetConfig.from_dict({"num_labels": 3}).id2label == numbered_labels(3)
    assert EfficientNetConfig.from_dict({"num_labels": 1, "id2label": {"0": "cat"}}).id2label == ("cat",)


@pytest.mark.parametrize("name", ["tiny", "b2_two_unnamed_labels", "b5_labels_of_one_name"])
def test_transformers_reads_what_we_write(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    config.to_json(tmp_path)
    ours = json.loads((tmp_path / "config.json").read_text())
    assert not OWN_FIELDS & ours.keys()
    read = transformers.EfficientNetConfig.from_pretrained(tmp_path)
    theirs = json.loads(read.to_json_string(use_diff=False))
    assert {field: theirs[field] for field in ours} == ours
    if config.id2label:
        assert [read.id2label[index] for index in range(read.num_labels)] == list(config.id2label)


def test_own_fields_are_written_where_plain_efficientnet_differs() -> None:
    written = EfficientNetConfig.lite0(image_size=225).to_dict()
    assert {name: written[name] for name in OWN_FIELDS} == {
        "squeeze_excite": False, "fixed_stem_and_top": True, "stem_padding": "symmetric",
    }  # fmt: skip
    assert EfficientNetConfig.b0().own_fields == {}
    assert EfficientNetConfig.tiny(squeeze_excite=False).own_fields == {"squeeze_excite": False}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"include_top": True, "se_ratio": 1}, "EfficientNetConfig has no field 'include_top', 'se_ratio'"),
        ({"num_labels": "3"}, "EfficientNetConfig.num_labels is '3', which is not a number of classes"),
        ({"num_labels": 3, "id2label": {"0": "a"}}, "num_labels is 3, but id2label has 1 classes; remove one of them"),
        ({"image_size": [224, 256]}, "EfficientNetConfig.image_size is [224, 256], which is not of type int"),
        ({"model_type": "align_vision_model"}, "but EfficientNetConfig reads 'efficientnet'"),
        ({"squeeze_excite": 0}, "EfficientNetConfig.squeeze_excite is 0, which is not of type bool"),
        ({"stem_padding": "same"}, "stem_padding 'same' is not supported; use one of ('asymmetric', 'symmetric')"),
        ({"dropout_rate": 1.5}, "dropout_rate is 1.5, but it must be between 0 and 1"),
        ({"drop_connect_rate": -1}, "drop_connect_rate is -1.0, but it must be between 0 and 1"),
        ({"is_decoder": True}, "supports only is_decoder False"),
        ({"id2label": ["cat"]}, "EfficientNetConfig.id2label is ['cat'], which is not a JSON object"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "id2label has no name for class 1; it must name all of its 3"),
        ({"id2label": {"0": "a", "1": 7}}, "id2label has no name for class 1; it must name all of its 2 classes"),
        ({"architectures": 3}, "EfficientNetConfig.architectures is 3, which is not a list of names"),
        ({"hidden_dim": 1280}, "the top convolution is 2560 wide at width_coefficient 2.0; use hidden_dim 2560"),
        ({"fixed_stem_and_top": True}, "hidden_dim is 2560, but the top convolution is 1280 wide"),
        ({"fixed_stem_and_top": True, "in_channels": [40, 16, 24, 40, 80, 112, 192]}, "from the stem's 32"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        EfficientNetConfig.from_dict(values)


def runs_in_transformers(config: AlignVisionConfig) -> bool:
    model = transformers.AlignVisionModel(transformers.AlignVisionConfig.from_dict(config.to_dict())).eval()
    try:
        model(torch.zeros(1, 3, config.image_size, config.image_size))
    except RuntimeError:
        return False
    return True


def test_pooling_windows_that_transformers_cannot_use_are_refused() -> None:
    config = AlignVisionConfig.tiny(image_size=37, hidden_dim=9)  # 37 px give 18, and then 9 positions
    assert runs_in_transformers(config)
    object.__setattr__(config, "hidden_dim", 8)
    assert not runs_in_transformers(config)
    with pytest.raises(ConfigurationError, match=r"hidden_dim 8 .* ends in a larger map, 9 x 9; use hidden_dim 32"):
        AlignVisionConfig.tiny(image_size=37, hidden_dim=8)


def test_images_that_shrink_to_nothing_are_refused() -> None:
    config = AlignVisionConfig.tiny(image_size=4)
    assert runs_in_transformers(config)
    object.__setattr__(config, "image_size", 3)
    assert not runs_in_transformers(config)
    with pytest.raises(
        ConfigurationError, match=r"image_size 3 .* nothing is left after 2 strides of 2; use 4 or more"
    ):
        AlignVisionConfig.tiny(image_size=3)


# Parameters as published with the weights of torchvision, and of Lite as 4.7, 5.4, 6.1, 8.2 and 13.0 million; padding
# as in the configurations of google/efficientnet-b0 … b7, and of Lite counted by hand.
SIZES = {
    "b0": (5_288_548, 224, 0.2, 1280, ()),
    "b1": (7_794_184, 240, 0.2, 1280, (16,)),
    "b2": (9_109_994, 260, 0.3, 1408, (5, 8, 16)),
    "b3": (12_233_232, 300, 0.3, 1536, (5, 18)),
    "b4": (19_341_616, 380, 0.4, 1792, (6,)),
    "b5": (30_389_784, 456, 0.4, 2048, (13, 27)),
    "b6": (43_040_704, 528, 0.5, 2304, (31,)),
    "b7": (66_347_960, 600, 0.5, 2560, (18,)),
    "lite0": (4_652_008, 224, 0.2, 1280, ()),
    "lite1": (5_416_680, 240, 0.2, 1280, (15,)),
    "lite2": (6_092_072, 260, 0.3, 1280, (4, 7, 15)),
    "lite3": (8_197_096, 280, 0.3, 1280, (7,)),
    "lite4": (13_006_568, 300, 0.3, 1280, (5, 21)),
}


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_have_the_published_numbers(size: str) -> None:
    parameters, image_size, dropout_rate, hidden_dim, depthwise_padding = SIZES[size]
    config = getattr(EfficientNetConfig, size)()
    assert (config.image_size, config.dropout_rate, config.drop_connect_rate) == (image_size, dropout_rate, 0.2)
    assert config.hidden_dim == config.feature_size == hidden_dim
    assert config.depthwise_padding == depthwise_padding
    assert f"{parameters:,}" in (EfficientNetConfig.__doc__ or "")


@pytest.mark.parametrize("size", ["b0", "lite0", "lite2", "lite4"])
def test_classifiers_have_the_published_number_of_parameters(size: str) -> None:
    config = getattr(EfficientNetConfig, size)(id2label=numbered_labels(1000))
    assert parameter_count(abstract_variables(config)["params"]) == SIZES[size][0]


@pytest.mark.parametrize("size", [size for size in SIZES if size.startswith("b")])
def test_published_numbers_are_those_of_the_tower_the_top_and_the_classifier(size: str) -> None:
    # tests/test_configuration.py counts the towers.
    tower = re.search(rf"{size}\s+([0-9,]+)", AlignVisionConfig.__doc__ or "")
    assert tower is not None
    tower_width, width = AlignVisionConfig.efficientnet(size).feature_size, SIZES[size][3]
    top, classifier = (tower_width + 2) * width, (width + 1) * 1000
    assert int(tower[1].replace(",", "")) + top + classifier == SIZES[size][0]


def test_padding_of_a_named_size_follows_its_image_size() -> None:
    assert EfficientNetConfig.b0(image_size=300).depthwise_padding == (3, 11)  # 75 and 19 positions
    assert EfficientNetConfig.b0(image_size=300, depthwise_padding=()).depthwise_padding == ()
    assert EfficientNetConfig.b0(image_size=289).depthwise_padding == ()  # 144, 72, 36, 18
    assert EfficientNetConfig.lite0(image_size=289).depthwise_padding == (1, 3, 5, 11)  # 145, 73, 37 and 19
    assert EfficientNetConfig.b0(width_coefficient=0.5).hidden_dim == 640
    assert EfficientNetConfig.lite0(image_size=289).stem_padding == "symmetric"
    assert EfficientNetConfig.lite0(image_size=288).stem_padding == "asymmetric"
    assert EfficientNetConfig.efficientnet("l2").hidden_dim == 5504
