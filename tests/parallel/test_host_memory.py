import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
os.environ["JAX_PLATFORMS"] = sys.argv[1]
from align_jax.parallel import host_memory
host_memory.find_spec = lambda name: object() if sys.argv[2] == "accelerator" else None
assert "jax" not in sys.modules
print(host_memory.keep_freed_memory())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
@pytest.mark.parametrize(
    ("platforms", "plug_in", "expected"),
    [("cpu", "accelerator", "True"), ("", "none", "True"), ("", "accelerator", "False")],
)
def test_only_hosts_without_accelerator_keep_freed_memory(platforms, plug_in, expected):
    """In a process of its own, since it cannot be undone."""
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, platforms, plug_in], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == expected
