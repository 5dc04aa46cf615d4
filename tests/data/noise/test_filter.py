"""Every rule against a direct computation, and an audit that adds up."""

import functools
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from align_jax.cli import main
from align_jax.data import noise
from align_jax.data.collections import CollectionError, Refused
from align_jax.data.noise import one_machine
from align_jax.data.noise.pairs import image_size
from align_jax.data.noise.tokens import common_count, tokens
from tests.data.collections.made import picture, write_csv, write_tree
from tests.data.noise import made
from tests.data.noise.made import url_table, write_table

ROWS = made.rows()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_parquet(tmp_path_factory.mktemp("noise") / "00000.parquet", ROWS)


@functools.cache
def _readable() -> list[dict[str, Any]]:
    """The rows that are pairs, with sizes and words found in another way than that of the rules."""
    found = []
    for row in ROWS:
        text = " ".join(row["txt"].split())
        if row["jpg"].startswith(b"\x89PNG") and text:
            words = [word.strip("!,.()") for word in text.lower().split(" ")]
            size = Image.open(io.BytesIO(row["jpg"])).size
            found.append(row | {"text": text, "size": size, "words": [word for word in words if word]})
    return found


def _grams(row: dict[str, Any]) -> list[Any]:
    words = row["words"]
    return [*words, *(tuple(words[at : at + 2]) for at in range(len(words) - 1))]


@functools.cache
def _direct(rule: str) -> Callable[[dict[str, Any]], bool]:
    """Which rows a rule keeps, computed row against row."""
    rows = _readable()
    counts = Counter(gram for row in rows for gram in _grams(row))
    most = {gram for gram, count in counts.items() if sum(other >= count for other in counts.values()) <= 60}
    assert 20 < len(most) <= 60
    return {
        "short-side": lambda row: row["size"][0] > 200 and row["size"][1] > 200,
        "aspect-ratio": lambda row: 1 / 3 < row["size"][0] / row["size"][1] < 3,
        "texts-per-image": lambda row: len({one["text"] for one in rows if one["jpg"] == row["jpg"]}) <= 5,
        "images-per-text": lambda row: len({one["jpg"] for one in rows if one["text"] == row["text"]}) <= 10,
        "tokens": lambda row: all(gram in most for gram in _grams(row)),
        "unigrams": lambda row: 3 <= len(row["words"]) <= 20,
    }[rule]


RULES: dict[str, noise.Rule] = {
    "short-side": noise.ShortSide(200),
    "aspect-ratio": noise.AspectRatio(3),
    "texts-per-image": noise.TextsPerImage(5),
    "images-per-text": noise.ImagesPerText(10),
    "tokens": noise.FrequentTokens(60),
    "unigrams": noise.Unigrams(3, 20),
}


def _kept(folder: Path) -> list[str]:
    return [name for path in sorted(folder.glob("kept/*.parquet")) for name in pq.read_table(path)["id"].to_pylist()]


@pytest.mark.parametrize("name", RULES)
def test_rule_alone_keeps_what_a_direct_computation_keeps(name: str, shards: Path, tmp_path: Path) -> None:
    audit = noise.filter_collection(noise.PairSource((str(shards),)), [RULES[name]], tmp_path / "out")
    rows = _readable()
    expected = [f"00000/{row['key']}" for row in rows if _direct(name)(row)]
    assert _kept(tmp_path / "out") == expected
    assert 0 < len(expected) < len(rows)
    assert audit.pairs == len(ROWS) == audit.unreadable + audit.kept + audit.dropped[0][1]
    assert audit.dropped == audit.alone


def test_audit_adds_up_and_is_what_the_files_say(shards: Path, tmp_path: Path) -> None:
    rules = list(RULES.values())
    audit = noise.filter_collection(noise.PairSource((str(shards),)), rules, tmp_path / "out")
    rows = _readable()
    broken = [[name for name in RULES if not _direct(name)(row)] for row in rows]
    first, alone = Counter(names[0] for names in broken if names), Counter(name for names in broken for name in names)
    assert [rows for _, rows in audit.dropped] == [first[name] for name in RULES]
    assert [rows for _, rows in audit.alone] == [alone[name] for name in RULES]
    assert audit.kept == sum(not names for names in broken) > 0
    assert audit.unreadable == len(ROWS) - len(rows) == 4
    assert audit.pairs == len(ROWS) == audit.unreadable + sum(rows for _, rows in audit.dropped) + audit.kept
    reasons = Counter(pq.read_table(next((tmp_path / "out").glob("dropped/*")))["reason"].to_pylist())
    assert {f"not {rule}": count for rule, count in audit.dropped} == {
        reason: count for reason, count in reasons.items() if reason.startswith("not ")
    }
    written = json.loads((tmp_path / "out" / "audit.json").read_bytes())
    assert written["pairs"] == written["unreadable"] + sum(one["dropped"] for one in written["rules"]) + written["kept"]
    lines = [line.removeprefix("dropped: not ") for line in audit.table().splitlines()]
    shown = [
        int(line.removeprefix(name).split()[0]) for line, name in zip(lines[3:], [r.name for r in rules], strict=False)
    ]
    assert shown == [count for _, count in audit.dropped]
    kept = pq.read_table(next((tmp_path / "out").glob("kept/*"))).to_pylist()[0]
    row = next(row for row in rows if kept["id"] == f"00000/{row['key']}")
    assert (kept["text"], (kept["width"], kept["height"])) == (row["text"], row["size"])


