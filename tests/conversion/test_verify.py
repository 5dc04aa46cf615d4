"""The comparison with `transformers` covers every layer, finds what is altered, and refuses what it cannot compare."""

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.configuration import AlignConfig, AlignTextConfig, AlignVisionConfig, BertConfig, EfficientNetConfig
from align_jax.conversion.verify import (
    TOLERANCE,
    LayerDifference,
    VerificationError,
    compare_layers,
    fixed_inputs,
    format_table,
)
from align_jax.json_config import JsonConfig
from tests.models.reference import assert_agreement, reference_model, tensors_of, untrained_model, variables_of

STAGES: dict[str, Any] = {"num_block_repeats": (1, 1, 2)}
VISION = AlignVisionConfig.tiny(**STAGES)
TEXT = AlignTextConfig.tiny()
MODELS: dict[str, JsonConfig] = {
    "align": AlignConfig(TEXT, VISION, projection_dim=32),
    "align_text_model": TEXT,
    "align_vision_model": VISION,
    "bert": BertConfig.tiny(pad_token_id=None),
    "efficientnet": EfficientNetConfig.tiny(**STAGES),
    "efficientnet_classifier": EfficientNetConfig.tiny(id2label=("cat", "dog"), **STAGES),
}
IMAGE_LAYERS = ["image stem", *(f"image block {index}" for index in range(4)), "image pooled"]
TEXT_LAYERS = [
    "text embeddings", "text attention 0", "text layer 0", "text attention 1", "text layer 1", "text pooler"
]  # fmt: skip
LAYERS = {
    "align": [
        *IMAGE_LAYERS[:-1], *TEXT_LAYERS, "image pooled", "text projection", "temperature", "image embedding",
        "text embedding", "logits",
    ],
    "align_text_model": TEXT_LAYERS,
    "align_vision_model": IMAGE_LAYERS,
    "bert": TEXT_LAYERS,
    "efficientnet": [*IMAGE_LAYERS, "image top"],
    "efficientnet_classifier": [*IMAGE_LAYERS, "image top", "class logits"],
}  # fmt: skip


def tensors_for(config: JsonConfig) -> dict[str, np.ndarray]:
    images = fixed_inputs(config).images
    return tensors_of(reference_model(config, images))


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_every_architecture_is_compared_and_agrees(name: str) -> None:
    config = MODELS[name]
    tensors = tensors_for(config)
    differences = compare_layers(config, tensors, variables_of(config, tensors))
    assert_agreement(differences)
    in_order = sorted(differences, key=lambda row: row.order)
    assert sorted(row.layer for row in in_order) == sorted(LAYERS[name])
    assert [row.relative for row in differences] == sorted((row.relative for row in differences), reverse=True)
    assert differences[0].relative == differences[0].absolute / differences[0].scale > 0.0


def test_features_too_small_to_square_in_float32_agree() -> None:
    """The initialisation of `transformers` makes features of 1e-10 here, and of 1e-23 in a network of full size."""
    config = MODELS["align"]
    model = untrained_model(config)
    model.vision_model.embeddings.convolution.weight.data *= 1e-13
    tensors = tensors_of(model)
    differences = compare_layers(config, tensors, variables_of(config, tensors))
    assert {row.layer: row.scale for row in differences}["image pooled"] < 1e-20
    assert differences[0].relative <= TOLERANCE, format_table(differences)


def test_logits_are_measured_against_what_their_temperature_allows() -> None:
    """Embeddings of untrained towers are nearly orthogonal, and their float32 cosines have no relative precision."""
    config = MODELS["align"]
    tensors = tensors_for(config)
    differences = compare_layers(config, tensors, variables_of(config, tensors))
    scales = {row.layer: row.scale for row in differences}
    assert scales["logits"] == pytest.approx(1.0 / float(tensors["temperature"]))
    variables = variables_of(config, tensors | {"temperature": np.asarray(tensors["temperature"] * np.float32(1.001))})
    assert compare_layers(config, tensors, variables)[0].layer == "temperature"


ALTERED = {
    "image stem": "params/image/stem/conv/kernel",
    "image block 2": "batch_stats/image/blocks_2/depthwise_norm/var",
    "text embeddings": "params/text/embeddings/token_type/embedding",
    "text attention 1": "params/text/layers_1/attention/key/kernel",
    "text layer 0": "params/text/layers_0/feed_forward_out/bias",
    "text pooler": "params/text/pooler/kernel",
    "text projection": "params/text_projection/kernel",
    "temperature": "params/temperature",
}


@pytest.mark.parametrize("layer", ALTERED)
def test_an_altered_variable_is_found_where_it_is(layer: str) -> None:
    config = MODELS["align"]
    tensors = tensors_for(config)
    variables = variables_of(config, tensors)
    *path, last = ALTERED[layer].split("/")
    parent = variables
    for key in path:
        parent = parent[key]
    parent[last] = parent[last] * np.float32(1.01)
    differences = compare_layers(config, tensors, variables)
    assert f", {layer} before the others, differ" in format_table(differences)
    (found,) = (row for row in differences if row.layer == layer)
    assert found.relative > 5 * TOLERANCE


