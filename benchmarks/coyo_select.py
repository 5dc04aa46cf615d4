"""Rows a second and peak memory of a selection from a file with the schema of COYO-700M, on one core.

PYTHONPATH=. python benchmarks/coyo_select.py
PYTHONPATH=. python benchmarks/coyo_select.py --rows 1000000      # a smaller file needs about the same memory
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RULES = (
    "clip_similarity_vitl14 >= 0.25", "short_side >= 200", "aspect_ratio <= 2.5", "watermark_score < 0.5",
    "nsfw_score_opennsfw2 <= 0.3", "aesthetic_score_laion_v2 >= 4.5", "num_faces <= 2", "num_tokens_bert <= 64",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--file", type=Path, help="measure one selection from this file (what the benchmark calls)")
    arguments = parser.parse_args()
    if arguments.file:
        measure(arguments.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part-00000.parquet"
        make(path, arguments.rows)
        print(f"{arguments.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB, {len(RULES)} rules, one core", flush=True)
        path.read_bytes()  # the disk is not what is measured
        for _ in range(arguments.repeats):
            subprocess.run([sys.executable, __file__, "--file", str(path)], check=True)


def make(path: Path, rows: int) -> None:
    """Writes the file a million rows at a time, in row groups as large as Spark's of 128 MB."""
    import pyarrow.parquet as pq

    from tests.data.coyo.made import COYO_700M, coyo_700m

    with pq.ParquetWriter(path, COYO_700M, compression="snappy") as writer:
        for seed, start in enumerate(range(0, rows, 1_000_000)):
            writer.write_table(coyo_700m(min(1_000_000, rows - start), seed), row_group_size=600_000)


def measure(path: Path) -> None:
    """Selects from a file in a fresh process that has one core."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    os.environ["OMP_NUM_THREADS"] = "1"
    import pyarrow

    from align_jax.data.coyo import Selection, open_inputs, parse_rule, select

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    before = peak_mib()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    inputs = open_inputs([path])
    selection = Selection([parse_rule(rule, inputs.release) for rule in RULES])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        summary = select(inputs, selection, Path(folder) / "selected")
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    print(
        f"{summary.rows / seconds / 1e6:.2f} M rows/s ({seconds:.2f} s, {cpu_seconds:.2f} s of processor time), "
        f"{summary.kept:,} kept; peak memory {peak_mib():.0f} MiB, {before:.0f} MiB before",
        flush=True,
    )


def peak_mib() -> float:
    """Of this process: what the system calls the high-water mark, and does not inherit as it does `ru_maxrss`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


if __name__ == "__main__":
    main()
