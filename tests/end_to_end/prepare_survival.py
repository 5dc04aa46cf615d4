"""Kills `align-jax data img2dataset` again and again, and compares what it leaves with a run that nobody disturbed.

    python -m tests.end_to_end.prepare_survival --images 10000 --kill 10

Three in a hundred of the images are broken, two repeat an earlier pair, and one shard is missing. The command is
started again after each kill; in the end every file must be the same, byte for byte, and all counts must be those of
what was written.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from align_jax.data.records import PairDataset
from tests.data.img2dataset.made import Sample, jpeg, write
from tests.processes import ROOT


def make_input(folder: Path, layout: str, images: int, per_shard: int) -> tuple[set[str], dict[str, int]]:
    """Writes a download.

    Returns:
        The captions of the pairs that can be kept, and how many rows are left out, by reason.
    """
    made, kept = [], set()
    counts = dict.fromkeys(("broken", "repeated", "missing"), 0)
    missing = range(per_shard * (images // per_shard // 2), per_shard * (images // per_shard // 2 + 1))
    for number in range(images):
        sample = Sample(number, jpeg(number, 24), f"picture number {number}")
        if number % 100 in (13, 46, 79):
            sample.image = (sample.image[:300], b"\x89PNG\r\n\x1a\n", b"<html>")[number // 100 % 3]
            kind = "broken"
        elif number % 100 in (31, 62):
            sample.image, sample.caption, kind = made[5].image, made[5].caption, "repeated"
        else:
            kind = "good"
        made.append(sample)
        if number in missing:
            counts["missing"] += 1
        elif kind == "good":
            kept.add(sample.caption)
        else:
            counts[kind] += 1
    write(folder, layout, [made[start : start + per_shard] for start in range(0, images, per_shard)])
    gone = f"{missing.start // per_shard:05}"
    for path in folder.glob(f"{gone}.*"):
        path.unlink()  # but for its _stats.json
    return kept, counts


def command(folder: Path, data_dir: Path) -> list[str]:
    """The line that is run and run again."""
    return [
        sys.executable, "-m", "align_jax", "data", "img2dataset", "--input", str(folder), "--name", "pictures",
        "--data-dir", str(data_dir), "--columns", "id", "url", "--workers", "2",
    ]  # fmt: skip


def files_of(data_dir: Path) -> dict[str, str]:
    """The digest of every file of the data set."""
    root = data_dir / "pictures" / "1.0.0"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.iterdir())}


def finished_work(data_dir: Path) -> int:
    """How many parts and shards of the data set a preparation has finished."""
    work = data_dir / "pictures" / "preparing"
    return len(list(work.glob("*.json"))) + len(list(work.glob("finished-*/pictures-*")))


def survive(*, images: int, kill: int, per_shard: int, layout: str, seed: int) -> None:
    """Prepares, kills, continues and compares.

    Raises:
        AssertionError: if anything differs.
    """
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kept, counts = make_input(root / "input", layout, images, per_shard)
        begun = time.monotonic()
        subprocess.run(command(root / "input", root / "alone"), cwd=ROOT, env=_environment(), check=True)
        print(f"{time.monotonic() - begun:.1f} s without a break")
        total = 2 * (images // per_shard) - 1
        for strike in range(kill):
            done = finished_work(root / "disturbed")
            reach = done + generator.randint(0, max(1, (total - done) // (kill - strike)))
            came, reached = _kill_at(command(root / "input", root / "disturbed"), root / "disturbed", reach, generator)
            print(f"{strike + 1}/{kill}: killed after {reached} of {total}{'' if came else ', too late'}", flush=True)
        subprocess.run(command(root / "input", root / "disturbed"), cwd=ROOT, env=_environment(), check=True)
        alone, disturbed = files_of(root / "alone"), files_of(root / "disturbed")
        assert disturbed == alone, sorted(name for name, _ in disturbed.items() ^ alone.items())
        assert [path.name for path in (root / "disturbed" / "pictures").iterdir()] == ["1.0.0"]
        audit = json.loads((root / "disturbed" / "pictures" / "1.0.0" / "audit.json").read_bytes())
        assert audit["rows"] == images
        assert audit["kept"] == len(kept)
        assert audit["left_out"] == {
            "the image does not decode": counts["broken"],
            "an earlier record has the same image and caption": counts["repeated"],
            "it is not in the shard, which is missing": counts["missing"],
        }
        assert [one["rows"] for one in audit["missing_shards"]] == [per_shard]
        records = list(PairDataset("pictures", "train", str(root / "disturbed")).open())
        assert sorted(record.texts[0] for record in records) == sorted(kept)
    print(f"{len(kept)} of {images} kept, {counts} left out: the same after {kill} kills")


def _kill_at(arguments: list[str], data_dir: Path, work: int, generator: random.Random) -> tuple[bool, int]:
    """Starts the command and kills it when so much work is finished, or a little later; False if it ended before."""
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while finished_work(data_dir) < work and process.poll() is None:
        time.sleep(0.002)
    time.sleep(generator.uniform(0.0, 0.1))
    reached, came = finished_work(data_dir), process.poll() is None
    process.kill()
    process.wait()
    return came, reached


def _environment() -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--kill", type=int, default=10)
    parser.add_argument("--per-shard", type=int, default=100)
    parser.add_argument("--layout", default="webdataset")
    parser.add_argument("--seed", type=int, default=0)
    survive(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
