import io
import json
import multiprocessing
import pickle
import threading
import time
from pathlib import Path

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


def test_threads_that_count_at_once_read_each_line_once(tmp_path, monkeypatch):
    class SlowFile(io.BytesIO):
        def read(self):
            found = super().read()
            time.sleep(0.05)  # so that every thread reads before the first one notes how far it came
            return found

    quarantine = pickle.loads(pickle.dumps(Quarantine(tmp_path / "quarantine.jsonl", 100)))
    quarantine.add("a" * 100, "broken")
    content, counts = quarantine.path.read_bytes(), []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: SlowFile(content))
        threads = [threading.Thread(target=lambda: counts.append(quarantine.count)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == [1, 1, 1]
    for number in range(10):
        quarantine.add(f"key {number}", "broken")
        assert quarantine.count == number + 2


def test_limit_is_passed_again_once_the_file_is_deleted_after_a_repair(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path, 0).add("a", "broken")
    with pytest.raises(TooManyBadRecordsError, match=r"quarantine\.jsonl; repair the data and then delete that file"):
        Quarantine(path, 0).check()
    path.unlink()
    Quarantine(path, 0).check()


def test_negative_limit_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="max_bad_records -1"):
        Quarantine(tmp_path / "quarantine.jsonl", -1)


def test_limit_holds_for_the_records_of_all_processes_together(tmp_path):
    first, second = (Quarantine(tmp_path / f"quarantine-{process}.jsonl", 2) for process in range(2))
    first.add("a", "broken")
    second.add("a", "broken")
    second.add("b", "broken")
    first.check()
    assert first.count == second.count == 2
    first.add("c", "empty")
    for quarantine in (first, second):
        with pytest.raises(TooManyBadRecordsError, match=r"3 records .*/quarantine-\*\.jsonl"):
            quarantine.check()
    assert Quarantine(tmp_path / "other.jsonl", 0).count == 0
