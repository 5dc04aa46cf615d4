"""The text tower's tables: embeddings of distances, and folders of BERT as they were published."""

from typing import Any

import numpy as np
import pytest
import transformers

from align_jax.configuration import AlignTextConfig, BertConfig
from align_jax.conversion import align, bert
from align_jax.conversion.rules import ConversionError, from_flax, ignored_reason, to_flax

DISTANCES = "encoder.layer.{}.attention.self.distance_embedding.weight"
DECODER = "cls.predictions.decoder.weight"


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def tower_tensors() -> dict[str, np.ndarray]:
    config = transformers.AlignTextConfig.from_dict(AlignTextConfig.tiny().to_dict())
    return tensors_of(transformers.AlignTextModel(config))


def tower_tensors_with_distances() -> dict[str, np.ndarray]:
    """The present `transformers` has no such tower; 4.37 adds these to the tensors of the others."""
    rng = np.random.default_rng(0)
    return tower_tensors() | {DISTANCES.format(n): rng.normal(size=(127, 8)).astype(np.float32) for n in range(2)}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor.dtype, tensor.shape) == (right[name].dtype, right[name].shape), name
        assert tensor.tobytes() == right[name].tobytes(), name


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_distances_and_unused_positions_are_kept_there_and_back(kind: str) -> None:
    target = bert.abstract_variables(AlignTextConfig.tiny(position_embedding_type=kind))
    tensors = tower_tensors_with_distances()
    variables = to_flax(tensors, bert.TABLE, target)
    embedding = variables["params"]["layers_1"]["attention"]["distance"]["embedding"]
    np.testing.assert_array_equal(embedding, tensors[DISTANCES.format(1)])
    assert_same(from_flax(variables, bert.TABLE, target), tensors)


def test_missing_distances_and_positions_are_named_together() -> None:
    target = bert.abstract_variables(AlignTextConfig.tiny(position_embedding_type="relative_key"))
    tensors = tower_tensors()
    del tensors["embeddings.position_embeddings.weight"]
    with pytest.raises(ConversionError) as caught:
        to_flax(tensors, bert.TABLE, target)
    assert sorted(caught.value.missing) == [
        "params/embeddings/position/embedding (embeddings.position_embeddings.weight)",
        f"params/layers_0/attention/distance/embedding ({DISTANCES.format(0)})",
        f"params/layers_1/attention/distance/embedding ({DISTANCES.format(1)})",
    ]


def test_distances_without_a_place_are_an_error() -> None:
    with pytest.raises(ConversionError) as caught:
        to_flax(tower_tensors_with_distances(), bert.TABLE, bert.abstract_variables(AlignTextConfig.tiny()))
    assert caught.value.unused == (DISTANCES.format(0), DISTANCES.format(1))


def published_tensors() -> dict[str, np.ndarray]:
    """As in the first BERT files: both heads, the prefix, the names that TensorFlow gave to norms, and a buffer."""
    config = transformers.BertConfig.from_dict(BertConfig.tiny().to_dict())
    model = transformers.BertForPreTraining(config)
    tensors = tensors_of(model) | {"bert.embeddings.position_ids": np.arange(64)[None]}
    spellings = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in spellings.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    return tensors


def test_published_bert_folders_convert_without_their_heads() -> None:
    tensors, target = published_tensors(), bert.abstract_variables(BertConfig.tiny())
    heads = {name for name in tensors if name.startswith("cls.")}
    assert len(heads) == 9
    assert all("head of BERT's pre-training" in str(ignored_reason(bert.BERT_TABLE, name)) for name in heads)
    back = from_flax(to_flax(tensors, bert.BERT_TABLE, target), bert.BERT_TABLE, target)
    reference = transformers.BertModel(transformers.BertConfig.from_dict(BertConfig.tiny().to_dict()))
    assert back.keys() == reference.state_dict().keys()
    given = tensors["bert.encoder.layer.1.output.LayerNorm.gamma"]
    np.testing.assert_array_equal(back["encoder.layer.1.output.LayerNorm.weight"], given)


def test_only_folders_of_bert_may_hold_its_heads() -> None:
    decoder = np.zeros((99, 32), np.float32)
    with pytest.raises(ConversionError) as caught:
        to_flax(tower_tensors() | {DECODER: decoder}, bert.TABLE, bert.abstract_variables(AlignTextConfig.tiny()))
    assert caught.value.unused == (DECODER,)
    assert ignored_reason(align.TABLE, f"text_model.{DECODER}") is None


def test_other_heads_are_an_error() -> None:
    target = bert.abstract_variables(BertConfig.tiny())
    with pytest.raises(ConversionError) as caught:
        to_flax(published_tensors() | {"classifier.weight": np.zeros((2, 32))}, bert.BERT_TABLE, target)
    assert caught.value.unused == ("classifier.weight",)
