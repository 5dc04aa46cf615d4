import os
import subprocess
import sys

import pytest

from align_jax.cores import usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_only_cores_that_the_process_may_use_count():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from align_jax import cores; "
    done = subprocess.run([sys.executable, "-c", f"{code}print(cores.usable_cores())"], capture_output=True, check=True)
    assert done.stdout == b"1\n"


def test_system_without_affinity_has_all_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()
