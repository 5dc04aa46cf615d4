"""Kills `align-jax embed` again and again, and compares what it leaves with a run that nobody disturbed.

    python -m tests.end_to_end.embed_survival --images 5000 --kill 10

One in a hundred of the images is broken. The command is started again after each kill; in the end every file of the
output must be the same, byte for byte, and every image named once: in a part, or among the refused.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from align_jax.inference.embedding.folder import read_embeddings
from tests.data.collections.made import picture
from tests.inference.tiny_align import write_folder
from tests.processes import ROOT

LIMIT_SECONDS = 600.0


def write_images(folder: Path, count: int) -> None:
    """Images of noise, of which one in a hundred is cut, empty or no image."""
    folder.mkdir()
    for number in range(count):
        content = picture(number, 24 + number % 17)
        if number % 100 == 13:
            content = (content[: len(content) // 2], b"", b"<html>")[number // 100 % 3]
        (folder / f"{number:05}.jpg").write_bytes(content)


def command(model: Path, images: Path, output: Path, shard_size: int) -> list[str]:
    """The line that is run and run again."""
    return [
        sys.executable, "-m", "align_jax", "embed", "--model", str(model), "--input", str(images), "--output",
        str(output), "--batch-size", "32", "--shard-size", str(shard_size),
    ]  # fmt: skip


def run_to_the_end(arguments: list[str]) -> None:
    """Runs the command without disturbing it."""
    done = subprocess.run(arguments, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the command ended with status {done.returncode}: {done.stderr}")
    print(done.stdout.splitlines()[-1].partition(": ")[2])


def kill_at(arguments: list[str], output: Path, parts: int, delay_seconds: float) -> bool:
    """Starts the command and kills it a little after it has made so many parts; False if it had ended by itself."""
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + LIMIT_SECONDS
    while parts_in(output) < parts and process.poll() is None:
        if time.monotonic() > limit:
            process.kill()
            raise RuntimeError(f"{parts} parts were not made in {LIMIT_SECONDS:.0f} s")
        time.sleep(0.005)
    time.sleep(delay_seconds)
    process.kill()
    status = process.wait()
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the command ended with status {status} before it was killed")
    return status != 0


def parts_in(output: Path) -> int:
    """How many parts are there."""
    return len(list(output.glob("part-*.parquet")))


def files_of(output: Path) -> dict[str, str]:
    """The digest of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.iterdir())}


def survive(*, images: int, kill: int, shard_size: int, seed: int) -> int:
    """Makes everything, kills, continues and compares.

    Returns:
        How many kills the output has survived; those that came after the end of the command do not count.

    Raises:
        AssertionError: if anything differs.
        RuntimeError: if the command ended before it was killed, again and again.
    """
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_folder(root / "model")
        write_images(root / "images", images)
        alone, disturbed = root / "alone", root / "disturbed"
        began = time.monotonic()
        run_to_the_end(command(root / "model", root / "images", alone, shard_size))
        seconds = time.monotonic() - began
        again = command(root / "model", root / "images", disturbed, shard_size)
        total, struck, tries = parts_in(alone), 0, 0
        while struck < kill:
            if tries == 3 * kill:
                raise RuntimeError(f"{tries} kills were tried, and too many came after the end; give more --images")
            tries += 1
            made = parts_in(disturbed)
            reach = max(0, total - 1 - made) // (kill - struck)
            parts = made + generator.randint(0, max(1, reach))
            # Without a part to wait for, any moment: of the start too, and before the rest can be done.
            delay_seconds = generator.uniform(0.0, 0.2 if made < parts else seconds * (total - made) / total)
            came = kill_at(again, disturbed, parts, delay_seconds)
            if not came:
                print(f"too late, {delay_seconds:.2f} s after {parts} of {total} parts; begins anew")
                shutil.rmtree(disturbed)
                struck = 0
                continue
            struck += 1
            left = len(list(disturbed.glob(".part-*.tmp"))) if disturbed.is_dir() else 0
            print(
                f"{struck}/{kill}: killed {delay_seconds:.2f} s after {parts} of {total} parts"
                f"{', in the middle of writing one' if left else ''}"
            )
        run_to_the_end(again)
        assert files_of(disturbed) == files_of(alone)
        read = read_embeddings(disturbed)
        refused = [json.loads(line)["id"] for line in (disturbed / "refused.jsonl").read_text().splitlines()]
        assert sorted([*read.ids, *refused]) == [f"{number:05}.jpg" for number in range(images)]
    print(f"{len(read.ids)} embeddings and {len(refused)} refusals in {total} parts are the same after {struck} kills")
    return struck


def _environment() -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kill", type=int, default=10)
    parser.add_argument("--shard-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    survive(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