def test_rules_drop_the_same_in_any_order(shards: Path, tmp_path: Path) -> None:
    source, rules = noise.PairSource((str(shards),)), list(RULES.values())
    forward = noise.filter_collection(source, rules, tmp_path / "forward")
    backward = noise.filter_collection(source, rules[::-1], tmp_path / "backward")
    assert _kept(tmp_path / "forward") == _kept(tmp_path / "backward")
    assert dict(forward.alone) == dict(backward.alone)


def test_near_duplicates_are_dropped_by_id(shards: Path, tmp_path: Path) -> None:
    near = {f"00000/{row['key']}" for row in _readable()[::7]} | {"elsewhere"}
    audit = noise.filter_collection(
        noise.PairSource((str(shards),)), [noise.NotNearEvaluation()], tmp_path / "out", near
    )
    assert audit.dropped == (("cosine to evaluation images <= 0.975", len(near) - 1),)
    assert not near & set(_kept(tmp_path / "out"))


def test_words_are_counted_without_punctuation_and_case() -> None:
    assert tokens("A red-hot  Dog, (Dog)!") == ["a", "red-hot", "dog", "dog", "a red-hot", "red-hot dog", "dog dog"]
    assert tokens(" -- !") == []
    assert tokens("नमस्ते दुनिया ❤") == ["नमस्ते", "दुनिया", "❤", "नमस्ते दुनिया", "दुनिया ❤"]


@pytest.mark.parametrize(
    ("allowed", "expected"), [(0, 10), (1, 9), (2, 9), (3, 5), (5, 5), (42, 5), (43, 1), (1000, 1)]
)
def test_equally_frequent_tokens_are_in_or_out_together(allowed: int, expected: int) -> None:
    assert common_count([(5, 2), (1, 40), (9, 1)], allowed) == expected


def test_other_forms_of_collections(tmp_path: Path) -> None:
    """A folder with texts beside the images, and a list of URLs with sizes."""
    write_tree(
        tmp_path / "photos", {"a.jpg": picture(1), "a.txt": "a red dog", "b.jpg": picture(2), "c.txt": "no image"}
    )
    source, collection = noise.PairSource((str(tmp_path / "photos"),)).open()
    (first, second) = source.read(collection)
    assert isinstance(first, noise.Pair)
    assert first[2:] == (8, 8, "a red dog", None)
    assert second == Refused("b.jpg", "it has no text")

    rows = [
        ["url", "caption", "width", "height", "phash"],
        ["u", "a  dog", "300", "400", "x"],
        ["v", "a cat", "0", "4", "y"],
    ]
    path = write_csv(tmp_path / "urls.csv", rows)
    source, collection = noise.PairSource((str(path),), None, None, "phash", ("width", "height")).open()
    (first, second) = source.read(collection)
    assert isinstance(first, noise.Pair)
    assert first[1:] == ("x", 300, 400, "a dog", dict(zip(*rows[:2], strict=True)))
    assert isinstance(second, Refused)
    assert "0 x 4 pixels" in second.reason
    with pytest.raises(CollectionError, match="say which images are the same"):
        noise.PairSource((str(path),), sizes=("width", "height")).open()
    with pytest.raises(CollectionError, match="has no column"):
        noise.PairSource((str(path),), "words", None, "phash", ("width", "height")).open()


