"""Names of topologies. What the TPU compiler makes of them is in `tests/end_to_end/test_tpu_compiler.py`."""

import jax
import pytest

from align_jax.parallel import topologies
from align_jax.parallel.topologies import devices_per_chip, is_tpu, topology_devices


def test_devices_of_this_machine():
    assert list(topology_devices("local")) == jax.devices()
    assert list(topology_devices("cpu:2")) == jax.devices()[:2]


@pytest.mark.parametrize("name", ["v5e", "v5e:3", "v9:2x2", "v5e:0x2", "tpu", "v5e:2x2x2x2", "16x16", "cpu:0"])
def test_an_unknown_name_is_refused_with_good_ones(name):
    with pytest.raises(ValueError, match=r"v5e:16x16"):
        topology_devices(name)


def test_more_cpu_devices_than_there_are():
    with pytest.raises(ValueError, match=r"'cpu:9' wants 9 CPU devices.*8"):
        topology_devices("cpu:9")


def test_only_tpus_have_slices():
    with pytest.raises(ValueError, match="'local' has no slices"):
        topology_devices("local", slices=2)
    with pytest.raises(ValueError, match="0 slices"):
        topology_devices("v5e:2x2", slices=0)


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topologies, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"libtpu.*pip install 'align_jax\[tpu\]'"):
        topology_devices("v5e:16x16")


def test_cores_of_a_chip_follow_from_the_name():
    assert devices_per_chip("v3:16x32", 1024) == 2
    assert devices_per_chip("v5e:16x16", 512, slices=2) == 1
    assert devices_per_chip("cpu:8", 8) is None
    assert is_tpu("tpu7x:2x2x1")
    assert not is_tpu("local")
