"""Times the conversion of full-size weights, and the memory it takes, each direction in a process of its own.

    python benchmarks/convert.py

The weights are random (`AlignConfig.b7_base`, float32), written to a temporary folder. Peak memory is the process's
largest resident set, Python and every library included.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WEIGHTS_BYTES = 172_117_841 * 4  # parameters of the released model, float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", metavar="FOLDER", help="write the random models and stop")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help="run one conversion and print its cost as JSON")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.make:
        _make_sources(Path(arguments.make))
        return
    if arguments.measure:
        print(json.dumps(_measure(arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run([sys.executable, __file__, "--make", folder], check=True)
        print("| from | to | seconds (median) | peak memory | times the weights |")
        print("|---|---|---|---|---|")
        for source, form in (("safetensors", "flax"), ("pytorch", "flax"), ("flax", "hf"), ("safetensors", "hf")):
            runs = [_convert(root, source, form, attempt) for attempt in range(arguments.repeats)]
            seconds = sorted(run["seconds"] for run in runs)[len(runs) // 2]
            peak = max(run["peak_bytes"] for run in runs)
            print(
                f"| {source} | {form} | {seconds:.1f} | {peak / 1e6:,.0f} MB | {peak / WEIGHTS_BYTES:.2f} |", flush=True
            )
        _require_equal(root / "safetensors", root / "flax-hf-0")


def _make_sources(folder: Path) -> None:
    """Writes a random model in every form that is measured."""
    import torch
    import transformers

    from align_jax.configuration import AlignConfig

    config = AlignConfig.b7_base()
    torch.manual_seed(0)
    model = transformers.AlignModel(transformers.AlignConfig.from_dict(config.to_dict()))
    model.save_pretrained(folder / "safetensors")
    pickled = folder / "pytorch"
    pickled.mkdir()
    config.to_json(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")


def _convert(root: Path, source: str, form: str, attempt: int) -> dict[str, float]:
    output = root / f"{source}-{form}-{attempt}"
    command = [sys.executable, __file__, "--measure", str(root / source), str(output), "--to", form]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    if form == "flax" and not (root / "flax").exists():
        output.rename(root / "flax")
    return json.loads(done.stdout.splitlines()[-1])


def _require_equal(source: Path, back: Path) -> None:
    """Compares every tensor, bit for bit, one at a time."""
    from align_jax.conversion.sources import open_source

    expected, found = open_source(source).tensors, open_source(back).tensors
    assert set(expected) == set(found)
    assert all(expected.info(name) == found.info(name) for name in expected)
    assert all(expected[name].tobytes() == found[name].tobytes() for name in expected)
    print(f"\nThere and back: {len(expected)} tensors, equal bit for bit.")


def _measure(argv: list[str]) -> dict[str, float]:
    began = time.perf_counter()
    from align_jax.cli import main as align_jax

    status = align_jax(["convert", *argv])
    if status:
        raise SystemExit(status)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak}


if __name__ == "__main__":
    main()
