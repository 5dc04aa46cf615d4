"""A TFDS data set made of your own images and captions; `align_jax.data.captions` says what is read.

Every image is decoded once while it is stored, and one that cannot be is kept out. Whatever was left out stands in
`skipped.jsonl` in the folder of the data set, by name and with the reason.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from align_jax.data.captions import CaptionedFiles, Skipped
from align_jax.data.images import ImageDecodeError, decode_image
from align_jax.data.records import DatasetError

SKIPPED_FILE = "skipped.jsonl"


class CaptionedImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Stores captioned files as the split `train` of a data set.

    Attributes:
      name: of the data set.
      skipped: what has been left out so far.
    """

    code_path = None  # no checksums file beside the code, as nothing is downloaded
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, name: str, files: CaptionedFiles, data_dir: str | Path) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise DatasetError(f"data set name {name!r} must be of lower-case letters, digits and _, a letter first")
        self.name = name
        self.skipped = [*files.skipped]
        self._files = files
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images with captions from {self._files.root.name}.",
            features=tfds.features.FeaturesDict(
                {
                    "key": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(None, None, None)),
                    "text": tfds.features.Text(),
                    "aliases": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            supervised_keys=("image", "text"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable[tuple[str, dict[str, Any]]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        stored = 0
        for name, (text, *aliases) in self._files.captions.items():
            encoded = (self._files.root / name).read_bytes()
            try:
                decode_image(encoded)
            except ImageDecodeError as error:
                self.skipped.append(Skipped(name, f"it does not decode: {error}"))
                continue
            stored += 1
            yield name, {"key": name, "image": encoded, "text": text, "aliases": aliases}
        if not stored:
            raise DatasetError(
                f"no usable pair in {self._files.root}: {skipped_by_reason(self.skipped)}; each image needs a caption"
            )


def prepare(builder: CaptionedImages) -> None:
    """Stores the pairs, and beside them the list of what was left out."""
    builder.download_and_prepare()
    lines = [json.dumps({"name": one.name, "reason": one.reason}) + "\n" for one in builder.skipped]
    (Path(builder.data_dir) / SKIPPED_FILE).write_text("".join(lines), encoding="utf-8")


def skipped_by_reason(skipped: list[Skipped]) -> str:
    """A line that counts reasons and names an example of each."""
    if not skipped:
        return "nothing was left out"
    examples = {one.reason: one.name for one in reversed(skipped)}
    counts = Counter(one.reason for one in skipped)
    return "; ".join(f"{count} left out because {why} (as {examples[why]})" for why, count in counts.most_common(5))
