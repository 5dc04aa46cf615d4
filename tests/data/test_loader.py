import contextlib
import io
import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from align_jax.data.images import ImageTransform
from align_jax.data.loader import EvaluationLoader, TrainLoader, shuffled_index
from align_jax.data.pairs import PairBatching
from align_jax.data.quarantine import Quarantine, TooManyBadRecordsError
from align_jax.data.records import DatasetError, PairRecord, RecordError
from align_jax.data.text import Tokenizer

PLAIN = ImageTransform(8, 8)
RANDOM = ImageTransform(12, 8, flip=True, zoom=0.1, rotate_degrees=5, translate=0.1)


def record(number, texts=None, broken=False):
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    noise[...] = noise if texts == "noise" else number
    Image.fromarray(noise).save(file, "PNG")
    image = b"broken" if broken else file.getvalue()
    return PairRecord(f"key {number}", image, texts if isinstance(texts, tuple) else (f"w{number}",))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(200))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return Tokenizer(folder)


@pytest.fixture
def loader(tokenizer):
    def make(source, transform=PLAIN, batch_size=4, seed=0, **fields):
        return TrainLoader(source, transform, PairBatching(tokenizer, 6), batch_size=batch_size, seed=seed, **fields)

    return make


def take(loader, steps, start_step=0):
    with contextlib.closing(loader.iterate(start_step)) as batches:
        return list(itertools.islice(batches, steps))


def numbers(batches):
    """The record that each row came from, by its grey level, which its caption must agree with."""
    for batch in batches:
        np.testing.assert_array_equal(batch.images[:, 4, 4, 0], batch.input_ids[:, 1] - 5)
    return [batch.images[:, 4, 4, 0].tolist() for batch in batches]


def shares(batch_size, processes):
    """The rows of each process, where its devices lie together."""
    return [rows.tolist() for rows in np.split(np.arange(batch_size), processes)]


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for field, values in zip(batch._fields, batch, strict=True):
            np.testing.assert_array_equal(values, getattr(other, field), err_msg=field)


def test_batches_have_the_promised_types_and_shapes(loader):
    (batch,) = take(loader([record(number) for number in range(10)]), 1)
    assert (batch.images.shape, batch.images.dtype) == ((4, 8, 8, 3), np.uint8)
    assert (batch.input_ids.shape, batch.input_ids.dtype) == ((4, 6), np.int32)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0, 0]] * 4


def test_every_epoch_has_each_record_once_in_another_order(loader):
    order = np.ravel(numbers(take(loader([record(number) for number in range(20)]), 15))).tolist()
    epochs = [order[:20], order[20:40], order[40:]]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(20)]}) == 4


def test_batches_run_on_across_the_end_of_an_epoch(loader):
    order = np.ravel(numbers(take(loader([record(number) for number in range(7)]), 7))).tolist()
    assert [sorted(order[start : start + 7]) for start in range(0, 28, 7)] == [list(range(7))] * 4


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_see_the_batches_of_one(loader, processes):
    source = [record(number, "noise") for number in range(13)]
    whole = take(loader(source, RANDOM, batch_size=8), 5)
    parts = [take(loader(source, RANDOM, batch_size=8, rows=rows), 5) for rows in shares(8, processes)]
    joined = [type(whole[0])(*map(np.concatenate, zip(*batches, strict=True))) for batches in zip(*parts, strict=True)]
    assert_equal(whole, joined)


def test_rows_need_not_be_consecutive(loader):
    """The rows of a process whose devices lie apart in the mesh."""
    source, rows = [record(number, "noise") for number in range(13)], [1, 2, 6]
    whole = take(loader(source, RANDOM, batch_size=8), 3)
    assert_equal(
        [type(batch)(*(field[rows] for field in batch)) for batch in whole],
        take(loader(source, RANDOM, batch_size=8, rows=rows), 3),
    )
    (batch,) = evaluate(source[:5], batch_size=8, rows=rows)
    assert batch.valid.tolist() == [True, True, False]


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_starting_at_a_step_equals_the_straight_run(loader, cache_bytes):
    pairs = loader([record(number, "noise") for number in range(13)], RANDOM, cache_bytes=cache_bytes)
    assert_equal(take(pairs, 9)[5:], take(pairs, 4, start_step=5))


