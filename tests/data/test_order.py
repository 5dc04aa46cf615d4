from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.data.mixture import MixedSource, PairMixture, Weighted
from align_jax.data.order import BLOCK_RUNS, mixed_place
from align_jax.data.records import DatasetError, PairDataset, PairRecord

A, B = PairDataset("a", "train", "data"), PairDataset("b", "train", "data")

AROUND_A_BLOCK = range(BLOCK_RUNS - 200, BLOCK_RUNS + 200)


def parts(count, weights, lengths=None, seed=0, neighbours=1, start=0):
    lengths = lengths or [100] * len(weights)
    places = [mixed_place(position, lengths, weights, seed, neighbours) for position in range(start, start + count)]
    return [int(np.searchsorted(np.cumsum(lengths), place.index, side="right")) for place in places]


@settings(max_examples=2, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(0, 2**63 - 1))
def test_each_part_has_its_share_of_the_stream(weights, seed):
    count = Counter(parts(BLOCK_RUNS, [float(weight) for weight in weights], seed=seed))
    for part, weight in enumerate(weights):
        assert abs(count[part] - BLOCK_RUNS * weight / sum(weights)) <= 2


def test_shares_hold_over_any_number_of_blocks():
    weights = [1 / 3, 1 / 3, 1 / 3]
    far = 10**6 * BLOCK_RUNS
    count = Counter(parts(3 * BLOCK_RUNS, weights, start=far))
    assert all(abs(number - BLOCK_RUNS) <= 2 for number in count.values())


def test_every_epoch_of_each_part_has_each_record_once():
    lengths = [50, 7]
    stream = [mixed_place(position, lengths, [3.0, 1.0], 5).index for position in range(BLOCK_RUNS + 100)]
    for first, length in ((0, 50), (50, 7)):
        own = [index for index in stream if first <= index < first + length]
        for epoch in range(len(own) // length):
            assert sorted(own[epoch * length : (epoch + 1) * length]) == list(range(first, first + length))


def test_order_is_a_function_of_seed_and_position():
    lengths, weights = [50, 70], [1.0, 2.0]
    stream = [mixed_place(position, lengths, weights, 3) for position in AROUND_A_BLOCK]
    assert [mixed_place(position, lengths, weights, 3) for position in AROUND_A_BLOCK[::-7]] == stream[::-7]
    assert [mixed_place(position, lengths, weights, 4) for position in AROUND_A_BLOCK] != stream
    assert len(set(parts(64, weights))) == 2  # both from the first batch on


def test_neighbours_stay_together_in_a_mixture():
    stream = [mixed_place(position, [50, 70], [1.0, 2.0], 3, 2).index for position in range(1000)]
    for first, second in zip(stream[::2], stream[1::2], strict=True):
        assert second - first == 1 or (first, second) in ((49, 0), (119, 50))


def test_record_that_cannot_be_used_is_replaced_within_its_part():
    place = mixed_place(0, [50, 70], [1.0, 1000.0], 3)
    assert place.within == range(50, 120)
    assert place.index in place.within


def test_mixed_source_has_the_records_of_all_parts():
    sources = [[PairRecord(f"{name}{number}", b"", ("x",)) for number in range(3)] for name in "ab"]
    source = MixedSource(sources, [1.0, 1.0])
    assert [record.key for record in source] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert source.place(4) == "record 1"
    with pytest.raises(IndexError):
        source[6]


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ((), "no parts"), ((1.0, 0.0), r"weight 0\.0 of 'b, train' is not a positive number"),
        ((1.0, -1.0), "not a positive number"), ((float("nan"), 1.0), "not a positive number"),
        ((float("inf"), 1.0), "not a positive number"), ((1.0, 1e-6), "less than a 2048th of all weights"),
    ],
)  # fmt: skip
def test_weights_that_make_no_mixture(weights, match):
    with pytest.raises(DatasetError, match=match):
        PairMixture(tuple(Weighted(pairs, weight) for pairs, weight in zip((A, B), weights, strict=False)))
