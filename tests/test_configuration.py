"""Configurations read and write the JSON of `transformers`, strictly, and the named sizes have the published sizes."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import pytest
import transformers

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, ConfigurationError
from align_jax.conversion import align, bert, efficientnet

ALIGN_SIZES = {
    size.__name__: size
    for size in (
        AlignConfig.b7_base, AlignConfig.b7_large, AlignConfig.b5_base, AlignConfig.b3_mini, AlignConfig.b1_mini,
        AlignConfig.l2_large, AlignConfig.tiny,
    )
}  # fmt: skip

# Written by every 4.x release around the fields that matter.
LEGACY_FIELDS = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": ["AlignModel"], "bad_words_ids": None,
    "bos_token_id": None, "chunk_size_feed_forward": 0, "do_sample": False, "id2label": {"0": "LABEL_0"},
    "is_decoder": False, "label2id": {"LABEL_0": 0}, "max_length": 20, "num_beams": 1, "output_attentions": False,
    "pruned_heads": {}, "temperature": 1.0, "tie_word_embeddings": True, "top_k": 50, "torch_dtype": "float32",
    "torchscript": False, "transformers_version": "4.37.2", "use_bfloat16": False,
}  # fmt: skip


def parameter_count(variables: dict[str, Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("size", ALIGN_SIZES.values(), ids=ALIGN_SIZES.keys())
def test_json_round_trip_keeps_every_field(size: Any, tmp_path: Path) -> None:
    config = size()
    config.to_json(tmp_path)
    assert AlignConfig.from_json(tmp_path) == config
    assert AlignConfig.from_json(tmp_path / "config.json") == config


def test_reads_what_transformers_writes(tmp_path: Path) -> None:
    theirs = transformers.AlignConfig(
        text_config={"hidden_size": 48, "num_attention_heads": 3, "hidden_dropout_prob": 0},
        vision_config={"image_size": 289, "depthwise_padding": [5, 8], "hidden_dim": 640},
        temperature_init_value=0.5,
    )
    theirs.save_pretrained(tmp_path)
    ours = AlignConfig.from_json(tmp_path)
    assert ours.text_config == AlignTextConfig(hidden_size=48, num_attention_heads=3, hidden_dropout_prob=0.0)
    assert ours.vision_config == AlignVisionConfig(image_size=289, depthwise_padding=(5, 8), hidden_dim=640)
    assert (ours.temperature_init_value, ours.projection_dim) == (0.5, 640)


@pytest.mark.parametrize("size", ALIGN_SIZES.values(), ids=ALIGN_SIZES.keys())
def test_transformers_reads_what_we_write(size: Any, tmp_path: Path) -> None:
    config = size(temperature_init_value=0.25)
    config.to_json(tmp_path)
    theirs = transformers.AlignConfig.from_pretrained(tmp_path).to_dict()
    ours = json.loads((tmp_path / "config.json").read_text())
    assert {name: theirs[name] for name in ours if name not in ("text_config", "vision_config")} == {
        name: value for name, value in ours.items() if name not in ("text_config", "vision_config")
    }
    for tower in ("text_config", "vision_config"):
        assert {name: theirs[tower][name] for name in ours[tower]} == ours[tower]


def test_released_model_has_only_the_fields_of_transformers() -> None:
    assert "image_projection" not in AlignConfig.b7_base().to_dict()
    assert AlignConfig.b3_mini().to_dict()["image_projection"] is True


def test_defaults_are_those_of_transformers() -> None:
    theirs = transformers.AlignConfig().to_dict()
    assert AlignConfig() == AlignConfig.from_dict(theirs)


def test_general_fields_of_old_files_are_ignored() -> None:
    values = AlignConfig.tiny().to_dict()
    for part in (values, values["text_config"], values["vision_config"]):
        part |= LEGACY_FIELDS
    values["text_config"] |= {"use_cache": True, "classifier_dropout": None}
    values["vision_config"] |= {"num_hidden_layers": 64}
    assert AlignConfig.from_dict(values) == AlignConfig.tiny()


def test_fields_left_out_have_their_default() -> None:
    assert AlignConfig.from_dict({"text_config": {"num_hidden_layers": 4}}).text_config.hidden_size == 768


def test_unknown_fields_are_all_named() -> None:
    with pytest.raises(ConfigurationError, match="AlignConfig has no field 'depth', 'widths'"):
        AlignConfig.from_dict({"widths": 3, "depth": 2})
    with pytest.raises(ConfigurationError, match="AlignTextConfig has no field 'rotary'"):
        AlignConfig.from_dict({"text_config": {"rotary": True}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_config": {"hidden_size": "768"}}, "AlignTextConfig.hidden_size is '768', which is not of type int"),
        ({"text_config": {"hidden_size": 768.5}}, "AlignTextConfig.hidden_size is 768.5"),
        ({"text_config": {"hidden_size": True}}, "AlignTextConfig.hidden_size is True"),
        ({"text_config": {"hidden_size": None}}, "AlignTextConfig.hidden_size is None"),
        ({"text_config": {"hidden_act": 3}}, "AlignTextConfig.hidden_act is 3"),
        ({"text_config": 3}, "AlignConfig.text_config is 3, not a JSON object"),
        ({"vision_config": {"strides": "1222121"}}, "AlignVisionConfig.strides is '1222121'"),
        ({"vision_config": {"strides": [1, 2, 2, 2, 1, 2, 1.0]}}, "AlignVisionConfig.strides"),
        ({"temperature_init_value": "1"}, "AlignConfig.temperature_init_value is '1', which is not of type float"),
        ({"image_projection": 1}, "AlignConfig.image_projection is 1, which is not of type bool"),
        ({"model_type": "clip"}, "model_type is 'clip', but AlignConfig reads 'align'"),
        ({"text_config": {"hidden_act": "swiglu"}}, "hidden_act 'swiglu' is not supported; use one of"),
        ({"text_config": {"position_embedding_type": "rotary"}}, "position_embedding_type 'rotary' is not supported"),
        ({"vision_config": {"pooling_type": "sum"}}, "pooling_type 'sum' is not supported"),
        ({"text_config": {"hidden_size": 770}}, "hidden_size 770 is not divisible by num_attention_heads 12"),
        ({"vision_config": {"strides": [1, 2]}}, "the stages differ in number: .*'strides': 2"),
        ({"vision_config": {"in_channels": [32, 16, 24, 40, 80, 112, 256]}}, "do not continue from the stem's 32"),
        ({"vision_config": {"in_channels": [16, 16, 24, 40, 80, 112, 192]}}, "do not continue from the stem's 32"),
        ({"projection_dim": 512}, "the image features are 640 wide and projection_dim is 512; set image_projection"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AlignConfig.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        *((name, value, "it must be positive") for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings", "type_vocab_size",
        ) for value in (0, -4)),
        *(("layer_norm_eps", value, "it must be positive") for value in (0.0, -1e-12, math.nan, math.inf)),
        *((name, value, "it must be between 0 and 1") for name in (
            "hidden_dropout_prob", "attention_probs_dropout_prob",
        ) for value in (-0.1, 1.5, math.nan)),
        ("initializer_range", -0.02, "it must be finite and not negative"),
        ("pad_token_id", -1, "it must be finite and not negative"),
    ],
)  # fmt: skip
def test_text_numbers_outside_their_limits_are_named(field: str, value: float, limit: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"AlignTextConfig: {field} is {value!r}, but {limit}")):
        AlignTextConfig.tiny(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        *((name, value, "it must be positive") for name in ("image_size", "depth_divisor", "hidden_dim")
          for value in (0, -8)),
        *((name, value, "it must be positive") for name in (
            "width_coefficient", "depth_coefficient", "squeeze_expansion_ratio", "batch_norm_eps",
        ) for value in (0.0, -1.0, math.nan, math.inf)),
        *((name, (1, value, 1), "every item must be positive") for name in (
            "in_channels", "out_channels", "num_block_repeats", "expand_ratios",
        ) for value in (0, -16)),
        *(("kernel_sizes", (3, value, 5), "every item must be odd and positive") for value in (4, 0, -3)),
        *(("strides", (1, value, 2), "every item must be 1 or 2") for value in (3, 0)),
        ("depthwise_padding", (0, -1), "every item must be finite and not negative"),
        *((name, value, "it must be between 0 and 1") for name in ("drop_connect_rate", "batch_norm_momentum")
          for value in (-0.1, 1.01, math.nan)),
        *(("num_channels", value, "it must be 3") for value in (1, 4, 0)),
        ("initializer_range", math.nan, "it must be finite and not negative"),
    ],
)  # fmt: skip
def test_image_numbers_outside_their_limits_are_named(field: str, value: Any, limit: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"AlignVisionConfig: {field} is {value!r}, but {limit}")):
        AlignVisionConfig.tiny(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("projection_dim", 0), ("temperature_init_value", 0.0), ("temperature_init_value", math.nan)]
)
def test_numbers_of_the_shared_space_outside_their_limits_are_named(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"AlignConfig: {field} is {value!r}, but it must be positive"):
        AlignConfig.tiny(**{field: value})


def test_all_numbers_outside_their_limits_are_named_together() -> None:
    with pytest.raises(ConfigurationError, match=r"vocab_size is 0, but .*; hidden_dropout_prob is 2\.0, but "):
        AlignTextConfig.tiny(vocab_size=0, hidden_dropout_prob=2.0)


def test_rates_and_limits_may_be_reached() -> None:
    AlignTextConfig.tiny(hidden_dropout_prob=1.0, attention_probs_dropout_prob=0.0, initializer_range=0.0)
    AlignVisionConfig.tiny(drop_connect_rate=1.0, batch_norm_momentum=0.0, kernel_sizes=(1, 3, 7))


def test_network_without_stages_is_refused() -> None:
    stages = ("kernel_sizes", "in_channels", "out_channels", "strides", "num_block_repeats", "expand_ratios")
    with pytest.raises(ConfigurationError, match=r"there is no stage: .*out_channels is \(\)"):
        AlignVisionConfig(**dict.fromkeys(stages, ()))


@pytest.mark.parametrize(
    ("field", "value", "neutral"),
    [
        ("is_decoder", True, "False"), ("add_cross_attention", True, "False"), ("pruned_heads", {"0": [1]}, "{}"),
        ("cross_attention_hidden_size", 64, "None"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", ["text_config", "vision_config", None])
def test_general_fields_that_change_the_computation_are_refused(
    part: str | None, field: str, value: Any, neutral: str
) -> None:
    values = {field: value} if part is None else {part: {field: value}}
    with pytest.raises(ConfigurationError, match=re.escape(f"supports only {field} {neutral} (it is {value!r}); use")):
        AlignConfig.from_dict(values)


def test_all_general_fields_that_change_the_computation_are_named_together() -> None:
    with pytest.raises(ConfigurationError, match=r"add_cross_attention False .*, is_decoder False"):
        AlignTextConfig.from_dict({"is_decoder": True, "add_cross_attention": True})


def test_general_fields_with_their_neutral_value_are_ignored() -> None:
    neutral = {
        "is_decoder": False, "add_cross_attention": False, "pruned_heads": {}, "cross_attention_hidden_size": None,
    }  # fmt: skip
    assert AlignTextConfig.from_dict(neutral) == AlignTextConfig()
    assert AlignTextConfig.from_dict(dict.fromkeys(neutral)) == AlignTextConfig()


def test_integers_stand_for_floats_and_lists_for_tuples() -> None:
    config = AlignVisionConfig.from_dict({"drop_connect_rate": 0, "depthwise_padding": [1, 2]})
    assert (config.drop_connect_rate, config.depthwise_padding) == (0.0, (1, 2))
    assert isinstance(config.drop_connect_rate, float)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist; give a folder that holds"):
        AlignConfig.from_json(tmp_path)
    path = tmp_path / "config.json"
    for content, message in (("{", "is not valid JSON"), ("[]", "holds a JSON list, not an object")):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=message):
            AlignConfig.from_json(path)


@pytest.mark.parametrize(
    ("size", "count", "width"),
    [
        ("b0", 3_595_388, 320), ("b1", 6_101_024, 320), ("b2", 7_202_562, 352), ("b3", 10_103_336, 384),
        ("b4", 16_742_216, 448), ("b5", 27_288_112, 512), ("b6", 39_403_992, 576), ("b7", 62_143_440, 640),
        ("l2", 467_219_796, 1376),
    ],
)  # fmt: skip
def test_image_towers_have_the_published_number_of_parameters(size: Any, count: int, width: int) -> None:
    config = AlignVisionConfig.efficientnet(size)
    assert parameter_count(efficientnet.abstract_variables(config)) == count
    assert (config.feature_size, config.hidden_dim, config.image_size) == (width, width, 289)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("mini", 11_170_560), ("small", 28_763_648), ("medium", 41_373_184), ("base", 109_482_240),
        ("large", 335_141_888),
    ],
)  # fmt: skip
def test_text_towers_have_the_published_number_of_parameters(size: str, count: int) -> None:
    config = getattr(AlignTextConfig, size)()
    assert parameter_count(bert.abstract_variables(config)) == count
    assert config.hidden_size == 64 * config.num_attention_heads
    assert f"{count:,}" in (AlignTextConfig.__doc__ or "")


def test_the_released_pair_has_the_published_number_of_parameters() -> None:
    assert parameter_count(align.abstract_variables(AlignConfig.b7_base())) == 172_117_841


@pytest.mark.parametrize(
    ("size", "image_projection", "width"),
    [("b7_base", False, 640), ("b5_base", True, 640), ("b3_mini", True, 640), ("l2_large", False, 1376)],
)
def test_only_pairs_of_unequal_width_have_an_image_projection(size: str, image_projection: bool, width: int) -> None:
    config = ALIGN_SIZES[size]()
    assert (config.image_projection, config.projection_dim) == (image_projection, width)


def test_named_sizes_take_other_fields() -> None:
    assert AlignTextConfig.tiny(hidden_size=48, num_hidden_layers=3).hidden_size == 48
    assert AlignVisionConfig.efficientnet("b0", image_size=224).image_size == 224
    assert dataclasses.replace(AlignConfig.tiny(), temperature_init_value=2.0).temperature_init_value == 2.0