def test_rows_of_a_table_are_kept_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all columns and their types, in files that img2dataset can take into memory."""
    monkeypatch.setattr(one_machine, "ROWS_PER_FILE", 4)
    monkeypatch.setattr(one_machine, "_BATCH_ROWS", 4)
    table = url_table(20)
    for part in range(2):
        write_table(tmp_path / "urls" / f"part-{part:05d}.parquet", table.slice(10 * part, 10))
    source = noise.PairSource((str(tmp_path / "urls"),), None, None, "image_phash", ("width", "height"))
    audit = noise.filter_collection(source, [noise.ShortSide(200)], tmp_path / "out")
    expected = table.filter(pa.array([at % 4 != 0 for at in range(20)]))
    kept = sorted((tmp_path / "out" / "kept").iterdir())
    assert [pq.read_metadata(path).num_rows for path in kept] == [4, 4, 4, 3]
    assert pa.concat_tables(map(pq.read_table, kept)) == expected
    assert (audit.kept, audit.unreadable) == (15, 0)
    dropped = pq.read_table(tmp_path / "out" / "dropped")["id"].to_pylist()
    assert dropped == ["part-00000/0", "part-00000/4", "part-00000/8", "part-00001/2", "part-00001/6"]
    with pytest.raises(CollectionError, match="has no column high; it has id, url"):
        noise.PairSource((str(tmp_path / "urls"),), None, None, "image_phash", ("width", "high")).open()
    write_table(tmp_path / "urls" / "part-00002.parquet", table.drop_columns("scores"))
    with pytest.raises(CollectionError, match=r"part-00002\.parquet has no column scores"):
        source.open()
    write_tree(tmp_path / "texts", {"a.txt": "no table"})
    with pytest.raises(CollectionError, match="no table but of the form folder"):
        noise.PairSource((str(tmp_path / "texts"),), None, None, "image_phash", ("width", "height")).open()


def test_size_is_read_from_the_header() -> None:
    whole = picture(3, 40)
    assert image_size(whole) == image_size(whole[: len(whole) // 2]) == (40, 40)


def test_command_prints_the_audit(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "filter", "--input", str(shards), "--output", str(tmp_path / "out"), "--texts-per-image", "5"]
    assert main([*arguments, "--tokens", "60"]) == 0
    printed = capsys.readouterr().out
    audit = json.loads((tmp_path / "out" / "audit.json").read_bytes())
    assert [one["rule"] for one in audit["rules"]] == [
        RULES[name].name
        for name in ("short-side", "aspect-ratio", "texts-per-image", "images-per-text", "tokens", "unigrams")
    ]
    assert audit["kept"] == len(_kept(tmp_path / "out"))
    assert "dropped: not 3 to 20 unigrams" in printed
    assert "near-evaluation: not applied, needs --embeddings and --evaluation\n" in printed
    assert f"pairs in {len(ROWS):>30}".split()[-1] in printed
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rules", "short-side,porn"], "rule 'porn' is not known"),
        (["--rules", "unigrams,unigrams"], "rule Unigrams is given twice"),
        (["--rules", ","], "--rules names no rule"),
        (["--unigrams", "3"], "--unigrams 3 is not 2 values"),
        (["--tokens", ""], "--tokens is not made of whole numbers"),
        (["--cosine", "x", "--embeddings", "e", "--evaluation", "f"], "--cosine x is not a number"),
        (["--embeddings", "e"], "belong together"),
        (["--rules", "near-evaluation"], "needs --embeddings and --evaluation"),
        (["--rules", "tokens", "--embeddings", "e", "--evaluation", "f"], "which --rules does not name"),
        (["--rules", "short-side", "--tokens", "5"], "--tokens 5 is for rule tokens"),
        (["--cosine", "0.9"], "--cosine 0.9 is for rule near-evaluation"),
        (["--tokens", "0"], "the 0 most frequent tokens are none"),
        (["--unigrams", "5,3"], "5 to 3 unigrams are no range"),
        (["--unigrams", "0,0"], "leave no text"),
        (["--aspect-ratio", "1"], "aspect ratio 1 is not above 1"),
        (["--aspect-ratio", "nan"], "aspect ratio nan is not above 1"),
        (["--short-side", "-5"], "short side -5 px is negative"),
        (["--texts-per-image", "0"], "0 texts of an image are not positive"),
        (["--images-per-text", "0"], "0 images of a text are not positive"),
        (["--cosine", "1.5", "--embeddings", "e", "--evaluation", "f"], "cosine 1.5 is not between 0 and 1"),
        (["--embeddings", "absent", "--evaluation", "absent"], "absent has no embeddings.json"),
        (["--text-column", "words"], "has no column words"),
    ],
)
def test_wrong_input_is_one_line(
    options: Sequence[str], says: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "filter", "--input", str(shards), "--output", str(tmp_path / "out"), *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert says in message
    assert not list(tmp_path.iterdir())
