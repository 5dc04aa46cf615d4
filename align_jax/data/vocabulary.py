"""A folder with the vocabulary of a data set: whole or not there at all, with a note of what it was made from."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from align_jax.data.records import PairSequence
from align_jax.data.text import train_vocabulary

ORIGIN_FILE = "vocabulary.json"


class VocabularyError(ValueError):
    """The folder for a vocabulary holds something else."""


@dataclass(frozen=True)
class VocabularyOrigin:
    """What a vocabulary is made from.

    Attributes:
      data: name of the data set.
      split: whose captions were read.
      size: the most tokens that were allowed.
      records: the number of records that the split had.
    """

    data: str
    split: str
    size: int
    records: int

    def __str__(self) -> str:
        return f"{self.records} records of {self.data!r}, split {self.split!r}, with size {self.size}"


def is_prepared(origin: VocabularyOrigin, directory: Path) -> bool:
    """Whether the folder holds the vocabulary that would be made from `origin`.

    Raises:
      VocabularyError: it holds another vocabulary, or something that `prepare` did not make.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        found = VocabularyOrigin(**json.loads((directory / ORIGIN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise VocabularyError(
            f"{directory} is there, but has no {ORIGIN_FILE} that says what it was made from; this command asks for "
            f"{origin}; name another folder with --output, or remove this one if it is an old or unfinished vocabulary"
        ) from error
    if found != origin:
        raise VocabularyError(
            f"the vocabulary in {directory} was made from {found}; this command asks for {origin}; "
            "remove the folder to train it again, or name another one with --output"
        )
    return True


def prepare(origin: VocabularyOrigin, source: PairSequence, directory: Path) -> int:
    """Trains a vocabulary on all captions of `source` and puts the whole folder into place at once.

    Args:
      origin: where `source` comes from.
      source: the pairs of the one split that is read.
      directory: the folder to make; it must not be there, or be empty.

    Returns:
      The number of tokens.
    """
    captions = (text for index in range(len(source)) for text in source[index].texts)
    target = directory.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, since only a rename within a file system happens at once.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        unfinished = Path(temporary) / target.name
        tokens = train_vocabulary(captions, origin.size, unfinished)
        (unfinished / ORIGIN_FILE).write_text(json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8")
        unfinished.rename(target)
    return tokens
