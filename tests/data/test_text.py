import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from align_jax.data.text import Tokenizer, TokenizerError, train_vocabulary

CAPTIONS = [
    "A woman running: medium-dark skin tone",
    "a man running: light skin tone",
    "flag: Côte d’Ivoire",
    "the red flag, the red apple",
    "keycap 10 & keycap 11",
    "日本 post office",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vocabulary")
    train_vocabulary(CAPTIONS * 3, 200, directory)
    return directory


@pytest.fixture(scope="module")
def reference(directory):
    return AutoTokenizer.from_pretrained(directory)


def encoded_by_transformers(reference, texts, length):
    encoded = reference(texts, truncation=True, max_length=length, padding="max_length", return_tensors="np")
    return encoded["input_ids"], encoded["attention_mask"]


@pytest.mark.parametrize("length", [2, 3, 8, 64])
def test_tokens_equal_those_of_transformers(directory, reference, length):
    texts = [
        *CAPTIONS,
        "",
        "unseen wörds, zebra!",
        "[SEP] and [MASK] inside",
        " ".join(["red"] * 100),
        "tab\tnew\nline",
    ]
    for ours, theirs in zip(
        Tokenizer(directory).encode(texts, length), encoded_by_transformers(reference, texts, length), strict=True
    ):
        assert ours.dtype == np.int32
        np.testing.assert_array_equal(ours, theirs)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.integers(2, 20))
def test_any_text_gives_the_tokens_of_transformers(directory, reference, texts, length):
    ours = Tokenizer(directory).encode(texts, length)
    np.testing.assert_array_equal(ours, encoded_by_transformers(reference, texts, length))


def test_auto_tokenizer_finds_a_lower_casing_bert_tokenizer(reference):
    assert isinstance(reference, BertTokenizer)
    assert reference.tokenize("Red FLAG") == ["red", "flag"]
    assert reference.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    assert reference.decode(reference("the red flag").input_ids, skip_special_tokens=True) == "the red flag"


def test_caption_longer_than_the_text_length_is_cut_and_ends_with_sep(directory):
    tokenizer = Tokenizer(directory)
    input_ids, mask = tokenizer.encode(["red flag " * 50, "red"], 6)
    assert input_ids[0, 0] == 2
    assert input_ids[0, 5] == 3
    assert mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert input_ids[1, 3:].tolist() == [0, 0, 0]


def test_vocabulary_file_alone_gives_the_same_tokens(directory, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((directory / "vocab.txt").read_bytes())
    both = [Tokenizer(folder).encode(CAPTIONS, 12)[0] for folder in (directory, tmp_path)]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("lines", ["[MASK]\n\nred\ngreen\n", "[MASK]\nred\nred\ngreen\n"], ids=["blank", "repeated"])
def test_vocabulary_size_covers_ids_beyond_one_that_is_left_out(tmp_path, lines):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + lines)
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.encode(["green"], 3)[0].tolist() == [[2, 7, 3]]
    assert tokenizer.vocab_size == 8  # rows of an embedding table, though there are seven tokens


def test_cased_vocabulary_file_is_respected(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nRed\nred\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert Tokenizer(tmp_path).encode(["Red red"], 4)[0].tolist() == [[2, 5, 6, 3]]


def test_tokenizer_survives_pickling(directory):
    tokenizer = Tokenizer(directory)
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy.encode(CAPTIONS, 9)[0], tokenizer.encode(CAPTIONS, 9)[0])
    assert copy.vocab_size == tokenizer.vocab_size == len((directory / "vocab.txt").read_text().splitlines())


def test_vocabulary_is_the_same_in_another_process(directory, tmp_path):
    # tokenizers' own trainer fails this: it breaks ties in the order of a randomly seeded hash map
    code = (
        "import json, sys; from align_jax.data.text import train_vocabulary;"
        "train_vocabulary(json.loads(sys.argv[1]), 200, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(CAPTIONS * 3), str(tmp_path)], check=True)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_vocabulary_is_not_larger_than_asked(tmp_path):
    assert train_vocabulary(CAPTIONS, 30, tmp_path) == 30
    assert len((tmp_path / "vocab.txt").read_text().splitlines()) == 30


def test_importing_the_tokenizer_imports_neither_transformers_nor_jax():
    code = "import sys, align_jax.data.text; sys.exit(any(name in sys.modules for name in ('transformers', 'jax')))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("captions", "size", "message"), [([], 50, "not one word"), (["cat"], 5, "vocab_size 5")])
def test_impossible_vocabulary_is_an_error(tmp_path, captions, size, message):
    with pytest.raises(ValueError, match=message):
        train_vocabulary(captions, size, tmp_path)
    assert not list(tmp_path.iterdir())


def test_folder_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor vocab\.txt"):
        Tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nred\n")
    with pytest.raises(TokenizerError, match=r"\[CLS\], \[SEP\]"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="is not a tokenizer"):
        Tokenizer(tmp_path)


def test_length_without_room_is_an_error(directory):
    with pytest.raises(ValueError, match="text length 1"):
        Tokenizer(directory).encode(["red"], 1)
