"""The pipeline, on Beam's local runner, gives what one machine gives."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from align_jax.cli import main
from align_jax.data import noise
from align_jax.data.collections import Refused
from tests.data.noise import made

beam = pytest.importorskip("apache_beam", reason="it needs an environment of its own: make test-beam")
testing = pytest.importorskip("apache_beam.testing.util")
on_beam = pytest.importorskip("align_jax.data.noise.on_beam")

RULES = (
    noise.ShortSide(200), noise.AspectRatio(3), noise.TextsPerImage(5), noise.NotNearEvaluation(),
    noise.ImagesPerText(10), noise.FrequentTokens(60), noise.Unigrams(3, 20),
)  # fmt: skip


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    rows = [row for path in folder.glob(f"{name}/*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


def test_pipeline_keeps_drops_and_counts_as_one_machine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = made.write_parquet(tmp_path / "00000.parquet", made.rows())
    source, near = noise.PairSource((str(shards),)), [f"00000/{number:04d}" for number in range(0, 390, 5)]
    monkeypatch.setattr(on_beam, "_SLICE_ENTRIES", 100)
    expected = noise.filter_collection(source, RULES, tmp_path / "one", [*near, "elsewhere"])
    (tmp_path / "near.txt").write_text("\n".join([*near, "elsewhere"]))
    parts = on_beam.near_duplicates([tmp_path / "near.txt"], lambda part: part.read_text().split())
    audit = on_beam.filter_on_beam(source, RULES, tmp_path / "beam", parts)
    assert audit == expected
    assert all(count for _, count in audit.alone)
    for name in ("kept", "dropped"):
        assert _rows(tmp_path / "beam", name) == _rows(tmp_path / "one", name)
    assert (tmp_path / "beam" / "audit.json").read_bytes() == (tmp_path / "one" / "audit.json").read_bytes()
    assert {path.name for path in (tmp_path / "beam").iterdir()} == {"kept", "dropped", "audit.json"}


def test_rows_of_a_table_are_kept_as_they_were(tmp_path: Path) -> None:
    urls = made.write_table(tmp_path / "urls.parquet", made.url_table(20))
    source = noise.PairSource((str(urls),), None, None, "image_phash", ("width", "height"))
    expected = noise.filter_collection(source, RULES[:1], tmp_path / "one")
    assert on_beam.filter_on_beam(source, RULES[:1], tmp_path / "beam") == expected
    assert pq.read_table(tmp_path / "beam" / "kept").sort_by("id") == pq.read_table(tmp_path / "one" / "kept")


def test_one_rule_as_a_transform() -> None:
    """Only what the rule asks for is counted; refused entries stay."""
    pairs = [noise.Pair(f"{number}", f"image {number % 4}", 300, 300, f"text {number}") for number in range(9)]
    judged = [(pair, ["texts of the image <= 2"] if pair.image == "image 0" else []) for pair in pairs]
    refused = Refused("x", "broken")
    with beam.Pipeline(runner="DirectRunner") as pipeline:
        entries = pipeline | beam.Create([*pairs, refused])
        found = on_beam.NoiseFilter([noise.TextsPerImage(2)]).judged(entries)
        testing.assert_that(found, testing.equal_to([*judged, (refused, None)]))


def test_command_with_beam_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = made.write_parquet(tmp_path / "00000.parquet", made.rows()[:40])
    arguments = ["data", "filter", "--input", str(shards), "--rules", "short-side,tokens", "--tokens", "60"]
    assert main([*arguments, "--output", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert main([*arguments, "--output", str(tmp_path / "beam"), "--beam=--runner=DirectRunner"]) == 0
    assert capsys.readouterr().out.replace("/beam/", "/one/") == printed
