"""The whole way of docs/data.md, from a list of URLs to a model that trains, by the commands that stand there."""

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from align_jax.cli import main
from align_jax.data.records import PairDataset
from tests.data.coyo import made as coyo
from tests.data.img2dataset.made import Sample, write

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "docs" / "data.md").read_text().split("## The whole way")[1].split("\n## ")[0]
COMMANDS = [shlex.split(line) for line in re.findall(r"^    (.+)$", SECTION, re.MULTILINE)]


def picture(width: int, height: int, seed: int) -> bytes:
    file = io.BytesIO()
    colour = tuple(int(value) for value in np.random.default_rng(seed).integers(0, 256, 3))
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def download(arguments: list[str]) -> dict[str, str]:
    """Writes what img2dataset would; every ninth URL is dead, every seventh image small. Gives captions by URL."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    files = sorted(Path(options["--url_list"]).glob("*.parquet"))  # as img2dataset finds them in a folder
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    urls, captions = options["--url_col"], options["--caption_col"]
    shards: list[list[Sample]] = [[]]
    large = {}
    for at, row in enumerate(rows):
        size = (row["width"], row["height"]) if at % 7 else (150, 160)
        size = tuple(384 * side // min(size) if min(size) > 384 else side for side in size)
        dead = at % 9 == 0
        changes = {"url": row[urls], "id": row["id"]}
        error = "HTTP Error 404: Not Found" if dead else None
        image = None if dead else picture(*size, seed=at)
        shards[-1].append(Sample(at, image, row[captions], error, changes))
        if image is not None and min(size) > 200:
            large[row[urls]] = row[captions]
        if len(shards[-1]) == 40:
            shards.append([])
    write(Path(options["--output_folder"]), options["--output_format"], [shard for shard in shards if shard])
    return large


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_of_urls = coyo.coyo_700m(250)
    coyo.write(tmp_path / "coyo-700m" / "data" / "part-00000.parquet", list_of_urls)
    monkeypatch.chdir(tmp_path)
    programs = [Path(command[0]).name for command in COMMANDS]
    assert programs == ["align-jax", "align-jax", "img2dataset", "align-jax", "align-jax", "align-jax"]
    assert main(COMMANDS[0][1:]) == 0
    assert main(COMMANDS[1][1:]) == 0
    large = download(COMMANDS[2][1:])
    assert main(COMMANDS[3][1:]) == 0
    assert main(COMMANDS[4][1:]) == 0

    source = PairDataset("coyo700m", "train", "data").open()
    rows = {row["url"]: row for row in list_of_urls.to_pylist()}
    texts = [source[at].texts[0] for at in range(len(source))]
    assert sorted(texts) == sorted(" ".join(text.split()) for text in large.values())
    for url in large:
        row = rows[url]
        assert row["clip_similarity_vitl14"] >= 0.25
        assert row["watermark_score"] < 0.5
        assert 3 <= len(row["text"].split()) <= 20
    counts = json.loads(Path("data/coyo700m/1.0.0/audit.json").read_bytes())
    assert len(source) == counts["kept"] == json.loads(Path("filtered/audit.json").read_bytes())["kept"] > 40
    assert counts["left_out"]["the filter has not kept it"] > 5

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({*" ".join(large.values()).split()})]
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(words))
    train = COMMANDS[5][1:]
    at = train.index("--config") + 1
    train[at] = f"{ROOT / train[at]}:debug,tokenizer='words'"
    assert main(train) == 0
    lines = [json.loads(line) for path in Path("runs/coyo").rglob("*.jsonl") for line in path.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