@pytest.mark.parametrize("side", ["ours", "theirs", "both"])
def test_a_number_that_is_not_finite_never_agrees(side: str) -> None:
    tensors = tensors_for(TEXT)
    broken = tensors | {"encoder.layer.1.output.dense.bias": np.full(32, np.nan, np.float32)}
    reference, ours = {"ours": (tensors, broken), "theirs": (broken, tensors), "both": (broken, broken)}[side]
    differences = compare_layers(TEXT, reference, variables_of(TEXT, ours))
    assert {row.layer for row in differences[:2]} == {"text layer 1", "text pooler"}
    assert [row.relative for row in differences[:2]] == [np.inf, np.inf]
    assert differences[2].relative <= TOLERANCE
    assert "2 of them, text layer 1 before the others" in format_table(differences)


def test_rounded_weights_agree_with_a_reference_rounded_alike_and_with_no_other() -> None:
    tensors = tensors_for(TEXT)
    half = {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()}
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), variables_of(TEXT, tensors))
    assert_agreement(compare_layers(TEXT, half, variables))
    assert compare_layers(TEXT, tensors, variables)[0].relative > 10 * TOLERANCE


class ReadOnce(Mapping[str, np.ndarray]):
    """As tensors are read from a file: read-only, and each of them once."""

    def __init__(self, tensors: dict[str, np.ndarray]):
        self.tensors, self.read = tensors, set()

    def __getitem__(self, name: str) -> np.ndarray:
        assert name not in self.read
        self.read.add(name)
        tensor = self.tensors[name].view()
        tensor.flags.writeable = False
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_tensors_are_read_once_under_any_name_that_files_have() -> None:
    config = BertConfig.tiny(num_hidden_layers=1)
    tensors = tensors_for(config)
    names = {name: f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma") for name in tensors}
    file = ReadOnce({names[name].replace("LayerNorm.bias", "LayerNorm.beta"): tensors[name] for name in tensors})
    file.tensors["bert.embeddings.position_ids"] = np.arange(64)[None]
    assert_agreement(compare_layers(config, file, variables_of(config, tensors)))
    assert len(file.read) == len(tensors)


@dataclasses.dataclass(frozen=True)
class OtherConfig(JsonConfig):
    model_type: ClassVar[str] = "vit"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OtherConfig(), "a model of type 'vit' cannot"),
        (AlignTextConfig.tiny(position_embedding_type="relative_key"), "position_embedding_type 'relative_key' cannot"),
        (
            AlignConfig.tiny(text_config=AlignTextConfig.tiny(position_embedding_type="relative_key_query")),
            "position_embedding_type 'relative_key_query' cannot",
        ),
        (AlignConfig.tiny(projection_dim=48), "a model with an image projection cannot"),
        (EfficientNetConfig.lite0(), "squeeze_excite False, fixed_stem_and_top True cannot"),
        (AlignVisionConfig.tiny(hidden_act="selu"), "hidden_act 'selu' cannot"),
    ],
)
def test_what_transformers_would_compute_differently_is_refused(config: JsonConfig, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        compare_layers(config, {}, {})
    assert "\n" not in str(caught.value)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(VerificationError, match=re.escape("pip install 'align_jax[torch]'")):
        compare_layers(TEXT, {}, {})


def test_tensors_of_another_model_are_refused_in_one_line() -> None:
    tensors = tensors_for(TEXT)
    variables = variables_of(TEXT, tensors)
    tensors["classifier.weight"] = tensors.pop("pooler.dense.weight")
    tensors["pooler.dense.bias"] = np.zeros(3, np.float32)
    with pytest.raises(VerificationError) as caught:
        compare_layers(TEXT, tensors, variables)
    for problem in ("AlignTextModel", '"pooler.dense.weight"', '"classifier.weight"', "size mismatch for pooler.dense"):
        assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fixed_inputs_have_padding_segments_and_unequal_numbers() -> None:
    images, texts = fixed_inputs(MODELS["align"])
    again = fixed_inputs(MODELS["align"])
    assert images is not None
    assert texts is not None
    np.testing.assert_array_equal(images, again.images)
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1.0, 1.0)
    assert texts["attention_mask"].sum(axis=1).tolist() == [64, 43, 1]
    assert set(np.unique(texts["token_type_ids"])) == {0, 1}


def test_table_shows_the_worst_layers_and_a_verdict() -> None:
    differences = [LayerDifference(f"text layer {index}", 2e-6, 1e-6, 2.0, index) for index in range(5)]
    lines = format_table(differences, limit=2).splitlines()
    assert lines[0].split() == ["layer", "relative", "absolute", "scale"]
    assert lines[1].split() == ["text", "layer", "0", "1.00e-06", "2.00e-06", "2.00e+00"]
    assert lines[3] == "and 3 layers that differ less"
    assert lines[4] == "5 layers compared: all agree to 1e-05 of their largest value"
    assert len(format_table(differences, limit=None).splitlines()) == 7
