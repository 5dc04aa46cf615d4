"""Gives damaged and hostile weight files to the readers, and reports whatever is neither tensors nor a plain error.

    python benchmarks/fuzz_readers.py --seconds 3600

Good files of every form are damaged at random. Where a length or a checksum would give the damage away, it is set right
again, so that the code behind it is reached, and pickles are also made up from instructions. A finding is any exception
but `SourceError`, a message of several lines, a tensor that is not as announced, a case that takes more than ten
seconds or half a gigabyte, or a file that a pickle has written. The same seed gives the same cases.
"""

import collections
import io
import json
import os
import pickle
import pickletools
import random
import resource
import signal
import struct
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
import tyro
from safetensors.numpy import save

from align_jax.conversion.sources import SourceError, open_source

LIMIT_SECONDS = 10
LIMIT_BYTES = 1 << 29

NUMBERS = [0, 1, 2, 3, 6, 127, 128, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**64 - 1]
WORDS = [
    b'"F32"',
    b'"F64"',
    b'"BOOL"',
    b"-1",
    b"1e9",
    b"99999999999999999999",
    b"null",
    b"[]",
    b"{}",
    b"true",
    b'"../x"',
]
TEXTS = ["storage", "0", "1", "99", "cpu", "weight", "state_dict", "", "\n", "\ud800", "x" * 300]
GLOBALS = [
    "collections OrderedDict", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch Size",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2",
    "torch FloatStorage", "torch BoolStorage", "torch.storage UntypedStorage", "torch float32", "torch device",
    "torch Tensor", "os system", "builtins eval", "a\tb c d",
]  # fmt: skip
INSTRUCTIONS = [opcode for opcode in pickletools.opcodes if opcode.name != "STOP"]


@dataclass(frozen=True)
class Arguments:
    """Damage files, read them, and count what happens."""

    seconds: float = 60
    """How long."""
    cases: int | None = None
    """Stop after so many cases."""
    seed: int = 0
    """The number of the first case."""
    keep: Path | None = None
    """An existing folder for the files of findings."""


@dataclass(frozen=True)
class Case:
    """The files of a model; the first is opened."""

    form: str
    files: dict[str, bytes]


def main() -> None:
    arguments = tyro.cli(Arguments)
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    counts: collections.Counter[str] = collections.Counter()
    findings: collections.Counter[str] = collections.Counter()
    begin, slowest, number = time.monotonic(), 0.0, arguments.seed
    with tempfile.TemporaryDirectory() as scratch:
        canary = Path(scratch) / "written-by-a-pickle"
        makers = make_makers(canary)
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + LIMIT_BYTES, resource.RLIM_INFINITY))
        signal.signal(signal.SIGALRM, raise_timeout)
        while time.monotonic() - begin < arguments.seconds and number - arguments.seed != arguments.cases:
            rng = random.Random(number)
            case = rng.choice(makers)(rng)
            case_begin = time.monotonic()
            outcome, finding = judge(case, Path(scratch) / "case", canary)
            slowest = max(slowest, time.monotonic() - case_begin)
            counts[f"{case.form}, {outcome}"] += 1
            if finding is not None:
                report(number, case, finding, findings, arguments.keep)
            number += 1
    print(f"{number - arguments.seed} cases in {time.monotonic() - begin:.0f} s, the slowest {slowest:.2f} s")
    for outcome, count in sorted(counts.items()):
        print(f"{count:10} {outcome}")
    print(f"{len(findings)} different findings")


def judge(case: Case, folder: Path, canary: Path) -> tuple[str, str | None]:
    """What the readers make of a case, and the traceback if that is a finding."""
    folder.mkdir()
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    signal.alarm(LIMIT_SECONDS)
    try:
        outcome = read_everything(folder / next(iter(case.files)))
        if canary.exists():
            canary.unlink()
            raise AssertionError("a pickle was executed")
        return outcome, None
    except Exception:
        return "FINDING", traceback.format_exc()
    finally:
        signal.alarm(0)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def read_everything(path: Path) -> str:
    try:
        tensors = open_source(path).tensors
        for name in tensors:
            info, tensor = tensors.info(name), tensors[name]
            if (info.shape, info.dtype) != (tensor.shape, tensor.dtype) or len(tensor.tobytes()) != info.size_bytes:
                raise AssertionError(f"{name} is not as announced")
    except SourceError as error:
        if "\n" in str(error) or len(str(error)) > 4000:
            raise AssertionError(f"not one short line: {str(error)[:200]!r}") from error
        return "refused"
    return "read"


def raise_timeout(*_: object) -> None:
    raise TimeoutError(f"more than {LIMIT_SECONDS} s")


def report(number: int, case: Case, finding: str, findings: collections.Counter[str], keep: Path | None) -> None:
    """Prints each kind of finding once, by the line that raised it."""
    place = [line for line in finding.splitlines() if line.startswith("  File")][-1] + finding.splitlines()[-1][:40]
    findings[place] += 1
    if findings[place] == 1:
        print(f"case {number} ({case.form}):\n{finding}", flush=True)
        for name, content in case.files.items():
            if keep is not None:
                (keep / f"{number}-{name}").write_bytes(content)


