"""Only what the noise filter has kept becomes a data set."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align_jax.cli import main
from align_jax.data import noise
from align_jax.data.builders.img2dataset import Img2Dataset, Input
from align_jax.data.collections import CollectionError
from align_jax.data.records import PairDataset
from tests.data.img2dataset.made import samples, write

REASON = "the filter has not kept it"


def filtered(images: Path, output: Path, every: int = 3) -> tuple[list[str], list[str]]:
    """Filters out every n-th pair; gives the keys that are kept and dropped."""
    source, collection = noise.PairSource((str(images),)).open()
    pairs = [entry.id for entry in source.read(collection) if isinstance(entry, noise.Pair)]
    noise.filter_collection(source, [noise.NotNearEvaluation()], output, pairs[::every])
    keys = [Path(name).stem for name in pairs]
    return [key for at, key in enumerate(keys) if at % every], keys[::every]


@pytest.mark.parametrize("layout", ["webdataset", "parquet", "files"])
def test_only_what_is_kept_becomes_a_record(layout: str, tmp_path: Path) -> None:
    images = write(tmp_path / "images", layout, samples(25))
    kept, dropped = filtered(images, tmp_path / "filtered")
    command = ["data", "img2dataset", "--input", str(images), "--data-dir", str(tmp_path / "data"), "--workers", "1"]
    command += ["--unique", "key", "--keep-ids", str(tmp_path / "filtered")]
    assert main(command) == 0
    folder = tmp_path / "data" / "img2dataset" / "1.0.0"
    source = PairDataset("img2dataset", "train", str(tmp_path / "data")).open()
    assert sorted(source[at].key for at in range(len(source))) == sorted(kept)
    audit = json.loads((folder / "audit.json").read_bytes())
    assert audit["left_out"][REASON] == len(dropped) + 1 > 5  # and one without a caption, which the filter cannot use
    assert audit["rows"] == 25 == audit["kept"] + sum(audit["left_out"].values())
    left_out = [json.loads(line)["key"] for line in (folder / "left_out.jsonl").read_text().splitlines()]
    assert not {*left_out} & {*dropped}
    assert main(command) == 0
    filtered(images, tmp_path / "again", every=4)
    assert main([*command[:-1], str(tmp_path / "again")]) == 2


def test_ids_that_are_not_of_this_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write(tmp_path / "images", "webdataset", samples(25))
    kept, _ = filtered(images, tmp_path / "filtered")
    builder = Img2Dataset(Input(images, kept_ids=tmp_path / "filtered"), tmp_path / "data")
    assert sum(len((shard.kept or "").splitlines()) for shard in builder.shards.shards) == len(kept)

    (path,) = (tmp_path / "filtered" / "kept").iterdir()
    table, row = pq.read_table(path), {"image": "x", "width": 1, "height": 1, "text": "t"}
    more = pa.Table.from_pylist([row | {"id": "00000/000000099"}], table.schema)
    pq.write_table(pa.concat_tables([table, more]), path)
    outcome = Img2Dataset(Input(images, kept_ids=tmp_path / "filtered"), tmp_path / "data").prepare()
    assert outcome.audit.rows == 25
    left_out = (tmp_path / "data" / "img2dataset" / "1.0.0" / "left_out.jsonl").read_text()
    assert "1 rows that the filter has kept are not in it, such as 000000099" in left_out

    command = ["data", "img2dataset", "--input", str(images), "--data-dir", str(tmp_path / "other"), "--keep-ids"]
    for content, says in (
        (pa.Table.from_pylist([row | {"id": "images/1"}], table.schema), "keeps 'images/1', of a shard that is not"),
        (pa.table({"id": [1], "url": ["u"]}), "holds rows of a table; filter what img2dataset has downloaded"),
        (None, "is not a whole Parquet file"),
    ):
        path.write_bytes(b"PAR1")
        if content is not None:
            pq.write_table(content, path)
        assert main([*command, str(tmp_path / "filtered")]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert says in message
    path.unlink()
    with pytest.raises(CollectionError, match=r"has no files kept/\*\.parquet"):
        Img2Dataset(Input(images, kept_ids=tmp_path / "filtered"), tmp_path / "data")
