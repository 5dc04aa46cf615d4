"""Files of `torch.save`, read without torch: against `torch.load`, hostile, and damaged in every way."""

import argparse
import collections
import contextlib
import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.conversion.readers import SourceError, torch_containers
from align_jax.conversion.readers.pytorch import PytorchFile

FORMS = pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
]  # fmt: skip


def saved(value: Any, archive: bool = True, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=archive, pickle_protocol=protocol)
    return buffer.getvalue()


def open_bytes(folder: Path, content: bytes) -> PytorchFile:
    path = folder / "pytorch_model.bin"
    path.write_bytes(content)
    return PytorchFile(path)


def refusal(folder: Path, content: bytes) -> str:
    """The message with which a file, or one of its tensors, is refused."""
    with pytest.raises(SourceError) as caught:
        dict(open_bytes(folder, content))
    assert str(folder / "pytorch_model.bin") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def assert_same(file: PytorchFile, tensors: dict[str, torch.Tensor]) -> None:
    assert list(file) == list(tensors)
    assert len(file) == len(tensors)
    for name, tensor in tensors.items():
        expected, found = as_numpy(tensor), file[name]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert (file.info(name).dtype, file.info(name).shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
        assert found.flags.c_contiguous
        assert found.flags.writeable


@FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_reads_as_it_was_saved(tmp_path, archive, dtype):
    values = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    tensors = {"matrix": values, "scalar": values[1, 1].clone(), "empty": torch.zeros(0, 3, dtype=dtype)}
    assert_same(open_bytes(tmp_path, saved(tensors, archive)), tensors)


@FORMS
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_the_state_of_a_module_reads_in_every_protocol(tmp_path, archive, protocol):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    module[2].weight = module[0].weight  # one storage, two names
    content = saved(module.state_dict(), archive, protocol)
    file = open_bytes(tmp_path, content)
    assert_same(file, module.state_dict())
    assert_same(file, torch.load(io.BytesIO(content), weights_only=False))


@FORMS
def test_parameters_and_tensors_with_attributes_read_as_tensors(tmp_path, archive):
    plain, marked, tensor = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3)), torch.ones(4)
    marked.initialized = True
    tensor.note = "kept by torch"
    tensors = {"plain": plain, "marked": marked, "tensor": tensor}
    assert_same(open_bytes(tmp_path, saved(tensors, archive)), tensors)


