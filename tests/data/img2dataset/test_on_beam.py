"""What img2dataset has downloaded becomes, on Beam's local runner, what it becomes on one machine."""

import dataclasses
from pathlib import Path

import pytest

from align_jax.cli import main
from align_jax.data.img2dataset import preparation
from tests.data.img2dataset.made import samples, write

pytest.importorskip("apache_beam", reason="it needs an environment of its own: make test-beam")
on_beam = pytest.importorskip("align_jax.data.img2dataset.on_beam")


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards with failures, a repeated pair and a cut image, of which the tar of one is missing."""
    shards = samples(25)
    cut = shards[4][1]
    shards[4][1] = dataclasses.replace(cut, image=(cut.image or b"")[:200])
    folder = write(tmp_path_factory.mktemp("input") / "download", "webdataset", shards)
    (folder / "00002.tar").unlink()
    return folder


def command(download: Path, data_dir: Path) -> list[str]:
    read = ["data", "img2dataset", "--input", str(download), "--columns", "id", "score", "labels", "url"]
    return [*read, "--data-dir", str(data_dir)]


def files(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data_dir / "img2dataset" / "1.0.0").iterdir()}


def test_command_gives_the_same_files_and_table(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    assert main([*command(download, one), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "an earlier record has the same image and caption" in printed
    assert "shard 00002 is missing, of 5 rows" in printed
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    options = [f"--beam={option}" for option in ("--runner=DirectRunner", *workers)]
    assert main([*command(download, many), *options]) == 0
    assert capsys.readouterr().out == printed.replace(str(one), str(many))
    assert files(many) == files(one)
    assert len(files(one)) == 4 + 4  # shards, with audit.json, left_out.jsonl and what TFDS writes
    assert [path.name for path in (many / "img2dataset").iterdir()] == ["1.0.0"]


@pytest.mark.parametrize("again", ["--beam=--runner=DirectRunner", "--workers=1"])
def test_pipeline_that_failed_is_continued(
    download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], again: str
) -> None:
    one, broken = tmp_path / "one", tmp_path / "broken"
    original = preparation.write_part

    def write_part(shard, *rest):
        if shard.name == "00003":
            raise OSError(28, "No space left on device")
        return original(shard, *rest)

    monkeypatch.setattr(preparation, "write_part", write_part)
    assert main([*command(download, broken), "--beam=--runner=DirectRunner"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (broken / "img2dataset" / "1.0.0").exists()
    monkeypatch.setattr(preparation, "write_part", original)
    assert main([*command(download, one), "--workers", "1"]) == 0
    assert main([*command(download, broken), again]) == 0
    assert files(broken) == files(one)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--beam=--runner=NoRunner"], "NoRunner"),
        (["--beam=--direct_num_workers=two"], "two"),
        (["--beam=--runner=DirectRunner", "--workers", "2"], "leave one out"),
    ],
)
def test_wrong_options_take_one_line(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main([*command(download, tmp_path), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