def make_makers(canary: Path) -> list[Callable[[random.Random], Case]]:
    """One function for each way to make a bad case out of good files."""
    arrays = {
        name: np.arange(count).astype(dtype).reshape(shape)
        for name, dtype, count, shape in (
            ("weight", np.float32, 12, (3, 4)), ("bias", ml_dtypes.bfloat16, 3, (3,)), ("mask", np.bool_, 2, (2,)),
            ("steps", np.int64, 1, ()), ("none", np.float16, 0, (0, 5)), ("bytes", np.uint8, 7, (7,)),
        )
    }  # fmt: skip
    matrix = torch.arange(12.0).reshape(3, 4)
    state = {"weight": matrix, "transposed": matrix.T, "row": matrix[1], "wide": torch.ones(3, 1).expand(3, 5)}
    state |= {"bias": torch.ones(3, dtype=torch.bfloat16), "small": torch.ones(2, dtype=torch.uint16)}
    good, archive, stream = save(arrays), saved(state), saved({"state_dict": state}, False)
    members = read_members(archive)
    program = next(content for name, content in members.items() if name.endswith("data.pkl"))
    hostile = pickle.dumps({"weight": _Hostile(canary)}, protocol=2)
    halves = {"model-1.safetensors": save({"a": arrays["weight"]}), "model-2.safetensors": save({"b": arrays["bias"]})}
    index = json.dumps(
        {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    ).encode()

    def header(rng: random.Random) -> Case:
        length = int.from_bytes(good[:8], "little")
        damaged = damage(good[8 : 8 + length], rng)
        return Case(
            "safetensors header", {"m.safetensors": struct.pack("<Q", len(damaged)) + damaged + good[8 + length :]}
        )

    def shards(rng: random.Random) -> Case:
        files = {"model.safetensors.index.json": index, **halves}
        name = rng.choice([*files])
        return Case("shards", files | {name: damage(files[name], rng)})

    def with_pickle(form: str, content: bytes) -> Case:
        return Case(
            form, {"m.bin": write_members({n: content if n.endswith(".pkl") else c for n, c in members.items()})}
        )

    return [
        lambda rng: Case("safetensors", {"m.safetensors": damage(good, rng)}),
        header,
        lambda rng: Case("archive", {"m.bin": damage(archive, rng)}),
        lambda rng: with_pickle("archive, pickle", damage(program, rng)),
        lambda rng: with_pickle("archive, hostile pickle", damage(hostile, rng)),
        lambda rng: with_pickle("archive, made-up pickle", make_up(rng)),
        lambda rng: Case("stream", {"m.bin": damage(stream, rng)}),
        lambda rng: Case("plain pickle", {"m.bin": damage(hostile, rng) if rng.random() < 0.5 else make_up(rng)}),
        shards,
    ]


class _Hostile:
    """Writes a file when it is unpickled by Python itself."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._canary}",)


def saved(value: Any, as_archive: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=as_archive)
    return buffer.getvalue()


def read_members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def write_members(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def damage(content: bytes, rng: random.Random) -> bytes:
    """A few random edits, most of them near the ends, where lengths and directories lie."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        ends = (
            rng.randrange(len(data) + 1),
            rng.randrange(min(len(data), 64) + 1),
            max(0, len(data) - rng.randrange(128)),
        )
        start = rng.choice(ends)
        end = min(len(data), start + rng.choice((1, 2, 8, 40, 300)))
        match rng.randrange(7):
            case 0:
                data[start:end] = b""
            case 1:
                data[start:start] = data[start:end]
            case 2:
                data[start:end] = rng.randbytes(end - start)
            case 3:
                number = struct.pack("<Q", rng.choice(NUMBERS))[: rng.choice((1, 2, 4, 8))]
                data[start : start + len(number)] = number
            case 4:
                data[start : start + rng.choice((0, 1, 3))] = rng.choice(WORDS)
            case 5 if data:
                data[start % len(data)] ^= 1 << rng.randrange(8)
            case 6:
                del data[max(start, rng.randrange(len(data) + 1)) :]
    return bytes(data)


def make_up(rng: random.Random) -> bytes:
    """A pickle of random instructions, among them whole tensors of random places and sizes."""
    pieces = [b"\x80\x02", b"}("] if rng.random() < 0.7 else []
    for _ in range(rng.randrange(8)):
        if rng.random() < 0.8:
            pieces += [text(rng), tensor(rng)]
        else:
            pieces.append(instruction(rng))
    return b"".join([*pieces, b"u." if rng.random() < 0.8 else b"."])


def instruction(rng: random.Random) -> bytes:
    opcode = rng.choice(INSTRUCTIONS)
    code = opcode.code.encode("latin-1")
    if opcode.name in ("GLOBAL", "INST"):
        return code + rng.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"
    return code if opcode.arg is None else code + rng.choice((number(rng), rng.randbytes(4), b"7\n", b"\x02ab"))


def number(rng: random.Random) -> bytes:
    return b"\x8a\x09" + rng.choice(NUMBERS).to_bytes(9, "little")


def text(rng: random.Random) -> bytes:
    encoded = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def tensor(rng: random.Random) -> bytes:
    def small(values: list[int]) -> bytes:
        return number(rng) if rng.random() < 0.06 else b"K" + bytes([rng.choice(values)])

    def name() -> bytes:
        return b"c" + rng.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"

    kind = b"ctorch\nFloatStorage\n" if rng.random() < 0.9 else name()
    function = b"ctorch._utils\n_rebuild_tensor_v2\n" if rng.random() < 0.9 else name()
    key = b"X\x01\x00\x00\x000" if rng.random() < 0.9 else text(rng)
    axes = rng.randrange(4)
    shape = b"(" + b"".join(small([0, 1, 2, 3]) for _ in range(axes)) + b"t"
    strides = b"(" + b"".join(small([0, 1, 4]) for _ in range(axes if rng.random() < 0.9 else 1)) + b"t"
    storage = b"(X\x07\x00\x00\x00storage" + kind + key + b"X\x03\x00\x00\x00cpu" + small([12]) + b"tQ"
    return function + b"(" + storage + small([0, 1]) + shape + strides + b"\x89" + b"}" + b"tR"


if __name__ == "__main__":
    main()
