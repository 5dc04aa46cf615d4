"""Unigrams and bigrams of texts, and which of them are among the most frequent."""

import unicodedata
from collections.abc import Iterable
from itertools import pairwise


def unigrams(text: str) -> list[str]:
    """The words of a text: separated by blanks, without punctuation around them, in one case.

    >>> unigrams("The cat's 1st photo, image_tid 25&id -")
    ['the', "cat's", '1st', 'photo', 'image_tid', '25&id']
    """
    words = (_bare(word) for word in text.casefold().split())
    return [word for word in words if word]


def tokens(text: str) -> list[str]:
    """All unigrams and bigrams, as often as they occur.

    >>> tokens("a red hat")
    ['a', 'red', 'hat', 'a red', 'red hat']
    """
    words = unigrams(text)
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def common_count(tokens_by_count: Iterable[tuple[int, int]], most_frequent: int) -> int:
    """How often a token must occur to be among the most frequent.

    Tokens that occur equally often are in or out together, so that no order decides: the smallest count is taken that
    at most `most_frequent` tokens reach.

    >>> common_count([(9, 1), (5, 2), (1, 40)], most_frequent=4)
    5

    Args:
        tokens_by_count: counts, each with the number of different tokens that occur so often.
        most_frequent: tokens to allow.
    """
    allowed, least = most_frequent, None
    for count, number in sorted(tokens_by_count, reverse=True):
        if number > allowed:
            return count + 1 if least is None else least
        allowed, least = allowed - number, count
    return 1


def _bare(word: str) -> str:
    """Without punctuation at its ends."""
    start, end = 0, len(word)
    while start < end and not _counts(word[start]):
        start += 1
    while end > start and not _counts(word[end - 1]):
        end -= 1
    return word[start:end]


def _counts(character: str) -> bool:
    """Letters, digits, the marks that belong to letters in many scripts, and symbols such as emoji."""
    return character.isalnum() or unicodedata.category(character)[0] in "MS"
