"""Classes of a benchmark: what identifies them, their names in words, and the files that say so.

n01440764 tench, Tinca tinca             synset_words.txt, LOC_synset_mapping.txt; of several names the first counts
{"0": ["n01440764", "tench"], …}         imagenet_class_index.json
["tench", …] or a name in each line      names alone, in the order of the classes
n01443537 goldfish, among other text     README.txt of ImageNet-R and -A
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_jax.data.benchmarks.images import BenchmarkError

SYNSET = re.compile(r"n\d{8}")
_SYNSET_LINE = re.compile(r"(n\d{8})(?:[\s,:]+(.*))?")
_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "imagenet_class_index.json")
_FOLDERS_ABOVE = 3  # ILSVRC/Data/CLS-LOC lies so deep below the list of its classes


@dataclass(frozen=True)
class ClassFile:
    """The classes that a file lists, in order.

    Attributes:
        path: of the file.
        keys: synsets; `None` where the file has names alone.
        names: in words; `None` where the file has synsets alone.
    """

    path: Path
    keys: tuple[str, ...] | None
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class Classes:
    """The classes that are told apart.

    Attributes:
        keys: synsets, names of folders, or numbers; the order is that of the labels.
        names: in words; `None` where nobody says them.
        numbers: their numbers among all classes of the file that lists them, or simply 0, 1, …
        total: how many classes that file has.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...] | None
    numbers: tuple[int, ...]
    total: int


def read_class_file(path: Path) -> ClassFile:
    """Reads a list of classes in any of the forms above.

    Raises:
        FileNotFoundError: if there is no such file.
        BenchmarkError: if it lists no classes, or one twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a file with a class a line, such as synset_words.txt")
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = _json_rows(path, text) if path.suffix.lower() == ".json" else _text_rows(path, text)
    keys = tuple(key for key, _ in rows)
    if not rows or (any(keys) and not all(keys)):
        raise BenchmarkError(f"{path} lists no classes: write synset and name, or a name, in each line")
    if all(keys) and (twice := [key for key, count in Counter(keys).items() if count > 1]):
        raise BenchmarkError(f"{path} lists class {twice[0]} more than once")
    names = tuple(name for _, name in rows)
    return ClassFile(path, keys if all(keys) else None, names if all(names) else None)


def find_class_file(folder: Path, root: Path, synsets: Sequence[str]) -> ClassFile | None:
    """The list of synsets that comes with a data set: in its folders or a few above, or in its README."""
    for place in dict.fromkeys([folder, root, *root.resolve().parents[:_FOLDERS_ABOVE]]):
        for name in _FILES:
            if (place / name).is_file():
                return read_class_file(place / name)
    readme = root / "README.txt"
    if readme.is_file():
        listed = read_class_file(readme)
        if listed.keys is not None and set(synsets) <= set(listed.keys):
            return listed
    return None


def _text_rows(path: Path, text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [_SYNSET_LINE.fullmatch(line) for line in lines]
    if path.name.lower().startswith("readme"):
        lines = [line for line, match in zip(lines, matches, strict=True) if match]
        matches = [match for match in matches if match]
    elif not any(matches):
        return [("", line) for line in lines]
    return [
        (match[1], _first_name(match[2] or "")) if match else ("", line)
        for line, match in zip(lines, matches, strict=True)
    ]


def _json_rows(path: Path, text: str) -> list[tuple[str, str]]:
    try:
        content: Any = json.loads(text)
        if isinstance(content, dict):
            content = [content[str(number)] for number in range(len(content))]
        pairs = [("", row) if isinstance(row, str) else (row[0], row[1]) for row in content]
        if not all(isinstance(part, str) for pair in pairs for part in pair):
            raise TypeError
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BenchmarkError(
            f'{path} lists no classes: write {{"0": ["n01440764", "tench"], …}}, or a list of names'
        ) from error
    return [(key, _first_name(name) if key else name.strip()) for key, name in pairs]


def _first_name(names: str) -> str:
    return names.split(",")[0].replace("_", " ").strip()
