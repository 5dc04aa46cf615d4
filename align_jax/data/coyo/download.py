"""The command that downloads the images of a list, with img2dataset in an environment of its own.

Its options are those that both data sets were published with (`download/README.md` of kakaobrain/coyo-dataset): images
keep their proportions, are made smaller where they are large, and left as they are where they are small.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from align_jax.data.coyo.releases import Release
from align_jax.data.coyo.url_list import CAPTION

_RESERVED = frozenset(
    {"key", "caption", "url", "width", "height", "original_width", "original_height", "status", "error_message", "exif"}
)
"""Columns that img2dataset writes itself, and refuses to carry along."""


def download_command(urls: Path, output: Path, release: Release, columns: Sequence[str]) -> str:
    """The command line.

    Args:
        urls: the folder of the list.
        output: the folder that the images will be in.
        release: that the list is of.
        columns: of the list.
    """
    options = {
        "url_list": str(urls), "input_format": "parquet", "url_col": "url",
        "caption_col": CAPTION if release.caption else None,
        "output_folder": str(output), "output_format": "webdataset",
        "image_size": str(release.image_size_px), "resize_mode": "keep_ratio", "resize_only_if_bigger": "True",
        "skip_reencode": "True", "min_image_size": "200", "max_aspect_ratio": "3",
        "retries": "1", "processes_count": "16", "thread_count": "64",
        "save_additional_columns": json.dumps([name for name in columns if name not in _RESERVED]),
    }  # fmt: skip
    given = " ".join(f"--{name} {shlex.quote(value)}" for name, value in options.items() if value is not None)
    return f"img2dataset {given}"
