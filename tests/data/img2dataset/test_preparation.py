import shutil

import numpy as np
import pytest

from align_jax.cli import data_img2dataset
from align_jax.cli.data import main
from align_jax.data.builders import img2dataset as builders
from align_jax.data.builders.img2dataset import Img2Dataset, Input
from align_jax.data.img2dataset import part, preparation
from align_jax.data.img2dataset.preparation import first_of_each
from align_jax.data.img2dataset.shards import LAYOUTS
from align_jax.data.records import DatasetError, PairDataset
from tests.data.img2dataset.made import Sample, jpeg, samples, write


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("input") / "download", "webdataset", samples(25))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("whole")
    Img2Dataset(Input(folder), data_dir, "pictures").prepare(workers=1)
    return files(data_dir)


def files(data_dir):
    root = data_dir / "pictures" / "1.0.0"
    return {path.name: path.read_bytes() for path in root.iterdir() if "info" not in path.name}


def killed(*arguments):
    raise KilledError


def die_in(monkeypatch, owner, name, function, builder):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, function)
        with pytest.raises(KilledError):
            builder.prepare(workers=1)


PLACES = [
    (preparation, "write_part", 2), (preparation, "_copy", 2), (preparation, "_finished", 2), (part, "replace_file", 2),
    (part, "serialize", 7), (Img2Dataset, "_finish", 1), (builders.Path, "rename", 1), (builders.shutil, "rmtree", 1),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "at"), PLACES)
@pytest.mark.parametrize("before", [True, False])
def test_killed_anywhere_it_continues_to_the_same_files(folder, whole, tmp_path, monkeypatch, owner, name, at, before):
    original, calls = getattr(owner, name), 0

    def dies(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == at and before:
            raise KilledError
        result = original(*arguments, **named)
        if calls == at:
            raise KilledError
        return result

    die_in(monkeypatch, owner, name, dies, Img2Dataset(Input(folder), tmp_path, "pictures"))
    builder = Img2Dataset(Input(folder), tmp_path, "pictures")
    if not builder.is_prepared():
        builder.prepare(workers=1)
    builder.remove_work_folder()
    assert files(tmp_path) == whole
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["1.0.0"]


def test_finished_parts_are_not_read_again_but_changed_ones_are(folder, tmp_path, monkeypatch):
    read = []
    folder = shutil.copytree(folder, tmp_path / "input")
    original = part.read_rows
    monkeypatch.setattr(part, "read_rows", lambda shard, *rest: read.append(shard.name) or original(shard, *rest))
    die_in(monkeypatch, Img2Dataset, "_finish", killed, Img2Dataset(Input(folder), tmp_path, "pictures"))
    assert read == ["00000", "00001", "00002", "00003", "00004"]
    read.clear()
    (folder / "00003_stats.json").touch()
    Img2Dataset(Input(folder), tmp_path, "pictures").prepare(workers=1)
    assert "00003" in read


def test_halves_of_files_that_a_killed_worker_left_are_no_part_of_the_data_set(folder, whole, tmp_path, monkeypatch):
    die_in(monkeypatch, Img2Dataset, "_finish", killed, Img2Dataset(Input(folder), tmp_path, "pictures"))
    (finished,) = tmp_path.glob("pictures/preparing/finished-*")
    (finished / ".pictures-train.array_record-00001-of-00005.1.tmp").write_bytes(b"half")
    Img2Dataset(Input(folder), tmp_path, "pictures").prepare(workers=1)
    assert files(tmp_path) == whole


def test_duplicates_that_change_are_taken_from_the_input_again(tmp_path, monkeypatch):
    """The shards of the data set were made already, and what they were made of is gone."""
    shards = [[Sample(0, jpeg(0), "a")], [Sample(1, jpeg(1), "b"), Sample(2, jpeg(2), "c")]]
    folder = write(tmp_path / "input", "webdataset", shards)
    die_in(monkeypatch, Img2Dataset, "_finish", killed, Img2Dataset(Input(folder), tmp_path, "pictures"))
    other = write(tmp_path / "other", "webdataset", [[Sample(2, jpeg(2), "c")]])
    for path in other.iterdir():
        path.rename(folder / path.name)
    audit = Img2Dataset(Input(folder), tmp_path, "pictures").prepare(workers=1).audit
    assert (audit.rows, audit.kept) == (3, 2)
    found = [record.texts[0] for record in PairDataset("pictures", "train", str(tmp_path)).open()]
    assert sorted(found) == ["b", "c"]


def test_worker_processes_give_the_same_files(folder, tmp_path, capsys):
    read = ["img2dataset", "--input", str(folder), "--name", "pictures", "--data-dir", str(tmp_path)]
    whole = tmp_path / "whole"
    Img2Dataset(Input(folder), whole, "pictures").prepare(workers=1)
    assert main([*read, "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    assert "25  rows in" in printed
    assert "21  kept" in printed
    assert "21 pairs in train" in printed
    assert files(tmp_path) == files(whole)
    assert main(read) == 0
    assert "already" in capsys.readouterr().out


def test_finished_data_set_does_not_stand_for_another_input_or_other_settings(folder, tmp_path):
    other = write(tmp_path / "other", "webdataset", samples(20), seed=1)
    read = ["img2dataset", "--name", "pictures", "--data-dir", str(tmp_path), "--workers", "1"]
    assert main([*read, "--input", str(other)]) == 0
    made = files(tmp_path)
    with pytest.raises(DatasetError, match=r"shards were 4, and are 5; remove that folder, or give .* --name"):
        main([*read, "--input", str(folder)])
    with pytest.raises(DatasetError, match=r"columns were none, and are id: int; remove"):
        main([*read, "--input", str(other), "--columns", "id"])
    with pytest.raises(DatasetError, match=r"identities were key, pair, and are sha256; remove"):
        main([*read, "--input", str(other), "--unique", "sha256"])
    assert main([*read, "--input", str(other)]) == 0
    (other / "00001_stats.json").touch()
    with pytest.raises(DatasetError, match="files of shards, or kept ids, are others, or were written again; remove"):
        main([*read, "--input", str(other)])
    assert files(tmp_path) == made


def test_calls_that_are_made_twice_change_nothing(folder, whole, tmp_path, monkeypatch):
    """As Beam may do: when a worker is lost, its calls are made again, those too that were through."""
    read = []
    original = part.read_rows
    monkeypatch.setattr(part, "read_rows", lambda shard, *rest: read.append(shard.name) or original(shard, *rest))
    builder = Img2Dataset(Input(folder), tmp_path, "pictures")
    builder.prepare(run=lambda function, calls: (function(*call) for call in calls for _ in range(2)))
    assert files(tmp_path) == whole
    assert read == [shard.name for shard in builder.shards.shards]


def test_command_knows_what_can_be_chosen():
    assert data_img2dataset.LAYOUTS == LAYOUTS
    assert data_img2dataset.IDENTITIES == part.IDENTITIES
    assert list(data_img2dataset.SOURCES) == list(builders.BUILDERS)


def test_duplicates_are_counted_by_the_first_identity_that_finds_them():
    identities = np.array([[1, 5], [2, 6], [1, 7], [3, 5], [4, 7], [1, 5]], np.uint64)
    kept, counts = first_of_each(identities)
    assert kept.tolist() == [True, True, False, False, False, False]
    assert counts == [2, 2]
