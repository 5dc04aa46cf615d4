"""What is opened, of all that may lie in a folder, and what is said when it cannot be."""

import json
import os
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from align_jax.conversion import sources
from align_jax.conversion.readers import Tensors
from align_jax.conversion.sources import Source, SourceError, local_path, open_source

FORMS = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]


def write(path: Path, value: float = 1) -> Path:
    """A weight file, or an index with its shard, with one tensor."""
    if path.name.endswith(".index.json"):
        stem, suffix = path.name.removesuffix(".index.json").split(".")
        shard = write(path.with_name(f"{stem}-00001-of-00001.{suffix}"), value)
        path.write_text(json.dumps({"weight_map": {"w": shard.name}}))
    elif path.suffix == ".safetensors":
        save_file({"w": np.full(2, value, np.float32)}, path)
    else:
        torch.save({"w": torch.full((2,), float(value))}, path)
    return path


def refusal(source: str | Path) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", range(4))
def test_the_first_form_in_the_list_wins(tmp_path, place):
    for value, form in enumerate(FORMS[place:], start=place):
        write(tmp_path / form, value)
    (tmp_path / "model.ckpt.index").write_bytes(b"x")
    source = open_source(tmp_path)
    assert source.tensors["w"].tolist() == [place, place]
    assert source.folder == tmp_path
    assert source.format == ("safetensors" if place < 2 else "pytorch")
    shard = FORMS[place].replace(".", "-00001-of-00001.", 1).removesuffix(".index.json")
    assert source.files == (tmp_path / (shard if place % 2 else FORMS[place]),)


