"""Devices to compile for that need not exist: TPU slices known to the TPU compiler, or the devices of this machine."""

import math
import re
from collections.abc import Sequence
from importlib.util import find_spec

import jax
from jax.experimental import topologies

GOOD_NAMES = "v2:4x4, v3:16x16, v3:16x32, v4:4x4x4, v5e:4x4, v5e:16x16, v5p:4x4x4, v6e:16x16, tpu7x:4x4x4"
_TPU = re.compile(r"(?P<version>v[2-4]|v5e|v5p|v6e|tpu7x):(?P<chips>[1-9]\d*(?:x[1-9]\d*){1,2})")


def topology_devices(name: str, *, slices: int = 1) -> Sequence[jax.Device]:
    """The devices of a topology.

    Args:
        name: `v5e:16x16` for a TPU slice of 16 x 16 chips, `cpu:8` for eight CPU devices, or `local` for the devices of
            this machine.
        slices: TPU slices of that size, joined by the data centre's network.

    Raises:
        ValueError: if there is no such topology; the message names some that there are.
        ModuleNotFoundError: if the TPU compiler is not installed.
    """
    if slices < 1:
        raise ValueError(f"{slices} slices are not possible; use 1 or more")
    if (tpu := _TPU.fullmatch(name)) is not None:
        return _tpu_devices(name, tuple(int(size) for size in tpu["chips"].split("x")), slices)
    if slices > 1:
        raise ValueError(f"topology {name!r} has no slices; only TPU topologies such as v5e:16x16 do")
    if name == "local":
        return jax.devices()
    if (cpu := re.fullmatch(r"cpu:([1-9]\d*)", name)) is not None:
        devices, wanted = jax.devices("cpu"), int(cpu[1])
        if len(devices) < wanted:
            raise ValueError(f"topology {name!r} wants {wanted} CPU devices, but JAX has started with {len(devices)}")
        return devices[:wanted]
    raise ValueError(f"topology {name!r} is not known; use local, cpu:8, or a TPU slice such as {GOOD_NAMES}")


def is_tpu(name: str) -> bool:
    """Whether a topology is one that the TPU compiler compiles for."""
    return _TPU.fullmatch(name) is not None


def devices_per_chip(name: str, devices: int, *, slices: int = 1) -> int | None:
    """How many of a TPU topology's devices are cores of one chip; `None` for other topologies."""
    tpu = _TPU.fullmatch(name)
    if tpu is None:
        return None
    return devices // (slices * math.prod(int(size) for size in tpu["chips"].split("x")))


def _tpu_devices(name: str, chips: tuple[int, ...], slices: int) -> Sequence[jax.Device]:
    if find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            f"topology {name!r} needs the TPU compiler, libtpu, which is not installed; "
            "install it with: pip install 'align_jax[tpu]'"
        )
    options: dict[str, object] = {"num_slices": slices}
    if math.prod(chips) < 4:  # a part of a host
        options["chips_per_host_bounds"] = (*chips, 1, 1)[:3]
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"the TPU compiler refuses topology {name!r} ({error}); use one such as {GOOD_NAMES}"
        ) from error