def test_worker_processes_give_the_batches_of_threads(loader, tmp_path):
    source = [record(number, "noise", broken=number == 3) for number in range(13)]
    quarantines = [Quarantine(tmp_path / name, 1) for name in ("threads.jsonl", "workers.jsonl")]
    threads, workers = (
        take(loader(source, RANDOM, workers=count, quarantine=quarantine), 8)
        for count, quarantine in zip((0, 2), quarantines, strict=True)
    )
    assert_equal(threads, workers)
    assert [quarantine.count for quarantine in quarantines] == [1, 1]


def test_limit_that_a_worker_reaches_stops_the_run(loader, tmp_path):
    source = [record(number, broken=True) for number in range(13)]
    pairs = loader(source, workers=1, quarantine=Quarantine(tmp_path / "quarantine.jsonl", 3))
    with pytest.raises(TooManyBadRecordsError, match="max_bad_records 3"):
        take(pairs, 1)


def test_seed_changes_order_and_augmentation(loader):
    source = [record(number) for number in range(50)]
    assert numbers(take(loader(source), 3)) != numbers(take(loader(source, seed=1), 3))
    single = [record(0, "noise")]
    first, second = (take(loader(single, RANDOM, seed=seed), 1)[0] for seed in (0, 1))
    assert (first.images != second.images).any()
    assert len({image.tobytes() for image in first.images}) > 1  # positions differ, though the record is the same


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_shuffled_epoch_is_a_permutation(records, seed, epoch):
    order = [shuffled_index(epoch * records + index, records, seed) for index in range(records)]
    assert sorted(order) == list(range(records))


@pytest.mark.parametrize(
    ("records", "seed", "positions", "expected"),
    [
        (10, 0, range(20), [5, 8, 9, 7, 4, 2, 1, 0, 3, 6, 1, 2, 4, 5, 9, 7, 8, 6, 0, 3]),
        (7, 123, range(14), [4, 0, 6, 3, 2, 5, 1, 1, 3, 0, 4, 6, 5, 2]),
        (1_000_003, 2**62, [0, 1_000_002, 1_000_003, 10**12], [739837, 828776, 1901, 872117]),
    ],
)
def test_order_without_neighbours_stays_what_it_was(records, seed, positions, expected):
    # Numbers of the version before there were neighbours: runs that it began continue.
    assert [shuffled_index(position, records, seed) for position in positions] == expected
    assert [shuffled_index(position, records, seed, neighbours=1) for position in positions] == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 100), st.integers(1, 12), st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_epoch_of_runs_has_distinct_records_that_follow_each_other(records, neighbours, seed, epoch):
    length = min(neighbours, records)
    size = records - records % length
    order = [shuffled_index(epoch * size + index, records, seed, neighbours) for index in range(size)]
    assert len(set(order)) == size > records - neighbours
    assert set(order) <= set(range(records))
    for start in range(0, size, length):
        assert order[start : start + length] == [(order[start] + within) % records for within in range(length)]


def test_all_records_and_all_pairs_of_neighbours_come_within_some_epochs(loader):
    source = [record(number) for number in range(14)]
    rows = np.ravel(numbers(take(loader(source, neighbours=4), 60))).tolist()
    epochs = [rows[start : start + 12] for start in range(0, 240, 12)]
    assert len({frozenset(epoch) for epoch in epochs}) > 5  # it is not always the same two that are left out
    assert len({tuple(epoch) for epoch in epochs}) > 10
    runs = [rows[start : start + 4] for start in range(0, 240, 4)]
    assert {pair for run in runs for pair in itertools.pairwise(run)} == {(n, (n + 1) % 14) for n in range(14)}


def test_runs_of_neighbours_are_shuffled(loader):
    starts = [shuffled_index(index, 400, 0, 4) for index in range(0, 400, 4)]
    assert len({(after - before) % 400 for before, after in itertools.pairwise(starts)}) > 50


