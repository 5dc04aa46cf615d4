import subprocess
import sys

import pytest

from align_jax.parallel import host_memory

PROGRAM = """
import os, sys
os.environ["JAX_PLATFORMS"] = sys.argv[1]
from align_jax.parallel import host_memory
host_memory.find_spec = lambda name: object() if name == sys.argv[2] else None
assert "jax" not in sys.modules
print(host_memory.keep_freed_memory())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
@pytest.mark.parametrize(
    ("platforms", "plug_in", "expected"),
    [
        ("cpu", "jax_cuda13_plugin", "True"),
        ("", "none", "True"),
        ("", "jax_cuda13_plugin", "False"),
        ("", "libtpu", "True"),  # the TPU compiler, on a host without a TPU
    ],
)
def test_only_hosts_without_accelerator_keep_freed_memory(platforms, plug_in, expected):
    """In a process of its own, since it cannot be undone."""
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, platforms, plug_in], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == expected


@pytest.mark.parametrize(
    ("vendor", "kind", "expected"),
    [
        ("0x1ae0", "0x088000", True),
        ("0x1ae0", "0x020000", False),  # the network card of a virtual machine
        ("0x1ae0", "0x010802", False),  # its disk
        ("0x8086", "0x088000", False),
    ],
)
def test_a_tpu_is_told_from_the_other_devices_of_its_maker(vendor, kind, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "find_spec", lambda _: object())
    (tmp_path / "0000:00:04.0").mkdir()
    (tmp_path / "0000:00:04.0" / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "0000:00:04.0" / "class").write_text(f"{kind}\n")
    assert host_memory._has_tpu(tmp_path) is expected