@pytest.mark.parametrize("name", [*FORMS, "other.safetensors", "other.pt", "other.pth", "v1.0.bin"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_file_is_opened(tmp_path, name, kind):
    source = open_source(kind(write(tmp_path / name, 7)))
    assert source.folder == tmp_path
    assert source.tensors["w"].tolist() == [7, 7]


class FakeCheckpoint(Tensors):
    """Stands in for the reader of TensorFlow's checkpoints, which needs TensorFlow."""

    def __init__(self, index: Path) -> None:
        self.index = index

    def info(self, name):
        raise KeyError(name)

    def __getitem__(self, name):
        return np.zeros(1)

    def __iter__(self):
        return iter(["w"])

    def __len__(self):
        return 1


@pytest.mark.parametrize("given", ["", "model.ckpt-5.index", "model.ckpt-5"])
def test_a_tensorflow_checkpoint_is_found_by_its_folder_its_index_and_its_name(tmp_path, monkeypatch, given):
    monkeypatch.setattr(sources, "TensorflowCheckpoint", FakeCheckpoint)
    index, data, other = (tmp_path / f"model.ckpt-{end}" for end in ("5.index", "5.data-00000-of-00001", "50.data-0"))
    for path in (index, data, other):
        path.write_bytes(b"x")
    source = open_source(tmp_path / given)
    assert source == Source(tmp_path, (index, data), "tensorflow", source.tensors)
    assert source.tensors.index == index


def test_of_several_tensorflow_checkpoints_one_must_be_named(tmp_path):
    for name in ("b.index", "a.index"):
        (tmp_path / name).write_bytes(b"x")
    assert "holds several checkpoints: a.index, b.index" in refusal(tmp_path)


def test_a_folder_without_weights_is_told_what_it_needs(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "holds no weights; it needs one of model.safetensors, model.safetensors.index.json" in refusal(tmp_path)


def test_files_of_other_names_are_not_guessed_at(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"x")
    assert "must end in one of .safetensors, .bin" in refusal(tmp_path / "weights.h5")


@pytest.mark.parametrize("name", [*FORMS, "model.index"])
def test_empty_files_and_pointers_are_told_apart(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert f"{name} is empty" in refusal(tmp_path)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert f"{name} is a git-LFS pointer, not the file itself; run `git lfs pull`" in refusal(tmp_path)


def test_a_pointer_in_place_of_a_shard_is_told(tmp_path):
    index = write(tmp_path / FORMS[1])
    (tmp_path / "model-00001-of-00001.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "model-00001-of-00001.safetensors is a git-LFS pointer" in refusal(index)


def test_links_are_followed_and_their_folder_is_that_of_the_link(tmp_path):
    folder, blob = tmp_path / "snapshot", tmp_path / "0123"
    folder.mkdir()
    write(tmp_path / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    assert open_source(folder).folder == folder
    blob.unlink()
    assert "links to a file that is not there" in refusal(folder)


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    assert "is not an ordinary file" in refusal(tmp_path)


def test_a_folder_in_place_of_a_file_is_told(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    assert "model.safetensors is a folder" in refusal(tmp_path)


def test_weights_without_tensors_are_an_error(tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    assert "holds no tensors" in refusal(tmp_path)


def test_names_that_are_no_text_are_an_error(tmp_path):
    save_file({"a\x1b[31m": np.zeros(1)}, tmp_path / "model.safetensors")
    assert "names of tensors are no text: 'a\\x1b[31m'" in refusal(tmp_path)


def test_shards_of_several_kinds_are_an_error(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": "y.bin"}}))
    assert "they end in: .bin, .safetensors" in refusal(index)
    index.write_text(json.dumps({"weight_map": {"a": "x.h5"}}))
    assert "they end in: .h5" in refusal(index)


@pytest.mark.parametrize(("method", "what"), [("open", "model.safetensors"), ("iterdir", "")])
def test_what_may_not_be_read_is_one_line(tmp_path, monkeypatch, method, what):
    write(tmp_path / "model.safetensors")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, method, denied)
    assert f"{tmp_path / what} cannot be read: Permission denied" in refusal(tmp_path)


@pytest.mark.parametrize(
    "source", ["", "absent", "./absent/folder", "/absent", "a/b/c", "a/b.safetensors", "x" * 5000, "a\0b", "two\nlines"]
)
def test_what_exists_neither_here_nor_on_the_hub_is_one_line(source):
    message = refusal(source)
    assert "does not exist; give a folder, a weight file, or a model on the Hub" in message
    assert len(message) < 400


# -- the Hub's cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def fill(cache: Path, form: str, revision: str = "main") -> Path:
    """What a download leaves behind: blobs by digest, snapshots by commit that link to them, commits by revision."""
    model, commit = cache / "models--owner--name", (revision.encode().hex() * 40)[:40]
    snapshot = model / "snapshots" / commit
    for folder in (snapshot, model / "blobs", model / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (model / "refs" / revision).write_text(commit)
    write(snapshot / form, len(revision))
    for place, path in enumerate(sorted(snapshot.iterdir())):
        blob = model / "blobs" / f"{commit}{place}"
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.mark.parametrize("form", FORMS)
def test_a_model_in_the_cache_opens_without_a_connection(cache, form):
    snapshot = fill(cache, form)
    source = open_source("owner/name")
    assert source.folder == local_path("owner/name") == snapshot
    assert source.tensors["w"].tolist() == [4, 4]


def test_the_revision_chooses_among_cached_commits(cache):
    fill(cache, FORMS[0])
    snapshot = fill(cache, FORMS[0], "v2")
    assert open_source("owner/name", revision="v2").folder == snapshot
    assert open_source("owner/name", revision=snapshot.name).folder == snapshot
    assert open_source("owner/name").tensors["w"].tolist() == [4, 4]
    with pytest.raises(SourceError, match="owner/name is no file or folder here, and as a model on the Hub it cannot"):
        open_source("owner/name", revision="v3")


def test_without_a_connection_and_a_cache_both_readings_are_told(cache):
    message = refusal("owner/name")
    assert "owner/name is no file or folder here, and as a model on the Hub it cannot be had: " in message
    assert "offline" in message


def test_what_is_on_disk_wins_over_the_hub(cache, tmp_path, monkeypatch):
    fill(cache, FORMS[0])
    monkeypatch.chdir(tmp_path)
    Path("owner/name").mkdir(parents=True)
    write(Path("owner/name/model.safetensors"), 9)
    assert open_source("owner/name").tensors["w"].tolist() == [9, 9]
