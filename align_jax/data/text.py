"""WordPiece tokens as BERT takes them, and a vocabulary trained on the captions of a data set.

`Tokenizer` needs `tokenizers` only, since importing `transformers` costs seconds in every worker process; its output
is that of `transformers.BertTokenizer` with truncation and padding to a fixed length, which is also what
`bert_pack_inputs` of the released recipe makes: `[CLS] … [SEP]`, cut to the length, padded with zeros.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from align_jax.data.wordpiece import learn_pieces

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""In the order of their ids, 0 to 4, in a vocabulary trained here."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
"""What the folder of a tokenizer holds; some of them may be absent."""


class TokenizerError(ValueError):
    """A folder holds no tokenizer, or one that is not a BERT WordPiece tokenizer."""


class Tokenizer:
    """The tokenizer of a folder with `tokenizer.json` or `vocab.txt`; travels to worker processes by pickling.

    Attributes:
      vocab_size: one more than the largest token id, so the rows that an embedding table needs. That is more than the
        number of tokens where ids are left out, as by a blank or repeated line of `vocab.txt`.
    """

    def __init__(self, directory: str | Path) -> None:
        """Loads the tokenizer; `tokenizer.json` counts where both files are there.

        Raises:
          TokenizerError: neither file is there, or a special token is missing.
        """
        self._tokenizer = _load(Path(directory))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab()
        missing = [token for token in SPECIAL_TOKENS[:4] if token not in vocabulary]
        if missing:
            raise TokenizerError(f"the vocabulary in {directory} lacks BERT's special tokens {', '.join(missing)}")
        self._padding, _, self._start, self._end = (vocabulary[token] for token in SPECIAL_TOKENS[:4])
        self.vocab_size: int = max(vocabulary.values()) + 1

    def encode(self, texts: Sequence[str], length: int) -> tuple[Int32[np.ndarray, "B T"], Int32[np.ndarray, "B T"]]:
        """Token ids and attention mask, each `[len(texts), length]`.

        Args:
          texts: captions; what does not fit into `length` is cut, without a word.
          length: tokens per row, `[CLS]` and `[SEP]` included.

        Returns:
          int32 ids, and int32 ones where there is a token and zeros where there is padding.
        """
        if length < 2:
            raise ValueError(f"text length {length} has no room for [CLS] and [SEP]; use 2 or more")
        input_ids = np.full((len(texts), length), self._padding, np.int32)
        attention_mask = np.zeros((len(texts), length), np.int32)
        input_ids[:, 0] = self._start
        for row, encoding in enumerate(self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)):
            tokens = encoding.ids[: length - 2]
            end = len(tokens) + 1
            input_ids[row, 1:end] = tokens
            input_ids[row, end] = self._end
            attention_mask[row, : end + 1] = 1
        return input_ids, attention_mask


def train_vocabulary(captions: Iterable[str], vocab_size: int, directory: str | Path) -> int:
    """Trains a lower-cased WordPiece vocabulary and writes a folder that `transformers` loads as a BERT tokenizer.

    The same captions in the same order give the same files. Texts are normalised as for bert-base-uncased: accents off,
    lower case, split at spaces and punctuation.

    Args:
      captions: the training captions; nothing else may be among them.
      vocab_size: the most tokens, special tokens and single letters included; few captions give fewer.
      directory: where `tokenizer.json`, `vocab.txt` and `tokenizer_config.json` go; made where it is missing.

    Returns:
      The number of tokens in the vocabulary.
    """
    if vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size {vocab_size} leaves no room beside the {len(SPECIAL_TOKENS)} special tokens")
    counts = _count_words(captions)
    if not counts:
        raise ValueError("there is not one word in the captions; a vocabulary needs some")
    pieces = learn_pieces(counts, vocab_size - len(SPECIAL_TOKENS))
    vocabulary = {token: token_id for token_id, token in enumerate([*SPECIAL_TOKENS, *pieces])}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _bert_tokenizer(vocabulary).save(str(directory / "tokenizer.json"))
    (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 64,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return len(vocabulary)


def _count_words(captions: Iterable[str]) -> Counter[str]:
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)))
    return counts


def _load(directory: Path) -> tokenizers.Tokenizer:
    if (directory / "tokenizer.json").is_file():
        try:
            return tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # the Rust side raises plain Exception
            raise TokenizerError(f"{directory / 'tokenizer.json'} is not a tokenizer: {error}") from error
    if not (directory / "vocab.txt").is_file():
        raise TokenizerError(
            f"{directory} has neither tokenizer.json nor vocab.txt; "
            "train a vocabulary with `align-jax data vocabulary` or copy the files of a model there"
        )
    tokens = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {token: token_id for token_id, token in enumerate(tokens) if token}
    settings_file = directory / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.is_file() else {}
    return _bert_tokenizer(vocabulary, lowercase=settings.get("do_lower_case", True))


def _bert_tokenizer(vocabulary: dict[str, int], lowercase: bool = True) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]") if token in vocabulary]
    if len(ends) == 2:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    return tokenizer
