"""The columns of the published Parquet files: names, types, and the bins that their values are counted in.

Sources: README of kakaobrain/coyo-dataset, and the cards of both data sets. The files were written by Spark, whose int,
long and float are Arrow's int32, int64 and float (32 bits). Copies that other programs have widened to int64 or double
hold the same values and are read too.
"""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["integer", "number", "string", "integers", "numbers"]


class CoyoError(ValueError):
    """Files, rules or columns that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Bins:
    """Where values are counted; those outside count in the first or last bin.

    Attributes:
        low: where the first bin begins.
        high: where the last one ends.
        count: of bins, equally wide, or equally wide as logarithms.
        logarithmic: whether it is the latter.
    """

    low: float
    high: float
    count: int = 50
    logarithmic: bool = False


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: as it is published.
        kind: of its values.
        bins: for its histogram, of lists for that of their largest values; `None` where a histogram says nothing.
        sources: the published columns that it is computed from, where it is not one itself.
    """

    name: str
    kind: Kind
    bins: Bins | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release:
    """One of the data sets.

    Attributes:
        name: of the data set.
        columns: all columns of its files.
        caption: the column with the text; `None` where there is none.
        image_size_px: what its authors had img2dataset resize to.
        saved: the columns that are useful beside the downloaded images.
    """

    name: str
    columns: tuple[Column, ...]
    caption: str | None
    image_size_px: int
    saved: tuple[str, ...]

    def column(self, name: str) -> Column:
        """A column, or one of `DERIVED`, by name.

        Raises:
            CoyoError: if there is none.
        """
        known = {column.name: column for column in (*self.columns, *DERIVED)}
        if name not in known:
            raise CoyoError(f"{self.name} has no column {name!r}; it has {', '.join(known)}")
        return known[name]


_SIDE = Bins(100, 10_000, logarithmic=True)
_SHARE = Bins(0, 1)
_SIMILARITY = Bins(0, 0.6, 60)

DERIVED = (
    Column("short_side", "integer", _SIDE, ("width", "height")),
    Column("aspect_ratio", "number", Bins(1, 3), ("width", "height")),
)
"""Columns that are computed: the smaller side, and the larger one divided by it."""

COYO_700M = Release(
    "COYO-700M",
    (
        Column("id", "integer"),
        Column("url", "string"),
        Column("text", "string"),
        Column("width", "integer", _SIDE),
        Column("height", "integer", _SIDE),
        Column("image_phash", "string"),
        Column("text_length", "integer", Bins(0, 300, 60)),
        Column("word_count", "integer", Bins(0.5, 60.5, 60)),
        Column("num_tokens_bert", "integer", Bins(0.5, 100.5, 50)),
        Column("num_tokens_gpt", "integer", Bins(0.5, 100.5, 50)),
        Column("num_faces", "integer", Bins(-0.5, 10.5, 11)),
        Column("clip_similarity_vitb32", "number", _SIMILARITY),
        Column("clip_similarity_vitl14", "number", _SIMILARITY),
        Column("nsfw_score_opennsfw2", "number", _SHARE),
        Column("nsfw_score_gantman", "number", _SHARE),
        Column("watermark_score", "number", _SHARE),
        Column("aesthetic_score_laion_v2", "number", Bins(2, 8, 60)),
    ),
    caption="text",
    image_size_px=384,
    saved=(
        "id", "clip_similarity_vitb32", "clip_similarity_vitl14", "nsfw_score_opennsfw2", "nsfw_score_gantman",
        "watermark_score", "aesthetic_score_laion_v2",
    ),
)  # fmt: skip

COYO_LABELED_300M = Release(
    "COYO-Labeled-300M",
    (
        Column("id", "integer"),
        Column("url", "string"),
        Column("imagehash", "string"),
        Column("labels", "integers"),
        Column("label_probs", "numbers", _SHARE),
        Column("width", "integer", _SIDE),
        Column("height", "integer", _SIDE),
    ),
    caption=None,
    image_size_px=512,
    saved=("id", "labels", "label_probs"),
)


def type_problem(kind: Kind, found: Any, types: Any) -> str | None:
    """Why a column of an Arrow type does not hold values of a kind, or `None` where it does.

    Args:
        kind: what is published.
        found: the type in a file.
        types: `pyarrow.types`.
    """
    integer = types.is_int32(found) or types.is_int64(found)
    number = types.is_float32(found) or types.is_float64(found)
    if kind in ("integers", "numbers"):
        fits = types.is_list(found) or types.is_large_list(found)
        fits = fits and type_problem("integer" if kind == "integers" else "number", found.value_type, types) is None
    elif kind == "string":
        fits = types.is_string(found) or types.is_large_string(found)
    else:
        fits = integer if kind == "integer" else number
    wanted = {
        "integer": "int32 or int64", "number": "float or double", "string": "string", "integers": "list of integers",
        "numbers": "list of float",
    }  # fmt: skip
    return None if fits else f"is {found}, not {wanted[kind]}"
