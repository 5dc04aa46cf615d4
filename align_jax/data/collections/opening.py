"""Finds out what form an input has, and opens it.

| form | images | texts |
|---|---|---|
| folder | image files at any depth | `.txt` files at any depth, each a text |
| files | image files named one by one | |
| list | a `.txt` file of image paths, one a line | |
| lines | | a `.txt` file, each line a text |
| csv | a `.csv` or `.tsv` file with a column of image paths | … with a column of texts |
| tar | tars of webdataset or img2dataset, or a folder of them | as for images |
| parquet | Parquet files with a column of encoded images, or a folder of them | … with a column of texts |
| array_record | a data set that `align-jax data` or TFDS has prepared | its main captions |
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from align_jax.data.captions import IMAGE_SUFFIXES
from align_jax.data.collections.array_record import ArrayRecords, is_data_set
from align_jax.data.collections.collection import Collection, CollectionFile, FileRecord
from align_jax.data.collections.item import CollectionError, Content
from align_jax.data.collections.metadata import check_column_names, require_columns
from align_jax.data.collections.names import name_problem, shown
from align_jax.data.collections.parquet import DamagedParquetError, ParquetFile, usual_column
from align_jax.data.collections.rows import RowFile, csv_header
from align_jax.data.collections.single_files import Folder, NamedFiles, RefusedFile
from align_jax.data.collections.tar import TarFile

Form = Literal["folder", "files", "list", "lines", "csv", "tar", "parquet", "array_record"]
FORMS: tuple[Form, ...] = get_args(Form)

ALL_COLUMNS = ("*",)
"""All columns of the first file; of Parquet and CSV only."""

_SUFFIX_FORMS: dict[str, Form] = {".tar": "tar", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
_USUAL_TEXT_COLUMNS = ("text", "caption", "txt")
_USUAL_IMAGE_COLUMNS = ("image", "path", "file", "filename")


@dataclass(frozen=True)
class Options:
    """How an input is read, where its form leaves a choice.

    Attributes:
        columns: carried along: columns of CSV and Parquet, keys of the JSON beside an image or in a tar ("txt" is the
            text beside it), features of a data set; or `ALL_COLUMNS`.
        form: of the input; found out where `None`.
        column: the column, member suffix or feature that holds the image or the text, where it has no usual name.
        id_column: the column that holds ids.
        split: of a data set; all of them where `None`.
        root: the folder that the image paths of a list are relative to, where it is not that of the list.
    """

    columns: Sequence[str] = ()
    form: Form | None = None
    column: str | None = None
    id_column: str | None = None
    split: str | None = None
    root: str | Path | None = None


def open_images(
    source: str | Path | Sequence[str | Path],
    options: Options = Options(),
    known: Mapping[str, FileRecord] | None = None,
) -> Collection:
    """Opens a collection of images.

    Args:
        source: a file or folder, or several files of one form.
        options: how it is read.
        known: what is known of its files from an earlier time.

    Raises:
        FileNotFoundError: if it does not exist.
        CollectionError: if it cannot be read as images; says what to do.
    """
    return _open(source, "image", options, known)


def open_texts(
    source: str | Path | Sequence[str | Path],
    options: Options = Options(),
    known: Mapping[str, FileRecord] | None = None,
) -> Collection:
    """Opens a collection of texts; as `open_images`."""
    return _open(source, "text", options, known)


def _open(source: Any, content: Content, options: Options, known: Mapping[str, FileRecord] | None) -> Collection:
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    if options.columns != ALL_COLUMNS:
        check_column_names(options.columns)
    if not paths:
        raise CollectionError("no input is named; give a file or a folder")
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"input {str(path)!r} does not exist")
    if len(paths) > 1 and (folders := [path for path in paths if path.is_dir()]):
        raise CollectionError(f"{folders[0]} is a folder; give one folder, or several files of one form")
    if options.form is not None and options.form not in FORMS:
        raise CollectionError(f"form {options.form!r} is not known; use one of {', '.join(FORMS)}")
    form = options.form or _form(paths, content, options)
    if options.columns == ALL_COLUMNS and form not in ("parquet", "csv"):
        raise CollectionError(f"{paths[0]} is no table but of the form {form}; give Parquet or CSV")
    files, types, chosen = _OPENERS[form](paths, content, options)
    return Collection(form, files, types, chosen, known)


def _form(paths: list[Path], content: Content, options: Options) -> Form:
    """The form of an input, by what lies in it and by the suffixes of names."""
    if paths[0].is_dir():
        return "array_record" if is_data_set(paths[0]) else _form_of_folder(paths[0], content, options)
    forms = {_form_of_file(path, content) for path in paths}
    if len(forms) > 1:
        raise CollectionError(f"the inputs are of several forms ({', '.join(sorted(forms))}); embed each on its own")
    return forms.pop()


def _form_of_file(path: Path, content: Content) -> Form:
    suffix = path.suffix.lower()
    if suffix in _SUFFIX_FORMS:
        return _SUFFIX_FORMS[suffix]
    if suffix == ".txt":
        return "list" if content == "image" else "lines"
    if suffix in IMAGE_SUFFIXES and content == "image":
        return "files"
    known = ", ".join([*_SUFFIX_FORMS, ".txt", *(sorted(IMAGE_SUFFIXES) if content == "image" else ())])
    raise CollectionError(f"{path} is of no form that is known ({known}); name it with --form, or give a folder")


def _form_of_folder(folder: Path, content: Content, options: Options) -> Form:
    wanted = IMAGE_SUFFIXES if content == "image" else {".txt"}
    found: dict[str, str] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million times)
            if suffix in wanted or suffix in _SUFFIX_FORMS:
                found.setdefault("folder" if suffix in wanted else _SUFFIX_FORMS[suffix], os.path.join(parent, name))  # noqa: PTH118
    if "parquet" in found and len(found) > 1 and not _has_items(Path(found["parquet"]), content, options):
        del found["parquet"]  # img2dataset writes its table of metadata beside tars and files
    if not found:
        suffixes = ", ".join(sorted({*wanted, *_SUFFIX_FORMS}))
        raise CollectionError(f"{folder} holds nothing that can be read ({suffixes}); give another folder")
    if len(found) > 1:
        examples = ", ".join(f"{form} ({path})" for form, path in found.items())
        raise CollectionError(f"{folder} holds several forms: {examples}; choose one with --form")
    form: Any = next(iter(found))
    return form


def _has_items(path: Path, content: Content, options: Options) -> bool:
    try:
        ParquetFile(path, "", "", content, column=options.column, id_column=None, columns=())
    except CollectionError:
        return False
    return True


def _named(paths: list[Path], suffixes: Sequence[str]) -> list[tuple[Path, str]]:
    """The files of an input with their names in it: relative to its folder, without the suffix, in order."""
    if len(paths) == 1 and paths[0].is_dir():
        root = paths[0]
        found = sorted(
            (path.relative_to(root).as_posix(), path)
            for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file()
        )  # fmt: skip
        if not found:
            raise CollectionError(f"{root} holds no file with the suffix {' or '.join(suffixes)}; give another folder")
        named = [(path, name[: -len(path.suffix)]) for name, path in found]
    else:
        named = [(path, path.stem) for path in paths]
    names = [name for _, name in named]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise CollectionError(f"two inputs have the name {twice[0]!r}, which ids begin with; rename one")
    for name in names:
        if problem := name_problem(name):
            raise CollectionError(f"the input {shown(name)} cannot be read: {problem}; rename it")
    return named


_Opened = tuple[Sequence[CollectionFile], Mapping[str, Any], Mapping[str, str | None]]
"""Files, types of the carried columns, and `Collection.options`."""


def _folder(paths: list[Path], content: Content, options: Options) -> _Opened:
    if not paths[0].is_dir():
        raise CollectionError(f"{paths[0]} is not a folder; leave out --form")
    return [Folder(paths[0], content, options.columns)], dict.fromkeys(options.columns), {}


def _files(paths: list[Path], content: Content, options: Options) -> _Opened:
    return [NamedFiles(paths, content, options.columns)], dict.fromkeys(options.columns), {}


def _rows(paths: list[Path], content: Content, options: Options) -> _Opened:
    named = _named(paths, (".csv", ".tsv") if paths[0].is_dir() else ())
    columns = csv_header(named[0][0]) if options.columns == ALL_COLUMNS else options.columns
    files = []
    for path, name in named:
        column = options.column
        if column is None and path.suffix.lower() in (".csv", ".tsv"):
            column = usual_column(csv_header(path), _USUAL_IMAGE_COLUMNS if content == "image" else _USUAL_TEXT_COLUMNS)
        root = Path(options.root or path.parent).absolute()
        prefix = f"{name}/" if len(named) > 1 else ""
        files.append(
            RowFile(path, name, prefix, content, root, column=column, id_column=options.id_column, columns=columns)
        )
    chosen = _chosen(files)
    if content == "image":
        elsewhere = options.root is not None and {path.parent.absolute() for path, _ in named} != {files[0].root}
        chosen["root"] = str(files[0].root) if elsewhere else None
    return files, dict.fromkeys(columns), chosen


def _tars(paths: list[Path], content: Content, options: Options) -> _Opened:
    files = [TarFile(path, name, content, options.column, options.columns) for path, name in _named(paths, (".tar",))]
    if options.columns:
        known = set().union(*(file.metadata_keys() for file in files[:3]))
        require_columns(options.columns, sorted(known), f"{files[0].path} (its first samples)")
    return files, dict.fromkeys(options.columns), {"column": options.column and options.column.lower()}


def _parquet(paths: list[Path], content: Content, options: Options) -> _Opened:
    files: list[CollectionFile] = []
    types: Mapping[str, Any] | None = None
    columns = None if options.columns == ALL_COLUMNS else options.columns
    named = _named(paths, (".parquet",))
    for path, name in named:
        try:
            file = ParquetFile(
                path, name, f"{name}/", content,
                column=options.column, id_column=options.id_column, columns=columns,
            )  # fmt: skip
        except DamagedParquetError as error:
            if len(named) == 1:
                raise
            files.append(RefusedFile(path, name, str(error)))
            continue
        for column, found in file.column_types.items():
            if types is not None and types[column] != found:
                raise CollectionError(f"column {column} is {found} in {path}, and {types[column]} in others")
        types = file.column_types
        columns = tuple(types)
        files.append(file)
    if types is None:
        raise CollectionError(f"none of {len(named)} Parquet files can be read: {files[0].read(0).__next__()}")
    return files, types, _chosen([file for file in files if isinstance(file, ParquetFile)])


def _array_record(paths: list[Path], content: Content, options: Options) -> _Opened:
    records = ArrayRecords(paths[0], content, options.split, options.column, options.columns)
    return [records], dict.fromkeys(options.columns), {"column": records.feature, "split": records.split}


def _chosen(files: Sequence[RowFile | ParquetFile]) -> dict[str, str | None]:
    """The columns that are read; `None` where there is none, or where each file has its own usual one."""
    found = {"column": {file.column for file in files}, "id_column": {file.id_column for file in files}}
    return {name: next(iter(values)) if len(values) == 1 else None for name, values in found.items()}


_OPENERS: Mapping[Form, Callable[[list[Path], Content, Options], _Opened]] = {
    "folder": _folder, "files": _files, "list": _rows, "lines": _rows, "csv": _rows, "tar": _tars,
    "parquet": _parquet, "array_record": _array_record,
}  # fmt: skip
