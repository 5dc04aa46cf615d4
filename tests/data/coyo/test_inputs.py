"""Files that are not what was published are refused, and a list that is not whole is none."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from align_jax.cli import main
from align_jax.data.coyo import CoyoError, Selection, open_inputs, select, url_list
from align_jax.files import DiskFullError
from tests.data.coyo import made

TABLE = made.coyo_700m(2_000)


def test_both_releases_are_known(tmp_path: Path) -> None:
    assert open_inputs([made.write(tmp_path / "a.parquet", TABLE)]).release.name == "COYO-700M"
    labeled = made.write(tmp_path / "b.parquet", made.coyo_labeled_300m(10))
    assert open_inputs([labeled]).release.name == "COYO-Labeled-300M"
    with pytest.raises(CoyoError, match=r"b.parquet is of COYO-Labeled-300M, and .*a.parquet of COYO-700M"):
        open_inputs([tmp_path])


def test_wider_types_are_read(tmp_path: Path) -> None:
    """What pandas or polars have written again."""
    wide = {pa.int32(): pa.int64(), pa.float32(): pa.float64(), pa.string(): pa.large_string()}
    schema = pa.schema([field.with_type(wide.get(field.type, field.type)) for field in TABLE.schema])
    made.write(tmp_path / "wide.parquet", TABLE.cast(schema))
    made.write(tmp_path / "published.parquet", TABLE)
    inputs = open_inputs([tmp_path / "published.parquet", tmp_path / "wide.parquet"])
    assert select(inputs, Selection(), tmp_path / "out").kept == 4_000


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("width", pa.array(["640"] * 2_000), "width is string, not int32 or int64"),
        ("watermark_score", pa.array([1] * 2_000), "watermark_score is int64, not float or double"),
        ("url", pa.array([b"http"] * 2_000), "url is binary, not string"),
        ("text", pa.array([["a"]] * 2_000), "text is list<"),
        ("url", pa.array(["a"] * 2_000).dictionary_encode(), "url is dictionary<"),
        ("text", None, "text is missing"),
    ],
)
def test_surprising_types_are_one_line(
    column: str, values: pa.Array | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = TABLE.schema.get_field_index(column)
    table = TABLE.remove_column(index) if values is None else TABLE.set_column(index, column, values)
    path = made.write(tmp_path / "a.parquet", table)
    assert _status(["--input", str(path), "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"a.parquet does not have the columns of COYO-700M: {says}" in message
    assert not (tmp_path / "out").exists()


def test_unreadable_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = made.write(tmp_path / "whole.parquet", TABLE, rows_per_group=500).read_bytes()
    middle = len(whole) // 2
    for content, says in (
        (whole[:-100], "cannot be read as Parquet"),
        (b"", "cannot be read as Parquet"),
        (b"<html>not found</html>", "cannot be read as Parquet"),
        (whole[:middle] + bytes(3_000) + whole[middle + 3_000 :], "cannot be read as Parquet"),
    ):
        path = tmp_path / "broken.parquet"
        path.write_bytes(content)
        assert _status(["--input", str(path), "--output", str(tmp_path / "out"), "--keep", "width > 1"]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "broken.parquet" in message
        assert says in message
        assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    assert _status(["--input", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]) == 2
    assert _status(["--input", str(tmp_path / "absent"), "--output", str(tmp_path / "out")]) == 2
    assert _status(["--input", *[str(tmp_path / "whole.parquet")] * 2, "--output", str(tmp_path / "out")]) == 2
    assert "named twice" in capsys.readouterr().err


def test_full_disk_leaves_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = open_inputs([made.write(tmp_path / "a.parquet", TABLE, rows_per_group=500)])
    monkeypatch.setattr(url_list, "_ROWS_PER_GROUP", 500)
    write, calls = url_list.UrlList._write, []

    def full(self: url_list.UrlList) -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self)

    monkeypatch.setattr(url_list.UrlList, "_write", full)
    with pytest.raises(DiskFullError, match="full; make room"):
        select(inputs, Selection(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_killed_selection_leaves_no_list(tmp_path: Path) -> None:
    """However it ends, the name of the list is taken by a whole one only."""
    made.write(tmp_path / "in" / "a.parquet", TABLE, rows_per_group=10)
    slow = "import sys, time\nfrom align_jax.data.coyo import selection\nfrom align_jax.cli import main\n" \
        "copy = selection._copy\n" \
        "def slowly(*arguments):\n    copy(*arguments)\n    print('.', flush=True)\n    time.sleep(0.05)\n" \
        "selection._copy = slowly\nmain(sys.argv[1:])"  # fmt: skip
    arguments = ["data", "coyo", "select", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", slow, *arguments], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out").exists()
    assert _status(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "urls" / "part-00000.parquet").is_file()


def _status(arguments: list[str]) -> int:
    return main(["data", "coyo", "select", *arguments])


_DAMAGE = """
import random, sys
from pathlib import Path
from align_jax.data.coyo import CoyoError, Selection, open_inputs, parse_rule, select

path, whole, refused = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes(), 0
for seed in range(40):
    damaged, rng = bytearray(whole), random.Random(seed)
    damaged[rng.randrange(len(whole) - 6000, len(whole))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    output = path.with_name(f"out{seed}")
    try:
        inputs = open_inputs([path])
        rules = [parse_rule(rule, inputs.release) for rule in ("width > 300", "watermark_score < 0.9")]
        summary = select(inputs, Selection(rules, histograms=[]), output)
        assert summary.rows == summary.kept + sum(rows for _, rows in summary.dropped)
    except CoyoError:
        refused += 1
        assert not output.exists()
print(refused)
"""


def test_flipped_bits_of_the_footer_are_refused_or_change_nothing(tmp_path: Path) -> None:
    """In a process of its own, since Arrow ends the process over some contradictions."""
    path = made.write(tmp_path / "a.parquet", TABLE.slice(0, 300), rows_per_group=100)
    command = [sys.executable, "-c", _DAMAGE, str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd(), check=False)
    assert finished.returncode == 0, finished.stderr
    assert 5 < int(finished.stdout) < 40
