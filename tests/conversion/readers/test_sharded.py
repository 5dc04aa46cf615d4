"""Weights in shards, whose index and files disagree in every way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from align_jax.conversion.readers import SourceError, TensorInfo
from align_jax.conversion.readers.safetensors import SafetensorsFile
from align_jax.conversion.readers.sharded import ShardedTensors

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
WEIGHT_MAP = {"a": FIRST, "b": SECOND, "c": FIRST}


def write(folder: Path, weight_map: Any = WEIGHT_MAP, **shards: str) -> Path:
    """An index, and shards with the tensors that are named, by letters."""
    for shard, names in ({"first": "ac", "second": "b"} | shards).items():
        tensors = {name: np.full(2, ord(name), np.float32) for name in names}
        save_file(tensors, folder / {"first": FIRST, "second": SECOND}[shard])
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))
    return index


def refusal(index: Path) -> str:
    with pytest.raises(SourceError) as caught:
        ShardedTensors(index, SafetensorsFile)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_come_from_their_shards(tmp_path):
    tensors = ShardedTensors(write(tmp_path), SafetensorsFile)
    assert tensors.files == (tmp_path / FIRST, tmp_path / SECOND)
    assert len(tensors) == 3
    assert {name: tensors[name].tolist() for name in tensors} == {"a": [97, 97], "b": [98, 98], "c": [99, 99]}
    assert tensors.info("b") == TensorInfo((2,), np.dtype(np.float32))
    assert "d" not in tensors


def test_all_missing_shards_are_named(tmp_path):
    index = write(tmp_path)
    (tmp_path / FIRST).unlink()
    (tmp_path / SECOND).unlink()
    assert f"lacks 2 of 2 shards: {FIRST}, {SECOND}" in refusal(index)


def test_all_tensors_that_shards_lack_are_named(tmp_path):
    index = write(tmp_path, WEIGHT_MAP | {"d": FIRST, "e": SECOND})
    assert f"shards lack tensors that it names: d ({FIRST}), e ({SECOND})" in refusal(index)


def test_a_tensor_in_two_shards_is_an_error(tmp_path):
    assert f"shards hold tensors that it places elsewhere or nowhere: a ({SECOND})" in refusal(
        write(tmp_path, second="ab")
    )


def test_a_tensor_that_the_index_does_not_name_is_an_error(tmp_path):
    assert f"elsewhere or nowhere: z ({FIRST})" in refusal(write(tmp_path, first="acz"))


def test_a_tensor_in_the_wrong_shard_is_told_from_both_sides(tmp_path):
    message = refusal(write(tmp_path, first="c", second="ab"))
    assert f"lack tensors that it names: a ({FIRST})" in message
    assert f"elsewhere or nowhere: a ({SECOND})" in message


def test_a_damaged_shard_is_named(tmp_path):
    index = write(tmp_path)
    (tmp_path / SECOND).write_bytes((tmp_path / SECOND).read_bytes()[:-1])
    assert f"{SECOND} is truncated" in refusal(index)


OUTSIDE = ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "..", ".", "", "sub\\x.safetensors",
           "C:x.safetensors", "x\n.safetensors", "x\0.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_shards_outside_the_folder_are_refused(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"x": np.zeros(1)}, tmp_path / "x.safetensors")
    assert "names files outside its folder" in refusal(write(folder, WEIGHT_MAP | {"x": name}))


def test_linked_shards_are_followed(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    index = write(folder)
    for name in (FIRST, SECOND, index.name):
        (folder / name).rename(blobs / name.encode().hex())
        (folder / name).symlink_to(Path("../blobs") / name.encode().hex())
    assert set(ShardedTensors(index, SafetensorsFile)) == {"a", "b", "c"}


def test_an_index_of_any_length_is_not_read(tmp_path):
    index = write(tmp_path)
    with index.open("r+b") as file:
        file.truncate(100_000_001)
    assert "has 100000001 bytes, too many for an index" in refusal(index)


INDEXES = {
    "is empty": b"",
    "not the JSON expected": b"{",
    "not the JSON expected (it is a JSON list": b"[]",
    "it names twice: a": b'{"weight_map": {"a": "x", "a": "y"}}',
    "has no weight_map": b"{}",
    "has no weight_map ": b'{"weight_map": []}',
    "has no weight_map  ": b'{"weight_map": {"a": 1}}',
}


@pytest.mark.parametrize(("problem", "content"), INDEXES.items(), ids=INDEXES)
def test_a_damaged_index_is_an_error(tmp_path, problem, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    assert problem.strip() in refusal(index)
