import collections
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.data.wordpiece import learn_pieces

words = st.dictionaries(st.text("abc", min_size=1, max_size=6), st.integers(1, 9), min_size=1, max_size=12)


def slow_pieces(counts, size, minimum_count):
    """The same merges, counted anew each time."""
    split = {word: [word[0], *("##" + letter for letter in word[1:])] for word in counts}
    pieces = dict.fromkeys(sorted({piece for parts in split.values() for piece in parts}))
    while len(pieces) < size:
        pairs = collections.Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
        pair = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if pair is None or pairs[pair] < minimum_count:
            break
        merged = pair[0] + pair[1][2:]
        pieces[merged] = None
        for parts in split.values():
            position = 0
            while position < len(parts) - 1:
                if (parts[position], parts[position + 1]) == pair:
                    parts[position : position + 2] = [merged]
                position += 1
    return list(pieces)


def test_worked_example():
    # u+g occurs 5+2 times, then h+ug 7 times; b+u and u+n 3 times, of which "##u ##n" is the first in the alphabet.
    counts = {"hug": 5, "hugs": 2, "bun": 3}
    assert learn_pieces(counts, size=8) == ["##g", "##n", "##s", "##u", "b", "h", "##ug", "hug"]
    assert learn_pieces(counts, size=9)[-1] == "##un"


@settings(deadline=None, max_examples=200)
@given(words, st.integers(1, 4))
def test_merges_equal_those_counted_anew(counts, minimum_count):
    letters = {piece for word in counts for piece in [word[0], *("##" + letter for letter in word[1:])]}
    size = len(letters) + 6
    assert learn_pieces(counts, size, minimum_count) == slow_pieces(counts, size, minimum_count)


def test_order_of_the_words_does_not_matter():
    counts = {"banana": 3, "bandana": 3, "cabana": 3, "nab": 3}
    assert learn_pieces(counts, 20) == learn_pieces(dict(reversed(counts.items())), 20)


def test_rare_letters_give_way_when_there_is_no_room():
    assert learn_pieces({"a": 5, "b": 3, "zzz": 1}, size=2) == ["a", "b"]


@pytest.mark.parametrize(("minimum_count", "whole"), [(2, False), (1, True)])
def test_word_that_occurs_once_stays_in_pieces(minimum_count, whole):
    assert ("cat" in learn_pieces({"cat": 1}, 50, minimum_count)) is whole
