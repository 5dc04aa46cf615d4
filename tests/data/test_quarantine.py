import json
import multiprocessing
import pickle

import pytest

from align_jax.data.quarantine import Quarantine, TooManyBadRecordsError


def add_many(quarantine, start):
    for number in range(start, start + 200):
        quarantine.add(f"key {number}", "broken " * 20)


def test_lines_of_several_processes_do_not_mix(tmp_path):
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl", 1000)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_many, args=(quarantine, 100 * index)) for index in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = [json.loads(line) for line in quarantine.path.read_text().splitlines()]
    assert len(lines) == 600
    assert {line["key"] for line in lines} == {f"key {number}" for number in range(400)}
    assert quarantine.count == 400  # distinct records, though several processes met some


def test_limit_counts_distinct_records_and_names_them(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", 2)
    quarantine.check()
    for key in ("a", "a", "b"):
        pickle.loads(pickle.dumps(quarantine)).add(key, "broken")  # as workers do
        quarantine.check()
    quarantine.add("c", "empty")
    with pytest.raises(TooManyBadRecordsError, match=r"3 records .* max_bad_records 2: a: broken; b: broken; c: empty"):
        quarantine.check()


def test_records_of_an_earlier_run_count(tmp_path):
    Quarantine(tmp_path / "quarantine.jsonl", 5).add("a", "broken")
    assert Quarantine(tmp_path / "quarantine.jsonl", 5).count == 1


def test_line_that_is_being_written_is_read_later(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", 0)
    line = json.dumps({"key": "a", "reason": "broken"})
    quarantine.path.write_text(line[:10])
    quarantine.check()
    quarantine.path.write_text(line + "\n")
    assert quarantine.count == 1


def test_negative_limit_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="max_bad_records -1"):
        Quarantine(tmp_path / "quarantine.jsonl", -1)
