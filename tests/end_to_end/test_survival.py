"""The short form; `python -m tests.end_to_end.survival --help` has the long one."""

import pytest

from tests.end_to_end.survival import Cluster, survive


@pytest.mark.parametrize(
    ("kind", "processes", "devices", "times"),
    [("KILL", 1, 8, 3), ("TERM", 1, 8, 2), ("KILL", 2, 4, 2), ("TERM", 2, 4, 1)],
)
def test_run_that_is_stopped_again_and_again_ends_as_the_one_left_alone(kind, processes, devices, times, tmp_path):
    survive(Cluster(tmp_path, processes, devices, steps=24), kind=kind, times=times, seed=processes + times)
