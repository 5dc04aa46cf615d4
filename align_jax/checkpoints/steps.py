"""The folders `<step>/` of one run: which are there, which are whole, and which may go.

A step is whole if its files are those of its manifest. While a step is written or deleted there is an empty file
`<step>.unfinished` beside it: what a killed run leaves half done is told apart from what was damaged later. The folders
may be remote, where nothing can be renamed in one moment.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path

from etils import epath

from align_jax.files import MANIFEST, PathLike, any_path, files_below, is_remote, manifest_problems, write_manifest

_UNFINISHED = ".unfinished"
_NAMED_PROBLEMS = 5  # of a step; a folder has thousands of files


class CheckpointError(ValueError):
    """A checkpoint cannot be restored, or belongs to another experiment."""


class SaveError(CheckpointError):
    """A checkpoint could not be written; the earlier ones are as they were."""

    exit_status = 1  # no argument was wrong


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A step that is not whole.

    Attributes:
        step: its number.
        reason: what is wrong with it.
        unfinished: the run ended while it was written or deleted; nothing happened to it since.
    """

    step: int
    reason: str
    unfinished: bool = False

    def __str__(self) -> str:
        return f"checkpoint {self.step} is not used: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Selection:
    """The newest step that is whole, if any, and the newer ones that are not."""

    step: int | None
    rejected: tuple[Rejected, ...]


class Steps:
    """The folders of one run.

    Args:
        directory: holds one folder per step; it need not be there.
        keep_latest: how many of the newest steps stay.
        keep_every: steps that are a multiple of it stay too.
    """

    def __init__(self, directory: PathLike, *, keep_latest: int, keep_every: int | None):
        if keep_latest < 1:
            raise ValueError(f"keep_latest {keep_latest} keeps nothing to continue from; use 1 or more")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every {keep_every} is not a number of steps; use 1 or more, or leave it out")
        path = any_path(directory)
        self.directory = epath.Path(path.absolute() if isinstance(path, Path) else path)
        self._keep_latest, self._keep_every = keep_latest, keep_every

    def folder(self, step: int) -> epath.Path:
        """Where a step is, or will be."""
        return self.directory / str(step)

    def finished(self) -> list[int]:
        """The steps that were written to the end, oldest first; whether they are still whole is not looked at."""
        names = self._names()
        return [
            step
            for step in _steps(names)
            if f"{step}{_UNFINISHED}" not in names and (self.folder(step) / MANIFEST).exists()
        ]

    def select(self) -> Selection:
        """Reads the steps, newest first, until one is whole."""
        rejected = []
        names = self._names()
        for step in reversed(_steps(names)):
            problem = self._problem(step)
            if problem is None:
                return Selection(step, tuple(rejected))
            unfinished = f"{step}{_UNFINISHED}" in names
            reason = "the run ended while it was written or deleted" if unfinished else problem
            rejected.append(Rejected(step, reason, unfinished))
        return Selection(None, tuple(rejected))

    def begin(self, step: int) -> None:
        """Marks a step as unfinished.

        Raises:
            SaveError: if it is there already.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.folder(step).exists():
            raise SaveError(f"{self.folder(step)} exists already; restore first, or give another workdir")
        self._mark(step)

    def finish(self, step: int) -> None:
        """Writes the manifest of a step, which makes it whole."""
        write_manifest(self.folder(step))
        self._marker(step).unlink(missing_ok=True)

    def prune(self) -> None:
        """Deletes the older steps that are not to be kept; only after `finish`."""
        finished = self.finished()
        for old in finished[: -self._keep_latest]:
            if self._keep_every is None or old % self._keep_every:
                self._mark(old)
                self.discard(old)

    def discard(self, step: int) -> None:
        """Deletes what there is of an unfinished step."""
        # Orbax writes under a name that begins with the step's and renames at the end, where files can be renamed.
        for name in self._names():
            if name == str(step) or name.startswith(f"{step}.orbax-checkpoint-tmp"):
                _delete(self.directory / name)
        if not self.folder(step).exists():
            self._marker(step).unlink(missing_ok=True)

    def clear(self, selection: Selection) -> None:
        """Frees the names of steps newer than the selected one: damaged ones are renamed, unfinished ones deleted.

        Makes the directory, so that one that cannot be written is known before the first step.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for one in selection.rejected:
            if not one.unfinished:
                _move(self.folder(one.step), self._free_name(f"{one.step}.damaged"))
        for step in _steps(name for name in self._names() if name.endswith(_UNFINISHED)):
            if step == selection.step:  # the run ended between its manifest and this
                self._marker(step).unlink(missing_ok=True)
            else:
                self.discard(step)

    def _problem(self, step: int) -> str | None:
        """What is wrong with a step; None if it is whole."""
        try:
            problems = manifest_problems(self.folder(step))
        except OSError as error:
            return f"it cannot be read ({error.strerror or error})"
        more = f"; and {len(problems) - _NAMED_PROBLEMS} more" if len(problems) > _NAMED_PROBLEMS else ""
        return "; ".join(problems[:_NAMED_PROBLEMS]) + more or None

    def _names(self) -> set[str]:
        try:
            return {path.name for path in self.directory.iterdir()}
        except FileNotFoundError:
            return set()

    def _marker(self, step: int) -> epath.Path:
        return self.directory / f"{step}{_UNFINISHED}"

    def _mark(self, step: int) -> None:
        self._marker(step).write_bytes(b"")

    def _free_name(self, name: str) -> epath.Path:
        names, count = self._names(), 1
        while (free := name if count == 1 else f"{name}-{count}") in names:
            count += 1
        return self.directory / free


def _steps(names: Iterable[str]) -> list[int]:
    """The steps that folders and markers are of, oldest first."""
    numbers = (name.removesuffix(_UNFINISHED) for name in names)
    return sorted({int(number) for number in numbers if number.isdecimal() and number == str(int(number))})


def _delete(folder: epath.Path) -> None:
    if is_remote(folder):
        with contextlib.suppress(FileNotFoundError):
            folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)  # a thread that failed to write may still add a file


def _move(folder: epath.Path, target: epath.Path) -> None:
    if not is_remote(folder):
        folder.rename(target)
        return
    for name, path in files_below(folder).items():
        epath.Path(path).copy(target / name)
    _delete(folder)
