"""The fuzzer finds nothing in its first cases, and finds what is broken."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "fuzz_readers.py"

BROKEN = """
import runpy, sys
from align_jax.conversion.readers import inert_pickle, pytorch
inert_pickle.MalformedPickleError = RuntimeError
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*command: str) -> str:
    arguments = [*command, str(SCRIPT), "--cases", "300", "--seconds", "60"]
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


def test_the_first_cases_give_no_finding():
    output = run()
    assert "300 cases" in output
    assert output.endswith("\n0 different findings\n")
    for form in ("safetensors", "archive", "stream", "shards"):
        assert f"{form}, read" in output
        assert f"{form}, refused" in output


def test_an_exception_that_nobody_expects_is_found():
    output = run("-c", BROKEN)
    assert "FINDING" in output
    assert "Traceback" in output