def test_more_neighbours_than_records_turn_the_whole_data_set(loader):
    rows = np.ravel(numbers(take(loader([record(number) for number in range(5)], batch_size=5, neighbours=9), 20)))
    epochs = rows.reshape(20, 5)
    np.testing.assert_array_equal(epochs, (epochs[:, :1] + np.arange(5)) % 5)
    assert set(epochs[:, 0]) == set(range(5))
    assert numbers(take(loader([record(3)], neighbours=2), 2)) == [[3] * 4] * 2


def test_seed_changes_the_order_of_runs(loader):
    source = [record(number) for number in range(50)]
    orders = [numbers(take(loader(source, neighbours=4, seed=seed), 6)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_neighbours_do_not_depend_on_processes_and_restarts(loader):
    source = [record(number, "noise") for number in range(14)]
    make = lambda **fields: loader(source, RANDOM, batch_size=6, neighbours=4, **fields)  # noqa: E731
    whole = take(make(), 9)
    assert_equal(whole[5:], take(make(), 4, start_step=5))
    for processes in (2, 3):
        parts = [take(make(rows=rows), 9) for rows in shares(6, processes)]
        joined = [type(whole[0])(*map(np.concatenate, zip(*steps, strict=True))) for steps in zip(*parts, strict=True)]
        assert_equal(whole, joined)


def test_one_of_several_captions_is_picked(loader):
    source = [record(number, tuple(f"w{number + 10 * text}" for text in range(3))) for number in range(4)]
    batches = take(loader(source), 60)
    images, input_ids, _ = map(np.concatenate, zip(*batches, strict=True))
    picked = set(zip(images[:, 4, 4, 0], input_ids[:, 1] - 5, strict=True))
    assert picked == {(number, number + 10 * text) for number in range(4) for text in range(3)}


def test_long_caption_is_cut_to_the_text_length(loader):
    (batch,) = take(loader([record(0, ("w1 " * 50,))]), 1)
    assert batch.input_ids[0].tolist() == [2, 6, 6, 6, 6, 3]


def test_images_are_decoded_once_where_they_fit_into_the_cache(loader):
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    fits, does_not = (Counting(record(number) for number in range(8)) for _ in range(2))
    size_bytes = 8 * 12 * 12 * 3
    cached = take(loader(fits, ImageTransform(12, 8), cache_bytes=size_bytes), 40)
    assert_equal(cached, take(loader(does_not, ImageTransform(12, 8), cache_bytes=size_bytes - 1), 40))
    assert fits.reads < 40 <= does_not.reads  # threads that start together may both read a record


def test_next_usable_record_takes_the_place_of_a_broken_one(loader, tmp_path):
    source = [record(number) for number in range(10)]
    broken = [record(number, broken=number in (4, 5, 9)) for number in range(10)]
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", 3)
    expected = [[{4: 6, 5: 6, 9: 0}.get(number, number) for number in row] for row in numbers(take(loader(source), 6))]
    assert numbers(take(loader(broken, quarantine=quarantine), 6)) == expected
    quarantine.check()
    entries = [json.loads(line) for line in quarantine.path.read_text().splitlines()]
    assert {entry["key"] for entry in entries} == {"key 4", "key 5", "key 9"}
    assert "not an image format" in entries[0]["reason"]


def test_processes_replace_broken_records_alike(loader, tmp_path):
    source = [record(number, broken=number % 3 == 0) for number in range(11)]
    make = lambda **fields: loader(  # noqa: E731
        source, batch_size=6, quarantine=Quarantine(tmp_path / "quarantine.jsonl", 11), **fields
    )
    halves = [numbers(take(make(rows=rows), 4)) for rows in (range(3), range(3, 6))]
    assert numbers(take(make(), 4)) == [first + second for first, second in zip(*halves, strict=True)]


def test_more_broken_records_than_allowed_stop_the_run(loader, tmp_path):
    source = [record(number, broken=number < 3) for number in range(10)]
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", 2)
    pairs = loader(source, quarantine=quarantine)
    with pytest.raises(TooManyBadRecordsError, match=r"3 records cannot be used.*key"):
        take(pairs, 10)


def test_without_a_quarantine_a_broken_record_is_an_error(loader):
    with pytest.raises(RecordError, match="key 0 cannot be used"):
        take(loader([record(0, broken=True)]), 1)


def test_nothing_but_broken_records_is_an_error(loader, tmp_path):
    source = [record(number, broken=True) for number in range(3)]
    with pytest.raises(RecordError, match="not one of the 3 records"):
        take(loader(source, quarantine=Quarantine(tmp_path / "quarantine.jsonl", 99)), 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 4, "rows": (0, 4)}, "row 4 is not in a batch of 4"),
        ({"batch_size": 4, "rows": ()}, "no rows of the batch"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"seed": -1}, "seed -1"),
        ({"neighbours": 0}, "neighbours 0 is not positive"),
    ],
)
def test_impossible_settings_are_errors(loader, fields, message):
    with pytest.raises(ValueError, match=message):
        loader([record(0)], **fields)


