"""Selections are what pandas selects, and every row is accounted for."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align_jax.cli import main
from align_jax.data.coyo import Selection, Summary, open_inputs, parse_rule, select
from align_jax.data.coyo import selection as selection_module
from tests.data.coyo import made

ROWS = 200_000


@pytest.fixture(scope="module")
def coyo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 rows with the schema of COYO-700M, in two files, some values missing."""
    folder = tmp_path_factory.mktemp("coyo")
    table = made.coyo_700m(ROWS)
    for name in ("clip_similarity_vitb32", "num_faces", "text"):
        table = _with_missing(table, name)
    made.write(folder / "part-00000.snappy.parquet", table.slice(0, 120_000), rows_per_group=45_000)
    made.write(folder / "part-00001.snappy.parquet", table.slice(120_000))
    return folder


@pytest.fixture(scope="module")
def frame(coyo: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(coyo.glob("*.parquet"))], ignore_index=True)


def _with_missing(table: pa.Table, name: str) -> pa.Table:
    missing = pa.array(np.random.default_rng(7).random(len(table)) < 0.01)
    values = pa.compute.if_else(missing, pa.scalar(None, table.schema.field(name).type), table[name])
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)


def _select(source: Path, output: Path, *rules: str, **options: Any) -> tuple[Summary, pd.DataFrame]:
    inputs = open_inputs([source])
    selection = Selection([parse_rule(rule, inputs.release) for rule in rules], **options)
    summary = select(inputs, selection, output)
    return summary, pd.read_parquet(output / "urls")


def _dropped(summary: Summary) -> list[int]:
    return [rows for _, rows in summary.dropped]