@st.composite
def views(draw):
    """A view of 24 numbers: any shape, strides (zero among them) and offset that stay inside."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    strides = [draw(st.integers(0, 6)) for _ in shape]
    last = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True)) if 0 not in shape else -1
    while last > 23:
        place = int(np.argmax([(n - 1) * s for n, s in zip(shape, strides, strict=True)]))
        last -= (shape[place] - 1) * strides[place]
        strides[place] = 0
    return shape, strides, draw(st.integers(0, 23 - max(last, 0)))


@settings(max_examples=60, deadline=None)
@given(st.lists(views(), min_size=1, max_size=4), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_views_of_one_storage_read_as_torch_reads_them(made, archive, dtype):
    storage = torch.arange(24).to(dtype)
    tensors = {str(place): torch.as_strided(storage, *view) for place, view in enumerate(made)}
    content = saved(tensors, archive)
    with tempfile.TemporaryDirectory() as folder:
        file = open_bytes(Path(folder), content)
        assert_same(file, torch.load(io.BytesIO(content), weights_only=True))
        assert_same(file, tensors)


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def packed(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(f"model/{name}", content)
    return buffer.getvalue()


def test_the_other_byte_order_is_swapped(tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "c": torch.tensor([True])}
    parts = members(saved(tensors)) | {"byteorder": b"big"}
    for name, width in (("data/0", 4), ("data/1", 2)):
        parts[name] = np.frombuffer(parts[name], f"u{width}").byteswap().tobytes()
    assert_same(open_bytes(tmp_path, packed(parts)), tensors)


def test_files_before_the_byte_order_was_recorded_are_little_endian(tmp_path):
    parts = members(saved({"a": torch.arange(3.0)}))
    del parts["byteorder"]
    assert_same(open_bytes(tmp_path, packed(parts)), {"a": torch.arange(3.0)})


def test_files_saved_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        content = saved({"a": torch.arange(3.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(open_bytes(tmp_path, content), {"a": torch.arange(3.0)})


# -- what lies around the tensors

WEIGHTS = {"w": torch.arange(2.0)}


@pytest.mark.parametrize("name", ["state_dict", "model", "anything"])
def test_the_one_state_dict_of_a_checkpoint_is_found(tmp_path, name):
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    checkpoint = {"epoch": 3, "lr": [0.1], name: WEIGHTS, "optimizer": optimizer, "notes": {"a": None}}
    assert_same(open_bytes(tmp_path, saved(checkpoint)), WEIGHTS)


def test_a_best_score_beside_the_state_dict_is_no_weight(tmp_path):
    assert_same(open_bytes(tmp_path, saved({"best": torch.ones(()), "state_dict": WEIGHTS})), WEIGHTS)


UNCLEAR = {
    "not clear which of its tensors are meant: model, model_ema": {"model": WEIGHTS, "model_ema": WEIGHTS},
    "not clear which of its tensors are meant: a tensor, more": {"a tensor": torch.ones(1), "more": WEIGHTS},
    "1 tensors, and what are no tensors: step": {"a": torch.ones(1), "step": 3},
    "0 tensors, and what are no tensors: x": {"x": {}},
    "no dictionary of tensors": [torch.ones(1)],
    "tensors without names": {3: torch.ones(1)},
}


@pytest.mark.parametrize(("problem", "value"), UNCLEAR.items(), ids=UNCLEAR)
def test_what_is_no_state_dict_is_an_error(tmp_path, problem, value):
    assert problem in refusal(tmp_path, saved(value))


# -- hostile files


class MakesFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["archive", "stream", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, form):
    target = tmp_path / "made"
    value = {"w": torch.ones(2), "x": [MakesFolder(target)], "y": argparse.Namespace(z=1)}
    content = pickle.dumps(value | {"w": 1}) if form == "pickle" else saved(value, form == "archive")
    message = refusal(tmp_path, content)
    assert f"{os.mkdir.__module__}.mkdir, argparse.Namespace" in message
    assert "nothing in it was run" in message
    assert not target.exists()


def test_a_whole_module_is_refused(tmp_path):
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path, saved(torch.nn.Linear(2, 2)))


def test_types_that_numpy_lacks_are_refused(tmp_path):
    value = {"a": torch.ones(1, dtype=torch.complex64), "b": torch.ones(1).to(torch.float8_e4m3fn)}
    assert "torch.ComplexFloatStorage, torch.float8_e4m3fn" in refusal(tmp_path, saved(value))


# -- made by hand, because torch would not write it


class Outside(tuple):
    """A persistent identifier."""


class Rebuilt:
    def __init__(self, function: str, *arguments: Any) -> None:
        self.call = getattr(torch._utils, function), arguments

    def __reduce__(self):
        return self.call


def written(value: Any, storages: dict[str, bytes]) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return tuple(obj) if isinstance(obj, Outside) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(value)
    return packed({"data.pkl": buffer.getvalue(), **{f"data/{key}": data for key, data in storages.items()}})


STORAGE = ("storage", torch.FloatStorage, "0", "cpu", 6)
NO_HOOKS = collections.OrderedDict()


def tensor(offset: Any, shape: Any, strides: Any, *more: Any, storage: Any = STORAGE) -> dict[str, Rebuilt]:
    return {"w": Rebuilt("_rebuild_tensor_v2", Outside(storage), offset, shape, strides, *(more or (False, NO_HOOKS)))}


FORMS_OF_TENSORS = {
    "the first": {"w": Rebuilt("_rebuild_tensor", Outside(STORAGE), 1, (2,), (3,))},
    "with metadata": tensor(1, (2,), (3,), False, NO_HOOKS, {}),
    "with no metadata": tensor(1, (2,), (3,), False, NO_HOOKS, None),
}


@pytest.mark.parametrize("value", FORMS_OF_TENSORS.values(), ids=FORMS_OF_TENSORS)
def test_other_forms_of_tensors_are_read(tmp_path, value):
    assert open_bytes(tmp_path, written(value, {"0": np.arange(6, dtype="<f4").tobytes()}))["w"].tolist() == [1, 4]


def test_parts_of_storages_of_old_releases_are_read(tmp_path):
    value = tensor(1, (2,), (1,), storage=(*STORAGE, ("part", 2, 4)))
    assert open_bytes(tmp_path, written(value, {"0": np.arange(6, dtype="<f4").tobytes()}))["w"].tolist() == [3, 4]


NONSENSE = {
    "tensors reach beyond their storage: w": tensor(0, (7,), (1,)),
    "reach beyond their storage: w ": tensor(6, (1,), (1,)),
    "reach beyond their storage: w  ": tensor(0, (2, 2), (1, 5)),
    "reach beyond their storage: w   ": tensor(1, (4,), (1,), storage=(*STORAGE, ("part", 3, 3))),
    "reach beyond their storage: w    ": {
        "w": Rebuilt("_rebuild_tensor_v3", Outside(("storage", torch.UntypedStorage, "0", "cpu", 24)), 2, (2,), (1,),
                     False, NO_HOOKS, torch.float64)
    },
    "larger than the whole file: w (4194305, 1)": tensor(0, (2**22 + 1, 1), (0, 1)),
    "larger than the whole file: w (0, 1099511627776)": tensor(0, (0, 2**40), (1, 1)),
    "offset, shape and strides make no sense": tensor(-1, (1,), (1,)),
    "offset, shape and strides make no sense ": tensor(0, (-1,), (1,)),
    "offset, shape and strides make no sense  ": tensor(5, (2,), (-1,)),
    "offset, shape and strides make no sense   ": tensor(0, (2,), (1, 1)),
    "offset, shape and strides make no sense    ": tensor(0, [2], [1]),
    "offset, shape and strides make no sense     ": tensor(0, (True,), (1,)),
    "offset, shape and strides make no sense      ": tensor(0, (10**5000,), (0,)),
    "offset, shape and strides make no sense       ": tensor(0, (1,) * 33, (1,) * 33),
    "not described as tensors are": tensor(0, (2,), (1,), False),
    "not described as tensors are ": tensor(0, (2,), (1,), False, NO_HOOKS, {"neg": True}),
    "not described as tensors are  ": {"w": Rebuilt("_rebuild_tensor_v2", "0", 0, (2,), (1,), False, NO_HOOKS)},
    "not described as tensors are   ": {
        "w": Rebuilt("_rebuild_tensor_v3", Outside(STORAGE), 0, (2,), (1,), False, NO_HOOKS, torch.float32)
    },
    "something of what is no view": {"w": Rebuilt("_rebuild_parameter", [1], True, NO_HOOKS)},
    "storages are not of the size that the pickle gives: w": tensor(0, (2,), (1,), storage=(*STORAGE[:4], 5)),
    "something outside that is no storage": tensor(0, (2,), (1,), storage=("module", "m", "0", "cpu", 6)),
    "something outside that is no storage ": tensor(0, (2,), (1,), storage=(*STORAGE[:4], -6)),
    "something outside that is no storage  ": tensor(0, (2,), (1,), storage=(*STORAGE, ("part", 4, 4))),
}  # fmt: skip


@pytest.mark.parametrize(("problem", "value"), NONSENSE.items(), ids=NONSENSE)
def test_tensors_that_make_no_sense_are_errors(tmp_path, problem, value):
    assert problem.strip() in refusal(tmp_path, written(value, {"0": bytes(24)}))


def test_other_calls_in_the_place_of_tensors_are_errors(tmp_path):
    program = b"}X\x01\x00\x00\x00wctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nN))\x85}tRs."
    assert "not described as tensors are" in refusal(tmp_path, packed({"data.pkl": program}))


def test_calls_within_calls_are_not_followed_without_end(tmp_path):
    function = b"ctorch._tensor\n_rebuild_from_type_v2\n"
    arguments = b"(" + (b"(" + function + b"N") * 50_000 + b")" + b"Nt" * 50_000 + b"t"
    assert "not described as tensors are" in refusal(tmp_path, packed({"data.pkl": function + arguments[1:-1] + b"R."}))


# -- damaged archives

GOOD = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64), "c": torch.ones(2, 2, dtype=torch.bool)}


def test_all_missing_storages_are_named(tmp_path):
    parts = {name: part for name, part in members(saved(GOOD)).items() if name not in ("data/0", "data/2")}
    assert "lacks the data of 2 storages: 0, 2" in refusal(tmp_path, packed(parts))


def test_a_storage_of_another_size_is_an_error(tmp_path):
    parts = members(saved(GOOD)) | {"data/1": bytes(15)}
    assert "not of the size that the pickle gives: b (storage '1' has 15 bytes)" in refusal(tmp_path, packed(parts))


def test_altered_data_are_found_by_their_checksum(tmp_path):
    content = bytearray(saved(GOOD))
    content[content.index(GOOD["a"].numpy().tobytes())] ^= 1
    assert "the data of a do not match their checksum" in refusal(tmp_path, bytes(content))


ARCHIVES = {
    "compressed or encrypted": packed(members(saved(GOOD)), zipfile.ZIP_DEFLATED),
    "it holds 0 data.pkl": packed({"data/0": b""}),
    "it holds 0 data.pkl ": packed({"code/data.pkl": b"N."}),
    "byteorder is neither": packed(members(saved(GOOD)) | {"byteorder": b"middle"}),
    "its pickle cannot be read": packed(members(saved(GOOD)) | {"data.pkl": b"("}),
}


@pytest.mark.parametrize(("problem", "content"), ARCHIVES.items(), ids=ARCHIVES)
def test_damaged_archives_are_errors(tmp_path, problem, content):
    assert problem.strip() in refusal(tmp_path, content)


def patched(offset_in_entry: int, value: bytes) -> bytes:
    """An archive, altered in the directory's entry of its first member."""
    content = bytearray(packed(members(saved(GOOD))))
    start = content.index(b"PK\x01\x02") + offset_in_entry
    content[start : start + len(value)] = value
    return bytes(content)