def test_empty_source_is_an_error(loader):
    with pytest.raises(DatasetError, match="0 records"):
        loader([])
    with pytest.raises(DatasetError, match="0 records"):
        EvaluationLoader([], PLAIN, 4)


def test_negative_start_is_an_error(loader):
    with pytest.raises(ValueError, match="start_step -1"):
        loader([record(0)]).iterate(-1)


def evaluate(source, **fields):
    loader = EvaluationLoader(source, ImageTransform(12, 8), **fields)
    with contextlib.closing(loader.iterate()) as batches:
        found = list(batches)
    assert len(found) == len(loader)
    return found


def test_evaluation_goes_once_in_order_and_fills_the_last_batch():
    batches = evaluate([record(number) for number in range(10)], batch_size=4)
    assert [batch.images.shape for batch in batches] == [(4, 8, 8, 3)] * 3
    assert np.concatenate([batch.valid for batch in batches]).tolist() == [True] * 10 + [False] * 2
    assert np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).tolist() == [*range(10), 0, 0]


def test_evaluation_crops_the_centre():
    (batch,) = evaluate([record(7, "noise")], batch_size=1)
    noise = np.random.default_rng(7).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(batch.images[0], noise[2:10, 2:10])


@pytest.mark.parametrize("records", [1, 5, 8])
def test_evaluation_in_processes_joins_to_the_whole(records):
    source = [record(number) for number in range(records)]
    whole = evaluate(source, batch_size=4)
    parts = [evaluate(source, batch_size=4, rows=rows) for rows in ((0, 1), (2, 3))]
    for batch, first, second in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(batch.images, np.concatenate([first.images, second.images]))
        np.testing.assert_array_equal(batch.valid, np.concatenate([first.valid, second.valid]))


def test_evaluation_marks_broken_images_and_keeps_their_place(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", 5)
    (batch,) = evaluate(
        [record(number, broken=number == 1) for number in range(3)], batch_size=3, quarantine=quarantine
    )
    assert batch.valid.tolist() == [True, False, True]
    assert batch.images[:, 4, 4, 0].tolist() == [0, 0, 2]
    assert json.loads(quarantine.path.read_text())["key"] == "key 1"
    with pytest.raises(RecordError, match="key 1 cannot be used"):
        evaluate([record(0), record(1, broken=True)], batch_size=2)


def test_loader_survives_pickling(loader):
    pairs = loader([record(number) for number in range(5)])
    assert_equal(take(pairs, 2), take(pickle.loads(pickle.dumps(pairs)), 2))


SCRIPT = """
import contextlib, sys
from align_jax.data.images import ImageTransform
from align_jax.data.loader import EvaluationLoader
from align_jax.data.records import PairRecord

if __name__ == "__main__":
    records = [PairRecord(str(number), open(sys.argv[1], "rb").read(), ("cat",)) for number in range(4)]
    with contextlib.closing(EvaluationLoader(records, ImageTransform(8, 8), 2, workers=2).iterate()) as batches:
        print([batch.valid.tolist() for batch in batches])
"""


def test_workers_start_from_a_script_with_flags_that_absl_does_not_know(tmp_path):
    script, image = tmp_path / "script.py", tmp_path / "image.png"
    script.write_text(SCRIPT)
    image.write_bytes(record(0).image)
    command = [sys.executable, str(script), str(image), "--optimizer.peak-learning-rate", "3e-3", "--undefok", "--x=1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "[[True, True], [True, True]]\n"
