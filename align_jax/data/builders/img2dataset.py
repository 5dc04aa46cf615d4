"""TFDS data sets made of what img2dataset has downloaded: any list of URLs, COYO-700M, or COYO-Labeled-300M.

Sources: kakaobrain/coyo-dataset, README, "Dataset Structure", for the columns of COYO; `align_jax.data.img2dataset` for
what is read and how. Beside the records lie `audit.json` (rows in, kept, left out by reason, missing shards, and what
they were made from) and `left_out.jsonl` (key and reason; what img2dataset itself has given up stands in its tables).
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds

from align_jax.data.audit import Audit
from align_jax.data.img2dataset.columns import Column
from align_jax.data.img2dataset.kept_ids import keep_only
from align_jax.data.img2dataset.origin import Origin, differences, origin_of
from align_jax.data.img2dataset.part import Identity, Settings
from align_jax.data.img2dataset.preparation import Prepared, Run, prepare_records, processes
from align_jax.data.img2dataset.rows import find_columns, table_schema
from align_jax.data.img2dataset.shards import Layout, Shard, Shards, find_shards
from align_jax.data.records import DatasetError

Source = Literal["img2dataset", "coyo700m", "coyo-labeled300m"]

AUDIT_FILE = "audit.json"
LEFT_OUT_FILE = "left_out.jsonl"
VERSION = "1.0.0"

COYO_700M_COLUMNS = (
    Column("id", "int"),
    Column("url", "text"),
    Column("image_phash", "text"),
    Column("text_length", "int"),
    Column("word_count", "int"),
    Column("num_tokens_bert", "int"),
    Column("num_tokens_gpt", "int"),
    Column("num_faces", "int"),
    Column("clip_similarity_vitb32", "float"),
    Column("clip_similarity_vitl14", "float"),
    Column("nsfw_score_opennsfw2", "float"),
    Column("nsfw_score_gantman", "float"),
    Column("watermark_score", "float"),
    Column("aesthetic_score_laion_v2", "float"),
)
COYO_LABELED_COLUMNS = (Column("labels", "int", many=True), Column("label_probs", "float", many=True))

_WORK_FOLDER = "preparing"
_COYO = "kakaobrain/coyo-dataset on the Hugging Face Hub. Licence of the metadata: CC BY 4.0."
_DTYPES = {"int": np.int64, "float": np.float32, "bool": np.bool_}


@dataclass(frozen=True)
class Input:
    """What is prepared, and how.

    Attributes:
      folder: the `output_folder` of img2dataset.
      layout: found out where `None`.
      columns: of the tables, to be kept.
      identities: what no two records may share; the first record, in the order of shards and keys, stays.
      kept_ids: the output of `align-jax data filter`, where only pairs that it kept are wanted.
    """

    folder: Path
    layout: Layout | None = None
    columns: tuple[str, ...] = ()
    identities: tuple[Identity, ...] = ("key", "pair")
    kept_ids: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What a preparation has found.

    Attributes:
      audit: of all rows.
      missing: shards whose images are not there.
    """

    audit: Audit
    missing: tuple[Shard, ...] = field(default=())

    def __str__(self) -> str:
        lines = [self.audit.table()]
        for shard in self.missing:
            rows = shard.counted_rows()
            lines.append(f"shard {shard.name} is missing, of {'nobody knows how many' if rows is None else rows} rows")
        return "\n".join(lines)


