"""Files and folders are whole, or not there."""

import os
import subprocess

import pytest

from align_jax.files import (
    MANIFEST,
    ManifestError,
    check_manifest,
    manifest_problems,
    new_folder,
    replace_file,
    write_manifest,
)


def test_replaced_file_keeps_its_content_when_writing_fails(tmp_path):
    path = tmp_path / "config.json"
    replace_file(path, b"old")
    with pytest.raises(TypeError):
        replace_file(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_folder_appears_with_everything_in_it(tmp_path):
    path = tmp_path / "deep" / "model"
    with new_folder(path) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "file").write_text("content")
        assert not path.exists()
    assert (path / "part" / "file").read_text() == "content"
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]


def test_failed_folder_leaves_nothing(tmp_path):
    def fail() -> None:
        with new_folder(tmp_path / "model") as folder:
            (folder / "config.json").write_text("{}")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert not list(tmp_path.iterdir())


def test_existing_folder_is_left_alone(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "mine").write_text("precious")
    with pytest.raises(ValueError, match="exists already"), new_folder(path):
        pass
    assert (path / "mine").read_text() == "precious"
    (path / "mine").unlink()
    with new_folder(path):  # an empty one is as good as none
        pass
    assert path.is_dir()


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "first").write_bytes(b"1234")
    (tmp_path / "inner" / "second").write_bytes(b"5678")
    write_manifest(tmp_path)
    check_manifest(tmp_path)
    return tmp_path


def test_one_flipped_bit_is_found(sealed):
    (sealed / "inner" / "second").write_bytes(b"5679")
    with pytest.raises(ManifestError, match="inner/second was altered"):
        check_manifest(sealed)


def test_missing_and_added_files_are_named_together(sealed):
    (sealed / "first").rename(sealed / "third")
    with pytest.raises(ManifestError, match="first is missing; third was added"):
        check_manifest(sealed)


def test_every_bit_of_the_manifest_counts(tmp_path):
    (tmp_path / "file").write_bytes(b"1234")
    write_manifest(tmp_path)
    good = (tmp_path / MANIFEST).read_bytes()
    for position in range(8 * len(good)):
        altered = bytearray(good)
        altered[position // 8] ^= 1 << position % 8
        (tmp_path / MANIFEST).write_bytes(altered)
        assert manifest_problems(tmp_path), position
    for length in range(len(good)):
        (tmp_path / MANIFEST).write_bytes(good[:length])
        assert manifest_problems(tmp_path), length


def test_folder_without_manifest_is_refused(sealed):
    (sealed / MANIFEST).unlink()
    with pytest.raises(ManifestError, match="has no SHA256SUMS"):
        check_manifest(sealed)


def test_manifest_is_what_sha256sum_reads(sealed):
    environment = {"PATH": os.environ["PATH"]}
    subprocess.run(["sha256sum", "--check", "--strict", MANIFEST], cwd=sealed, check=True, env=environment)