# Offsets in a central directory header: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.12.
DIRECTORIES = {
    "compressed or encrypted": patched(8, b"\x01"),
    "compressed or encrypted ": patched(10, b"\x08"),
    "does not match its checksum": patched(16, b"abc"),
    "reaches beyond its end": patched(24, b"\0\0\1"),
    "is not where its zip directory says": patched(42, b"\1"),
}


@pytest.mark.parametrize(("problem", "content"), DIRECTORIES.items(), ids=DIRECTORIES)
def test_damaged_directories_are_errors(tmp_path, problem, content):
    assert problem.strip() in refusal(tmp_path, content)


def test_descriptions_of_any_length_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_containers, "_LONGEST_PICKLE_BYTES", 99)
    assert "too many to describe a state dict" in refusal(tmp_path, saved(GOOD))
    assert "is not a file that torch.save writes" in refusal(tmp_path, b"X\xc8\0\0\0" + b"x" * 200 + b".")


def test_two_members_of_one_name_are_an_error(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", b"N.")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("m/data.pkl", b"N.")
    assert "names a member twice" in refusal(tmp_path, buffer.getvalue())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_an_altered_byte_of_an_archive_never_reads_as_other_values(data):
    content = bytearray(saved(GOOD))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SourceError):
        file = open_bytes(Path(folder), bytes(content))
        assert {name: file[name].tolist() for name in file} == {name: value.tolist() for name, value in GOOD.items()}


