"""Learns WordPiece tokens from word counts, the same ones on every run.

The trainer of `tokenizers` breaks ties in the order of a randomly seeded hash map, so two runs over the same captions
give different vocabularies, and with them different models. This one has an order for everything. Like that trainer it
merges the most frequent neighbours (byte-pair encoding, Sennrich et al. 2016, arXiv 1508.07909), and pieces that
continue a word carry `##`.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping

Pair = tuple[str, str]


def learn_pieces(word_counts: Mapping[str, int], size: int, minimum_count: int = 2) -> list[str]:
    """The characters of the words, and then the pieces that come of merging them, most frequent first.

    Args:
      word_counts: how often each word occurs.
      size: the most pieces; where the characters alone are more, the most frequent of them are kept.
      minimum_count: neighbours that meet less often than this are not merged.

    Returns:
      Distinct pieces, at most `size`.

    Example:
      >>> learn_pieces({"hug": 5, "hugs": 2, "bun": 3}, size=8)
      ['##g', '##n', '##s', '##u', 'b', 'h', '##ug', 'hug']
    """
    characters: Counter[str] = Counter()
    for word, count in word_counts.items():
        for piece in _characters(word):
            characters[piece] += count
    kept = sorted(sorted(characters, key=lambda piece: (-characters[piece], piece))[:size])
    alphabet = set(kept)
    words = [(_characters(word), count) for word, count in sorted(word_counts.items())]
    merger = _Merger([(pieces, count) for pieces, count in words if alphabet.issuperset(pieces)])
    pieces = dict.fromkeys(kept)
    while len(pieces) < size and (pair := merger.most_frequent(minimum_count)) is not None:
        pieces[merger.merge(pair)] = None  # two pairs can make the same piece
    return list(pieces)


class _Merger:
    """Words as lists of pieces, with the counts of neighbouring pieces kept up to date."""

    def __init__(self, words: list[tuple[list[str], int]]) -> None:
        self._words = words
        self._counts: Counter[Pair] = Counter()
        self._words_with: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, (pieces, count) in enumerate(words):
            for pair in itertools.pairwise(pieces):
                self._counts[pair] += count
                self._words_with[pair].add(index)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self, minimum_count: int) -> Pair | None:
        """The pair that occurs most, the alphabetically first among equals."""
        while self._heap:
            count, pair = self._heap[0]
            if -count == self._counts[pair]:
                return pair if -count >= minimum_count else None
            heapq.heappop(self._heap)  # the count has changed since; the true one is in the heap too
        return None

    def merge(self, pair: Pair) -> str:
        """Joins every occurrence of the pair and returns the new piece."""
        merged = pair[0] + pair[1].removeprefix("##")
        changed: set[Pair] = set()
        for index in self._words_with.pop(pair):
            before, count = self._words[index]
            after = _join(before, pair, merged)
            self._words[index] = (after, count)
            for neighbours in itertools.pairwise(before):
                self._counts[neighbours] -= count
                changed.add(neighbours)
            for neighbours in itertools.pairwise(after):
                self._counts[neighbours] += count
                self._words_with[neighbours].add(index)
                changed.add(neighbours)
        del self._counts[pair]
        for neighbours in changed:
            if self._counts[neighbours] > 0:
                heapq.heappush(self._heap, (-self._counts[neighbours], neighbours))
        return merged


def _characters(word: str) -> list[str]:
    return [character if position == 0 else f"##{character}" for position, character in enumerate(word)]


def _join(pieces: list[str], pair: Pair, merged: str) -> list[str]:
    joined: list[str] = []
    position = 0
    while position < len(pieces):
        if tuple(pieces[position : position + 2]) == pair:
            joined.append(merged)
            position += 2
        else:
            joined.append(pieces[position])
            position += 1
    return joined