class Img2Dataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Stores the images that img2dataset has downloaded, with captions and columns, as the split `train`."""

    name = "img2dataset"
    code_path = None  # no checksums file beside the code, as nothing is downloaded
    VERSION = tfds.core.Version(VERSION)
    DESCRIPTION = "Images with captions that img2dataset has downloaded."
    CAPTIONED = True

    def __init__(self, source: Input, data_dir: str | Path, name: str | None = None) -> None:
        self.name = name or type(self).name
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise DatasetError(f"data set name {name!r} must be of lower-case letters, digits and _, a letter first")
        self._source = source
        self.shards: Shards = find_shards(source.folder, source.layout)
        if source.kept_ids is not None:
            self.shards = keep_only(self.shards, source.kept_ids)
        self._columns = self._find_columns()
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    def _find_columns(self) -> tuple[Column, ...]:
        return find_columns(self.shards, self._source.columns)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, None)),
        }
        if self.CAPTIONED:
            features["text"] = tfds.features.Text()
        features |= {column.name: _feature(column) for column in self._columns}
        return tfds.core.DatasetInfo(
            builder=self, description=self.DESCRIPTION, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        raise NotImplementedError("shards are prepared by `prepare`, each by itself")

    def _generate_examples(self) -> Any:
        raise NotImplementedError("shards are prepared by `prepare`, each by itself")

    def download_and_prepare(self, **_: Any) -> None:
        """As TFDS has it, in this process."""
        if not self.is_prepared():
            self.prepare(workers=1)
        self.require_same_origin()

    def require_same_origin(self) -> None:
        """Raises `DatasetError` if the data set is prepared already, but was made from something else."""
        path = Path(self.data_dir) / AUDIT_FILE
        audit: Any = json.loads(path.read_bytes()) if path.exists() else {}
        if "made_from" in audit and (changed := differences(audit["made_from"], self._origin)):
            raise DatasetError(
                f"{self.data_dir} was made from something else: {'; '.join(changed)}; remove that folder, or give the "
                "data set another --name"
            )

    @property
    def _settings(self) -> Settings:
        return Settings(self.shards.layout, self._columns, self.CAPTIONED, self._source.identities)

    @property
    def _origin(self) -> Origin:
        return origin_of(self.shards, self._settings)

    def prepare(
        self,
        workers: int = 1,
        progress: Callable[[str, float], AbstractContextManager] | None = None,
        run: Run | None = None,
    ) -> Outcome:
        """Writes the data set; continues what an earlier call has begun.

        Args:
          workers: processes of this machine.
          progress: `align_jax.progress.progress` with a console, or none.
          run: does the work of the shards instead of these processes, such as `align_jax.data.img2dataset.on_beam`'s.

        Raises:
          DatasetError: if there is nothing to keep.
        """
        final = Path(self.data_dir)
        origin = self._origin  # before anything is read, so that what is written meanwhile is seen
        with ExitStack() as resources:
            arguments: dict[str, Any] = {"name": f"{self.name}-train"}
            arguments["run"] = run or resources.enter_context(processes(workers))
            if progress is not None:
                shown = progress(f"shards of {self.name}", len(self.shards.shards))
                arguments["advance"] = resources.enter_context(shown)
            prepared = prepare_records(self.shards, self._settings, self.work_folder, **arguments)
        outcome = Outcome(prepared.audit, tuple(self.shards.missing))
        if not prepared.files:
            raise DatasetError(self._nothing_kept(prepared, outcome))
        self._finish(prepared, outcome, origin)
        prepared.folder.rename(final)
        self.remove_work_folder()
        self.info.read_from_directory(final)
        return outcome

    @property
    def work_folder(self) -> Path:
        """Where everything is written that is not finished."""
        return Path(self.data_dir).parent / _WORK_FOLDER

    def remove_work_folder(self) -> None:
        """Removes what only a preparation needs that has not finished."""
        shutil.rmtree(self.work_folder, ignore_errors=True)

    def _nothing_kept(self, prepared: Prepared, outcome: Outcome) -> str:
        counts = "; ".join(" ".join(line.split()) for line in str(outcome).splitlines())
        message = f"no row of {self._source.folder} can be kept: {counts}"
        if prepared.left_out:
            message += "; the first of them, {}: {}".format(*prepared.left_out[0])
        schema = table_schema(self.shards)
        if (
            self.CAPTIONED
            and schema is not None
            and {column.name for column in COYO_LABELED_COLUMNS} <= {*schema.names}
        ):
            message += "; for images with labels and without captions give --source coyo-labeled300m"
        return message

    def _finish(self, prepared: Prepared, outcome: Outcome, origin: Origin) -> None:
        """Writes what belongs beside the records; `dataset_info.json`, which makes it a data set, last."""
        lines = [json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in prepared.left_out]
        (prepared.folder / LEFT_OUT_FILE).write_text("".join(lines), encoding="utf-8")
        missing = [{"shard": shard.name, "rows": shard.counted_rows()} for shard in outcome.missing]
        audit = outcome.audit.to_dict() | {"missing_shards": missing, "made_from": origin}
        (prepared.folder / AUDIT_FILE).write_text(json.dumps(audit, indent=2) + "\n", encoding="utf-8")
        template = tfds.core.ShardedFileTemplate(
            data_dir=str(prepared.folder), dataset_name=self.name, split="train", filetype_suffix="array_record"
        )
        split = tfds.core.SplitInfo(
            name="train",
            shard_lengths=[records for _, records in prepared.files],
            num_bytes=sum(path.stat().st_size for path, _ in prepared.files),
            filename_template=template,
        )
        self.info.set_splits(tfds.core.splits.SplitDict([split]))
        self.info.write_to_directory(prepared.folder)


class Coyo700m(Img2Dataset, skip_registration=True):
    """Pairs of COYO-700M, with the columns of its tables that img2dataset was told to keep."""

    name = "coyo700m"
    DESCRIPTION = f"COYO-700M: pairs of images and alt texts. {_COYO}"

    def _find_columns(self) -> tuple[Column, ...]:
        return _known_columns(self.shards, COYO_700M_COLUMNS, self._source.columns)


class CoyoLabeled300m(Img2Dataset, skip_registration=True):
    """Images of COYO-Labeled-300M with the 50 most probable of 21,841 labels, and their probabilities."""

    name = "coyo_labeled300m"
    DESCRIPTION = f"COYO-Labeled-300M: images with machine-made labels of ImageNet-21k. {_COYO}"
    CAPTIONED = False

    def _find_columns(self) -> tuple[Column, ...]:
        names = [column.name for column in COYO_LABELED_COLUMNS]
        others = [name for name in self._source.columns if name not in names]
        if table_schema(self.shards) is not None:
            return find_columns(self.shards, [*names, *others])
        return (*COYO_LABELED_COLUMNS, *find_columns(self.shards, others))


BUILDERS: dict[Source, type[Img2Dataset]] = {
    "img2dataset": Img2Dataset, "coyo700m": Coyo700m, "coyo-labeled300m": CoyoLabeled300m,
}  # fmt: skip


def _known_columns(shards: Shards, known: Sequence[Column], wanted: Sequence[str]) -> tuple[Column, ...]:
    """The known columns that the tables have, or those of them that are wanted, and others that are wanted."""
    schema = table_schema(shards)
    own = [one for one in known if (one.name in wanted if wanted else schema is None or one.name in schema.names)]
    others = find_columns(shards, [name for name in wanted if name not in {column.name for column in known}])
    return (*own, *others)


def _feature(column: Column) -> Any:
    one = tfds.features.Text() if column.kind == "text" else tfds.features.Scalar(_DTYPES[column.kind])
    return tfds.features.Sequence(one) if column.many else one
