"""Safetensors files: against the format's own library, and damaged in every way."""

import contextlib
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.conversion.readers import SourceError, TensorInfo
from align_jax.conversion.readers.safetensors import SafetensorsFile
from align_jax.conversion.readers.weight_file import open_weight_file

TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def content(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def open_bytes(folder: Path, value: bytes) -> SafetensorsFile:
    path = folder / "model.safetensors"
    path.write_bytes(value)
    return SafetensorsFile(path)


@pytest.mark.parametrize("dtype", TYPES.values())
def test_every_type_reads_as_it_was_written(tmp_path, dtype):
    values = np.arange(6).astype(dtype).reshape(2, 3)
    tensors = {"matrix": values, "scalar": values[1, 1], "empty": values[:, :0]}
    torch_dtype = torch.bfloat16 if dtype is ml_dtypes.bfloat16 else torch.from_numpy(np.zeros(1, dtype)).dtype
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(
        {name: torch.tensor(value.tolist(), dtype=torch_dtype).reshape(value.shape) for name, value in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
    file = SafetensorsFile(path)
    assert set(file) == set(tensors)
    assert len(file) == 3
    for name, value in tensors.items():
        assert file.info(name) == TensorInfo(value.shape, np.dtype(dtype))
        assert file[name].dtype == dtype
        np.testing.assert_array_equal(file[name], value)


def test_names_are_looked_up_without_reading(tmp_path):
    file = open_bytes(tmp_path, content({"a": entry(0, 1)}, b"x"))
    (tmp_path / "model.safetensors").unlink()
    assert "a" in file
    assert "b" not in file
    assert file.info("a").size_bytes == 1
    with pytest.raises(KeyError):
        file["b"]
    with pytest.raises(SourceError, match="does not exist"):
        file["a"]


def test_arrays_are_the_callers_own(tmp_path):
    file = open_bytes(tmp_path, content({"a": entry(0, 2)}, b"xy"))
    file["a"][:] = 0
    assert file["a"].tobytes() == b"xy"


def test_other_bytes_than_zero_and_one_are_true(tmp_path):
    file = open_bytes(tmp_path, content({"a": entry(0, 3, "BOOL")}, b"\x00\x01\xff"))
    assert file["a"].view(np.uint8).tolist() == [0, 1, 1]


def test_the_whole_file_never_stays_in_memory(tmp_path):
    part_bytes, parts = 1 << 23, 40
    header = {str(part): entry(part * part_bytes, (part + 1) * part_bytes) for part in range(parts)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(content(header))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + parts * part_bytes)
    script = """if True:
        import resource, sys
        from pathlib import Path
        from align_jax.conversion.readers.safetensors import SafetensorsFile
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        file, before = SafetensorsFile(Path(sys.argv[1])), peak()
        print(sum(int(file[name].max()) for name in file), peak() - before)
    """
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    total, grown_bytes = map(int, run.stdout.split())
    assert total == 0
    assert grown_bytes < 4 * part_bytes


DAMAGED = {
    "is truncated: it has 3 bytes": b"abc",
    "its header would have 99 bytes": struct.pack("<Q", 99) + b"{}",
    "its header would have 18446744073709551615 bytes": b"\xff" * 8 + b"{}",
    "not the JSON expected (Expecting": content(b"{nothing"),
    "not the JSON expected ('utf-8'": content(b'{"\xff": 1}'),
    "nested too deeply": content(b"[" * 100_000),
    "it is a JSON list, not an object": content([]),
    "it names twice: a": content(b'{"a": 1, "b": 2, "a": 3}'),
    "does not give a type, a shape and a range of that size for a, b": content({"a": 1, "b": {}, "c": entry(0, 0)}),
    "range of that size for c": content({"c": entry(0, 4, "F32", [2])}, b"1234"),
    "range of that size for d": content({"d": entry(0, 4, "F32", [-1])}, b"1234"),
    "range of that size for e": content({"e": entry(0, 4, "F32", [True])}, b"1234"),
    "range of that size for f": content({"f": entry(4, 0, "F32", [-1])}, b"1234"),
    "range of that size for g": content({"g": entry(0, 0, "F32", [0, 2**62])}),
    "range of that size for h": content({"h": entry(0, 1, "U8", [1] * 70)}, b"1"),
    "types that cannot be read: i (F4), j (Ω)": content({"i": entry(0, 1, "F4"), "j": entry(1, 2, "Ω")}, b"12"),
    "leave gaps: k (from byte 1, not 0)": content({"k": entry(1, 2)}, b"12"),
    "overlap or leave gaps: m (from byte 1, not 2)": content({"l": entry(0, 2), "m": entry(1, 3)}, b"123"),
    "its tensors take 4 bytes, but only 3 follow the header": content({"n": entry(0, 2), "o": entry(2, 4)}, b"123"),
    "2 bytes follow its last tensor": content({"p": entry(0, 2)}, b"1234"),
}


@pytest.mark.parametrize(("problem", "value"), DAMAGED.items(), ids=DAMAGED)
def test_damage_is_named(tmp_path, problem, value):
    with pytest.raises(SourceError) as caught:
        open_bytes(tmp_path, value)
    assert str(tmp_path / "model.safetensors") in str(caught.value)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_shrinks_while_it_is_open_is_truncated(tmp_path):
    file = open_bytes(tmp_path, content({"a": entry(0, 100)}, bytes(100)))
    (tmp_path / "model.safetensors").write_bytes(content({"a": entry(0, 100)}))
    with pytest.raises(SourceError, match="truncated: bytes"):
        file["a"]


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(10**6))
    with open_weight_file(path) as file:
        path.write_bytes(b"x")
        with pytest.raises(SourceError, match="became shorter"):
            file.read(0, 10**6)


def read_all(value: bytes) -> dict[str, np.ndarray] | None:
    """The tensors, or nothing where the file is refused."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SourceError):
        file = open_bytes(Path(folder), value)
        return {name: file[name] for name in file}
    return None


def read_by_library(value: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    try:
        return {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in safetensors.deserialize(value)}
    except safetensors.SafetensorError:
        return None


def assert_agrees_with_library(value: bytes) -> None:
    ours, theirs = read_all(value), read_by_library(value)
    if theirs is not None and any(dtype not in TYPES for dtype, _, _ in theirs.values()):
        theirs = None
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert ours.keys() == theirs.keys()
        for name, (dtype, shape, data) in theirs.items():
            assert ours[name].dtype == TYPES[dtype]
            assert list(ours[name].shape) == shape
            if dtype != "BOOL":
                assert ours[name].tobytes() == data


@st.composite
def headers(draw):
    """Tensors one after the other, most of the time."""
    position, header = 0, {}
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True, max_size=3)):
        dtype = draw(st.sampled_from(["U8", "F32", "BF16", "F64", "BOOL", "F8_E5M2", "X"]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        length = int(np.prod(shape)) * np.dtype(TYPES.get(dtype, np.uint8)).itemsize
        begin, end = position, position + length
        if draw(st.integers(0, 9)) == 0:
            begin, end = draw(st.tuples(st.integers(-1, 9), st.integers(-1, 9)))
        position = max(position, end)
        header[name] = entry(begin, end, dtype, shape)
    return header, max(0, position + draw(st.sampled_from([0, 0, 0, 0, 1, -1])))


@settings(max_examples=150, deadline=None)
@given(headers())
def test_headers_are_accepted_when_the_library_accepts_them(made):
    header, data_bytes = made
    assert_agrees_with_library(content(header, bytes(index % 256 for index in range(data_bytes))))


GOOD = content(
    {"__metadata__": {"format": "pt"}, "a": entry(0, 8, "F32", [2, 1]), "b": entry(8, 12, "BF16", [2])},
    bytes(range(12)),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 3), st.binary(max_size=3))
def test_random_damage_gives_tensors_or_a_plain_error(start, removed, inserted):
    damaged = GOOD[:start] + inserted + GOOD[start + removed :]
    tensors = read_all(damaged)
    if tensors is not None:
        assert sum(tensor.nbytes for tensor in tensors.values()) <= len(damaged)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_no_beginning_of_a_file_passes_for_the_whole(tmp_path, length):
    with pytest.raises(SourceError):
        open_bytes(tmp_path, GOOD[:length])
