import contextlib
import itertools
import os
import pickle
import shutil

import numpy as np
import pytest

from align_jax.data.builders.img2dataset import Img2Dataset, Input
from align_jax.data.images import ImageTransform
from align_jax.data.loader import TrainLoader
from align_jax.data.pairs import PairBatching
from align_jax.data.quarantine import Quarantine
from align_jax.data.records import DatasetError, DatasetNotPreparedError, PairDataset, RecordError
from align_jax.data.tar_pairs import TarPairs, write_index
from align_jax.data.text import Tokenizer
from tests.data.collections.made import member, tar_bytes
from tests.data.img2dataset.made import Sample, jpeg, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = [Sample(number, jpeg(number), f"picture number {number}") for number in range(12)]
    return write(tmp_path_factory.mktemp("tars") / "download", "webdataset", [made[:5], made[5:10], made[10:]], seed=4)


def test_records_are_those_of_the_prepared_data_set_in_its_order(folder, tmp_path):
    Img2Dataset(Input(folder), tmp_path, "pictures").prepare(workers=1)
    source = TarPairs(str(folder), str(tmp_path / "index")).open()
    assert list(source) == list(PairDataset("pictures", "train", str(tmp_path)).open())
    assert len(source) == 12
    assert source.place(11).startswith("byte ")
    assert source.place(11).endswith("00002.tar")
    with pytest.raises(IndexError):
        source[12]


def test_batches_are_the_same_in_worker_processes_and_from_any_step(folder, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "picture", "number"]))
    source = TarPairs(str(folder), str(tmp_path / "index")).open()

    def take(count, start=0, **fields):
        batching = PairBatching(Tokenizer(tmp_path), 6)
        loader = TrainLoader(source, ImageTransform(12, 8, flip=True), batching, batch_size=4, seed=1, **fields)
        with contextlib.closing(loader.iterate(start)) as batches:
            return list(itertools.islice(batches, count))

    straight = take(6)
    for others in (take(3, start=3), take(6, workers=2)[3:]):
        for batch, other in zip(straight[3:], others, strict=True):
            np.testing.assert_array_equal(batch.images, other.images)
            np.testing.assert_array_equal(batch.input_ids, other.input_ids)
    rows = [take(6, rows=rows) for rows in ([0, 1], [2, 3])]
    np.testing.assert_array_equal(straight[5].images, np.concatenate([part[5].images for part in rows]))


def test_index_is_read_again_only_where_a_tar_was_written(folder, tmp_path, monkeypatch):
    tars, index = tmp_path / "tars", tmp_path / "index"
    shutil.copytree(folder, tars)
    written = []
    monkeypatch.setattr(
        "align_jax.data.tar_pairs.write_index", lambda tar, file: written.append(tar[-9:]) or write_index(tar, file)
    )
    pairs = TarPairs(str(tars), str(index))
    before = list(pairs.open())
    assert written == ["00000.tar", "00001.tar", "00002.tar"]
    assert list(pickle.loads(pickle.dumps(pairs.open()))) == before
    assert len(written) == 3
    shutil.copy(tars / "00000.tar", tars / "00002.tar")
    os.utime(tars / "00002.tar", ns=(1, 1))
    assert len(pairs.open()) == 15
    assert written[3:] == ["00002.tar"]


def test_samples_that_are_no_pair_are_put_aside_with_the_reason(tmp_path):
    members = [
        member("a.jpg", jpeg(0)), member("a.txt", b"good"), member("b.jpg", jpeg(1)),
        member("c.txt", b"no image"), member("../d.jpg", jpeg(2)), member("e.jpg", jpeg(3)), member("e.txt", b"  "),
        member("f.jpg", jpeg(4)), member("f.json", b'{"caption": "from  JSON"}'), member("g.jpg", jpeg(5)),
        member("g.json", b"[]"), member("h.jpg", jpeg(6)), member("h.txt", b"\xff"),
    ]  # fmt: skip
    (tmp_path / "00000.tar").write_bytes(tar_bytes(members))
    source = TarPairs(str(tmp_path)).open()
    found = {}
    for number in range(len(source)):
        try:
            found[source[number].key] = source[number].texts[0]
        except RecordError as error:
            found[str(number)] = str(error)
    assert (found.pop("a"), found.pop("f")) == ("good", "from JSON")
    assert len(found) == 6
    assert [reason for reason in found.values() if "cannot be" not in reason and "can be used" not in reason] == []
    quarantine = Quarantine(tmp_path / "quarantine-0.jsonl", 100)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    loader = TrainLoader(source, ImageTransform(8, 8), PairBatching(Tokenizer(tmp_path), 4), 8, 0, quarantine)
    with contextlib.closing(loader.iterate()) as batches:
        next(batches)
    assert quarantine.count == 6


def test_folders_without_tars_or_samples(tmp_path):
    with pytest.raises(DatasetNotPreparedError, match="no tar in"):
        TarPairs(str(tmp_path / "absent")).open()
    (tmp_path / "00000.tar").write_bytes(bytes(1024))
    with pytest.raises(DatasetError, match="hold no samples"):
        TarPairs(str(tmp_path)).open()
    with pytest.raises(DatasetError, match="name a folder with index_folder"):
        TarPairs(str(tmp_path), str(tmp_path / "00000.tar")).open()