@FORMS
def test_no_beginning_of_a_file_passes_for_the_whole(tmp_path, archive):
    content = saved(GOOD, archive)
    for length in range(1, len(content), 7):
        refusal(tmp_path, content[:length])


# -- damaged streams

STREAM = saved(GOOD, archive=False)


CLAIM = b"\x8e" + (1 << 40).to_bytes(8, "little")  # bytes of a length that no memory has


@pytest.mark.parametrize("content", [b"nothing of the kind", pickle.dumps({"a": 1}), b"\x80\x02.", b"PK", CLAIM])
def test_other_files_are_said_to_be_others(tmp_path, content):
    assert "is not a file that torch.save writes" in refusal(tmp_path, content)


def test_unknown_versions_of_streams_are_told(tmp_path):
    assert "of a version of torch.save that is unknown" in refusal(
        tmp_path, STREAM.replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2))
    )


def test_storages_that_no_tensor_has_are_an_error(tmp_path):
    keys = pickle.dumps(["0"], 2)
    content = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}, {})) + keys
    assert "the storages it lists are not those of the tensors" in refusal(tmp_path, content)


def test_storages_of_another_count_are_an_error(tmp_path):
    place = STREAM.rindex((3).to_bytes(8, "little"))
    assert "has 4 elements instead of 3" in refusal(tmp_path, STREAM[:place] + b"\4" + STREAM[place + 1 :])


def test_bytes_after_a_stream_are_an_error(tmp_path):
    assert "its storages end at byte" in refusal(tmp_path, STREAM + STREAM)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # by pickletools, of the damage
@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(STREAM) - 1), st.integers(0, 4), st.binary(max_size=4), st.booleans())
def test_random_damage_gives_tensors_or_a_plain_error(start, removed, inserted, archive):
    good = saved(GOOD) if archive else STREAM
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SourceError):
        file = open_bytes(Path(folder), good[:start] + inserted + good[start + removed :])
        for name in file:
            assert (file[name].shape, file[name].dtype) == (file.info(name).shape, file.info(name).dtype)
