"""Runs that are interrupted, repeated and continued end with the files of a run that was left alone."""

import contextlib
import dataclasses
import hashlib
import json

import numpy as np
import pytest

from align_jax.data.collections import CollectionError, Options, open_images, open_texts
from align_jax.files import DiskFullError
from align_jax.inference.embedder import Embedder
from align_jax.inference.embedding import run as module
from align_jax.inference.embedding.folder import EmbeddingFolderError, read_embeddings
from align_jax.inference.embedding.part import PartError, part_name
from align_jax.inference.embedding.run import EmbeddingRun
from tests.data.collections.made import picture, write_tree
from tests.inference.tiny_align import write_folder

COUNT, BROKEN = 23, (0, 7, 8, 22)
SHARD_SIZE = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def embedder(model):
    return Embedder.from_pretrained(model, batch_size=8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of which some are broken, with a word beside each."""
    files = {f"{n:02}.jpg": b"broken" if n in BROKEN else picture(n, 20 + n) for n in range(COUNT)}
    words = {f"{n:02}.txt": f"word {n}" for n in range(COUNT)}
    return write_tree(tmp_path_factory.mktemp("pictures"), files | words)


def fill(embedder, pictures, output, *, parts=None, processes=1, shard_size=SHARD_SIZE, columns=("txt",)):
    """What `align-jax embed` does; `parts` stops before the others."""
    collection = open_images(pictures, Options(columns=columns))
    for process in range(processes):
        with contextlib.closing(
            EmbeddingRun(
                embedder, collection, output, content="images", source=["pictures"], model_source="model",
                shard_size=shard_size,
            )
        ) as run:  # fmt: skip
            claimed = run.claim(process, processes)
            run.embed(claimed if parts is None else [index for index in claimed if index in parts])
            if parts is None and process == processes - 1:
                return run.finish()
    return None


def files_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(embedder, pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "output"
    fill(embedder, pictures, output)
    return output


def test_rows_are_the_embeddings_of_their_files_and_the_others_are_listed(embedder, pictures, undisturbed):
    read = read_embeddings(undisturbed)
    good = [number for number in range(COUNT) if number not in BROKEN]
    assert read.ids == [f"{number:02}.jpg" for number in good]
    assert read.columns == {"txt": [f"word {number}" for number in good]}
    np.testing.assert_allclose(
        read.embeddings, embedder.images(pictures / name for name in read.ids), rtol=0, atol=1e-6
    )
    refused = [json.loads(line) for line in (undisturbed / "refused.jsonl").read_text().splitlines()]
    assert [line["id"] for line in refused] == [f"{number:02}.jpg" for number in BROKEN]
    assert all("not an image format" in line["reason"] for line in refused)
    assert read.metadata["counts"]["embedded"] + read.metadata["counts"]["refused"] == COUNT


@pytest.mark.parametrize("made", [set(), {0}, {1, 2}])
def test_continued_run_ends_with_the_same_files(embedder, pictures, undisturbed, tmp_path, made):
    fill(embedder, pictures, tmp_path / "output", parts=made)
    with pytest.raises(EmbeddingFolderError, match="is not finished"):
        read_embeddings(tmp_path / "output")
    fill(embedder, pictures, tmp_path / "output")
    assert files_of(tmp_path / "output") == files_of(undisturbed)


def test_processes_share_the_work_and_end_with_the_same_files(embedder, pictures, undisturbed, tmp_path):
    fill(embedder, pictures, tmp_path / "output", processes=2)
    assert files_of(tmp_path / "output") == files_of(undisturbed)


def test_finished_run_does_nothing_and_missing_or_cut_parts_are_made_again(
    embedder, pictures, undisturbed, tmp_path, monkeypatch
):
    output = tmp_path / "output"
    fill(embedder, pictures, output)
    (output / part_name(0)).unlink()
    (output / part_name(1)).write_bytes((output / part_name(1)).read_bytes()[:-100])
    (output / f".{part_name(2)}.99.tmp").write_bytes(b"left by a kill")
    (output / ".lock-3").write_bytes(b"")
    with pytest.raises((PartError, FileNotFoundError)):
        read_embeddings(output)
    fill(embedder, pictures, output)
    assert files_of(output) == files_of(undisturbed)
    monkeypatch.setattr(Embedder, "stream_images", lambda *_: pytest.fail("a finished run embeds nothing"))
    fill(embedder, pictures, output)
    assert files_of(output) == files_of(undisturbed)


def test_other_settings_and_other_inputs_are_named_and_cost_nothing(embedder, model, pictures, undisturbed, tmp_path):
    before = files_of(undisturbed)
    with pytest.raises(EmbeddingFolderError, match="shard_size 8 then, 4 now"):
        fill(embedder, pictures, undisturbed, shard_size=4)
    with pytest.raises(EmbeddingFolderError, match="columns: txt string then, None now"):
        fill(embedder, pictures, undisturbed, columns=())
    with pytest.raises(EmbeddingFolderError, match="batch_size 8 then, 16 now"):
        fill(Embedder.from_pretrained(model, batch_size=16), pictures, undisturbed)
    fewer = write_tree(tmp_path / "fewer", {f"{n:02}.jpg": picture(n) for n in range(3)})
    with pytest.raises(EmbeddingFolderError, match="input of 23 entries then, 3 now"):
        fill(embedder, fewer, undisturbed)
    other = Embedder(
        dataclasses.replace(embedder.config, temperature_init_value=0.5), embedder_variables(model),
        embedder_tokenizer(model), embedder.preprocessing, batch_size=8,
    )  # fmt: skip
    with pytest.raises(EmbeddingFolderError, match="model"):
        fill(other, pictures, undisturbed)
    assert files_of(undisturbed) == before


def embedder_variables(folder):
    from align_jax import load_model

    return load_model(folder).variables


def embedder_tokenizer(folder):
    from align_jax import load_model

    return load_model(folder).tokenizer


def test_folder_with_other_things_is_left_alone(embedder, pictures, tmp_path):
    write_tree(tmp_path / "mine", {"thesis.txt": "years of work"})
    with pytest.raises(EmbeddingFolderError, match=r"holds other things, such as thesis\.txt"):
        fill(embedder, pictures, tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddingFolderError, match="cannot be a folder"):
        fill(embedder, pictures, tmp_path / "file")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_commands_do_not_fill_one_folder(embedder, pictures, tmp_path):
    collection = open_images(pictures)
    arguments = {"content": "images", "source": [""], "model_source": "", "shard_size": SHARD_SIZE}
    first = EmbeddingRun(embedder, collection, tmp_path / "output", **arguments)
    second = EmbeddingRun(embedder, collection, tmp_path / "output", **arguments)
    first.claim()
    temporary = tmp_path / "output" / ".embeddings.json.99.tmp"  # the first is about to write it again
    temporary.write_text("{")
    (tmp_path / "output" / "embeddings.json").unlink()
    before = files_of(tmp_path / "output")
    with pytest.raises(EmbeddingFolderError, match="another command is filling"):
        second.claim()
    assert files_of(tmp_path / "output") == before
    first.close()
    assert second.claim() == [0, 1, 2]
    second.close()


def test_full_disk_costs_no_part_that_was_made(embedder, pictures, undisturbed, tmp_path, monkeypatch):
    output, write = tmp_path / "output", module.write_part

    def without_room(path, *arguments):
        if path.name != part_name(0):
            raise DiskFullError(f"the disk of {path.parent} is full")
        write(path, *arguments)

    monkeypatch.setattr(module, "write_part", without_room)
    with pytest.raises(DiskFullError):
        fill(embedder, pictures, output)
    assert files_of(output)[part_name(0)] == files_of(undisturbed)[part_name(0)]
    monkeypatch.undo()
    fill(embedder, pictures, output)
    assert files_of(output) == files_of(undisturbed)


def test_texts_are_embedded_too_and_an_empty_input_is_an_error(embedder, tmp_path):
    (tmp_path / "texts.txt").write_text("a cat\n\na dog\n")
    run = EmbeddingRun(
        embedder, open_texts(tmp_path / "texts.txt"), tmp_path / "output", content="texts", source=[""],
        model_source="",
    )  # fmt: skip
    with contextlib.closing(run):
        run.embed(run.claim())
        summary = run.finish()
    assert (summary.embedded, summary.refused) == (2, {"the text is empty": 1})
    read = read_embeddings(tmp_path / "output")
    assert read.ids == ["0", "2"]
    np.testing.assert_allclose(read.embeddings, embedder.texts(["a cat", "a dog"]), rtol=0, atol=1e-6)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(CollectionError, match="holds no texts"):
        EmbeddingRun(
            embedder, open_texts(tmp_path / "empty.txt"), tmp_path / "output", content="texts", source=["empty.txt"],
            model_source="",
        )  # fmt: skip
