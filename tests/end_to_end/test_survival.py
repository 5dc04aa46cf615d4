"""The short form; `python -m tests.end_to_end.survival --help` has the long one."""

import pytest

from tests.end_to_end.survival import Cluster, survive


@pytest.mark.parametrize(("processes", "devices", "kill"), [(1, 8, 2), (2, 4, 1)])
def test_run_that_is_stopped_again_and_again_ends_as_the_one_left_alone(processes, devices, kill, tmp_path):
    survive(Cluster(tmp_path, processes, devices, steps=13), kill=kill, terminate=1, seed=processes)