def test_selection_is_what_pandas_selects(coyo: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    summary, urls = _select(
        coyo, tmp_path / "out", "clip_similarity_vitl14 >= 0.23", "nsfw_score_opennsfw2 < 0.2",
        "watermark_score <= 0.5", "aesthetic_score_laion_v2 > 4.5", "num_faces <= 2", "short_side >= 300",
        "aspect_ratio <= 2.5", "text_length > 20", "num_tokens_bert <= 64", "text !~ (?i)\\bmarket\\b",
    )  # fmt: skip
    f = frame
    short, long = f[["width", "height"]].min(axis=1), f[["width", "height"]].max(axis=1)
    text = f.text.fillna("market")
    expected = f[(f.clip_similarity_vitl14 >= 0.23) & (f.nsfw_score_opennsfw2 < 0.2) & (f.watermark_score <= 0.5) & (f.aesthetic_score_laion_v2 > 4.5) & (f.num_faces <= 2) & (short >= 300) & (long / short <= 2.5) & (f.text_length > 20) & (f.num_tokens_bert <= 64) & ~text.str.contains(r"\bmarket\b", case=False)]  # fmt: skip  # noqa: E501
    assert 10_000 < len(expected) < ROWS // 2
    assert summary.kept == len(expected) == len(urls)
    assert urls.id.tolist() == expected.id.tolist()  # in the order of the input
    assert urls.url.tolist() == expected.url.tolist()
    assert urls.caption.tolist() == expected.text.tolist()
    assert (urls.watermark_score.to_numpy() == expected.watermark_score.to_numpy()).all()
    assert summary.rows == ROWS == summary.kept + sum(_dropped(summary))


def test_rows_count_at_the_first_rule_that_they_break(coyo: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    rules = ("num_faces == 0", "clip_similarity_vitb32 >= 0.3", "width > 500")
    summary, _ = _select(coyo, tmp_path / "out", *rules, histograms=[])
    left, expected = frame, []
    for kept in (lambda f: f.num_faces == 0, lambda f: f.clip_similarity_vitb32 >= 0.3, lambda f: f.width > 500):
        expected.append(len(left) - kept(left).sum())
        left = left[kept(left)]
    assert _dropped(summary) == expected
    assert [rule for rule, _ in summary.dropped] == list(rules)


EVERY_COLUMN = {
    "id >= 5100000000": lambda f: f.id >= 5_100_000_000,
    "url ~ 7[.]jpg$": lambda f: f.url.str.contains("7[.]jpg$"),
    "text == a the": lambda f: f.text == "a the",
    "width != 200": lambda f: f.width != 200,
    "height < 400": lambda f: f.height < 400,
    "image_phash > x": None,
    "image_phash !~ ^[0-7]": lambda f: ~f.image_phash.str.contains("^[0-7]"),
    "text_length <= 68": lambda f: f.text_length <= 68,
    "word_count >= 11": lambda f: f.word_count >= 11,
    "num_tokens_bert < 15": lambda f: f.num_tokens_bert < 15,
    "num_tokens_gpt == 15": lambda f: f.num_tokens_gpt == 15,
    "num_faces != 1": lambda f: (f.num_faces != 1) & f.num_faces.notna(),
    "clip_similarity_vitb32 != 0.25": lambda f: (f.clip_similarity_vitb32 != 0.25) & f.clip_similarity_vitb32.notna(),
    "clip_similarity_vitl14 < 0.7": lambda f: f.clip_similarity_vitl14 < 0.7,
    "nsfw_score_opennsfw2 <= 0.1": lambda f: f.nsfw_score_opennsfw2 <= 0.1,
    "nsfw_score_gantman >= 0.1": lambda f: f.nsfw_score_gantman >= 0.1,
    "watermark_score > 0.5": lambda f: f.watermark_score > 0.5,
    "aesthetic_score_laion_v2 >= 5": lambda f: f.aesthetic_score_laion_v2 >= 5,
}


def test_every_column_can_be_ruled(coyo: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    ruled = set()
    for number, (rule, expected) in enumerate(EVERY_COLUMN.items()):
        if expected is None:
            with pytest.raises(ValueError, match="does not go with image_phash"):
                _select(coyo, tmp_path / "never", rule)
            continue
        _, urls = _select(coyo, tmp_path / f"{number}", rule, columns=["id"], histograms=[])
        assert urls.id.tolist() == frame[expected(frame).astype(bool)].id.tolist(), rule
        ruled.add(rule.split()[0])
    assert ruled == set(made.COYO_700M.names)


def test_values_in_a_file(coyo: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    hashes = frame.image_phash[::1000].tolist()
    (tmp_path / "hashes.txt").write_text("\n".join([*hashes, "", "unknown"]))
    (tmp_path / "ids.txt").write_text("\n".join(map(str, frame.id[::500])))
    _, urls = _select(
        coyo, tmp_path / "out", f"image_phash not in {tmp_path / 'hashes.txt'}", f"id in {tmp_path / 'ids.txt'}"
    )
    assert urls.id.tolist() == frame[~frame.image_phash.isin(hashes) & frame.id.isin(frame.id[::500])].id.tolist()


def test_histograms_count_every_row(coyo: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    summary, urls = _select(
        coyo,
        tmp_path / "out",
        "clip_similarity_vitb32 > 0.3",
        histograms=["clip_similarity_vitb32", "short_side", "num_faces"],
    )
    clip, side, faces = summary.histograms
    assert clip.missing == frame.clip_similarity_vitb32.isna().sum() > 0
    assert clip.rows.sum() + clip.missing == side.rows.sum() == ROWS
    assert clip.kept.sum() == side.kept.sum() == len(urls)
    expected = np.histogram(frame.clip_similarity_vitb32.dropna().clip(0, 0.5999), clip.edges)[0]
    assert np.abs(np.cumsum(clip.rows - expected)).max() <= 20  # the last digit may move a value over an edge
    assert faces.rows[:4].tolist() == [(frame.num_faces == number).sum() for number in range(4)]
    assert side.rows[0] == (frame[["width", "height"]].min(axis=1) < side.edges[1]).sum()
    assert (tmp_path / "out" / "histograms.png").read_bytes().startswith(b"\x89PNG")


def test_statistics_spare_reading_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups in which a rule keeps all rows, or none, by the footer alone."""
    table = made.coyo_700m(4_000).sort_by("id")
    made.write(tmp_path / "sorted.parquet", table, rows_per_group=1_000)
    read: Counter[str] = Counter()
    batches = selection_module._batches

    def counted(file: Any, group: int, columns: list[str], rows: int) -> Any:
        read.update(columns)
        return batches(file, group, columns, rows)

    monkeypatch.setattr(selection_module, "_batches", counted)
    first, last = table["id"][1_500].as_py(), table["id"][2_999].as_py()
    rules = (f"id >= {first}", f"id <= {last}", "num_faces == 0")
    summary, urls = _select(tmp_path / "sorted.parquet", tmp_path / "out", *rules, histograms=[])
    frame = table.to_pandas()
    inside = frame[(frame.id >= first) & (frame.id <= last)]
    assert urls.id.tolist() == inside[inside.num_faces == 0].id.tolist()
    assert _dropped(summary) == [1_500, 1_000, len(inside) - len(urls)]
    assert read["num_faces"] == read["url"] == 2  # of four row groups


@pytest.mark.parametrize("operator", [">=", ">", "<=", "<", "==", "!="])
def test_statistics_never_decide_wrongly(operator: str, tmp_path: Path) -> None:
    """Groups of one value, at the rule's value, beside it, and around it."""
    table = made.coyo_700m(12)
    width = pa.array([7, 7, 7, 8, 8, 8, 6, 6, 6, 6, 7, 8], pa.int32())
    score = pa.array([0.7, 0.7, 0.7, None, 0.71, 0.71, 0.6, float("nan"), 0.6, 0.6, 0.7, 0.8], pa.float32())
    table = table.set_column(3, "width", width).set_column(15, "watermark_score", score)
    made.write(tmp_path / "a.parquet", table, rows_per_group=3)
    for column, values, value in (("width", width, 7), ("watermark_score", score, 0.7)):
        _, urls = _select(
            tmp_path / "a.parquet", tmp_path / f"out-{column}", f"{column} {operator} {value}", histograms=[]
        )
        found = pd.Series(values.to_pandas())
        mask = found.notna() & eval(f"found.astype('float32') {operator} np.float32(value)")
        assert urls.id.tolist() == table.to_pandas()[mask].id.tolist()


def test_labels_and_probabilities(tmp_path: Path) -> None:
    table = made.coyo_labeled_300m(3_000)
    made.write(tmp_path / "in" / "a.parquet", table, rows_per_group=1_000)
    wanted = list(range(0, 21_841, 37))
    (tmp_path / "classes.txt").write_text("\n".join(map(str, wanted)))
    rows = table.to_pylist()

    def urls_of(name: str, *rules: str, **options: Any) -> list[str]:
        return _select(tmp_path / "in", tmp_path / name, *rules, **options)[1].url.tolist()

    def expected(keep: Any) -> list[str]:
        return [row["url"] for row in rows if keep(row)]

    assert urls_of("a", "label_probs >= 0.25") == expected(lambda row: max(row["label_probs"]) >= 0.25)
    listed = f"labels in {tmp_path / 'classes.txt'}"
    assert urls_of("b", listed) == expected(lambda row: set(row["labels"]) & set(wanted))
    some = urls_of("c", listed, label_threshold=0.1)
    assert some == expected(
        lambda row: any(p >= np.float32(0.1) and one in wanted for one, p in zip(row["labels"], row["label_probs"]))  # noqa: B905
    )
    assert 0 < len(some) < len(rows)
    assert urls_of("d", listed.replace(" in ", " not in ")) == expected(
        lambda row: not set(row["labels"]) & set(wanted)
    )
    assert urls_of("e", "width < 300", columns=[]) == expected(lambda row: row["width"] < 300)
    written = pq.read_schema(tmp_path / "a" / "urls" / "part-00000.parquet")
    assert written.names == ["url", "id", "labels", "label_probs"]


def test_histogram_of_probabilities_is_of_the_largest(tmp_path: Path) -> None:
    given = [[0.35, 0.05], None, [], [None, 0.2], [0.95], [None], [0.1, 0.35, 0.2]]
    table = made.coyo_labeled_300m(len(given))
    at = table.schema.get_field_index("label_probs")
    table = table.set_column(at, table.schema.field(at), pa.array(given, pa.list_(pa.float32())))
    made.write(tmp_path / "a.parquet", table)
    summary, urls = _select(tmp_path / "a.parquet", tmp_path / "out", "label_probs >= 0.3", columns=["id"])
    (found,) = summary.histograms
    bins = {int(bin): int(found.rows[bin]) for bin in np.flatnonzero(found.rows)}
    assert bins == {10: 1, 17: 2, 47: 1}
    assert (found.kept.sum(), found.missing, len(urls)) == (3, 3, 3)
    assert (tmp_path / "out" / "histograms.png").exists()


def test_files_of_the_list_have_the_rows_that_were_asked_for(coyo: Path, tmp_path: Path) -> None:
    summary, urls = _select(coyo, tmp_path / "out", "num_faces == 1", rows_per_file=20_000, histograms=[])
    parts = [pq.read_metadata(tmp_path / "out" / "urls" / name).num_rows for name in summary.files]
    assert parts == [20_000] * (len(urls) // 20_000) + [len(urls) % 20_000]
    assert len(parts) > 2


def test_nothing_kept_is_an_empty_list(coyo: Path, tmp_path: Path) -> None:
    summary, urls = _select(coyo, tmp_path / "out", "width < 3")
    assert len(urls) == summary.kept == 0
    assert "caption" in urls.columns


def test_command_prints_counts_and_what_to_run(coyo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "my list"
    arguments = ["data", "coyo", "select", "--input", str(coyo), "--output", str(output), "--columns", "id,width"]
    assert main([*arguments, "--keep", "num_faces == 0", "text_length > 50", "--histograms", "none"]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((output / "summary.json").read_bytes())
    assert summary["kept"] + sum(one["rows"] for one in summary["dropped"]) == summary["rows"] == ROWS
    assert f"dropped by text_length > 50  {summary['dropped'][1]['rows']:>7,}" in printed
    assert f"--url_list '{output}/urls'" in printed
    assert "--caption_col caption" in printed
    assert printed.endswith("""--save_additional_columns '["id"]'\n""")  # img2dataset has a width of its own
    assert summary["download"] in printed
    assert summary["columns"] == ["url", "caption", "id", "width"]
    assert sorted(path.name for path in output.iterdir()) == ["summary.json", "urls"]
    assert main([*arguments, "--keep", "num_faces == 0"]) == 2
    assert "exists already" in capsys.readouterr().err


def _error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["data", "coyo", "select", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("aesthetics > 5", "has no column 'aesthetics'; it has id, url"),
        ("width", "not COLUMN OPERATOR VALUE"),
        ("width >= wide", "'wide' is not a number"),
        ("width >= 2.5", "holds integers, and 2.5 is none"),
        ("watermark_score >= nan", "'nan' is not a number"),
        ("width ~ 3", "~ does not go with width"),
        ("text ~ (", "the regular expression is wrong"),
        ("id in absent.txt", "absent.txt is not a file"),
        ("id < 99999999999999999999", "beyond 64 bits"),
    ],
)
def test_wrong_rule_is_one_line(rule: str, says: str, coyo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in _error(capsys, "--input", str(coyo), "--output", "never", "--keep", rule)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--columns", "id,short_side"), "computed; choose width and height"),
        (("--columns", "clip"), "has no column 'clip'"),
        (("--histograms", "url"), "column url has no histogram"),
        (("--rows-per-file", "0"), "0 rows in a file are not positive"),
        (("--label-threshold", "7"), "label threshold 7.0 is not between"),
        (("--keep", "width > 3", "width > 3"), "a rule is given twice"),
        (("--label-threshold", "0.1"), "label threshold 0.1 has no effect without a rule on labels"),
        (("--bogus",), "unrecognized arguments: --bogus; see align-jax data coyo select --help"),
    ],
)
def test_wrong_option_is_one_line(
    options: Sequence[str], says: str, coyo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in _error(capsys, "--input", str(coyo), "--output", str(tmp_path / "never"), *options)
    assert not list(tmp_path.iterdir())
