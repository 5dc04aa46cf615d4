"""What accelerators can do, by the name that JAX gives a device (`device.device_kind`).

TPUs: cloud.google.com/tpu/docs, one page a version, bfloat16. GPUs: NVIDIA's data sheets, bfloat16 without sparsity
(float16 for V100 and T4, which have no bfloat16). Nothing here was measured.
"""

from typing import NamedTuple

GIB, TERA, GIGA = 2**30, 1e12, 1e9


class Chip(NamedTuple):
    """One chip, or one card."""

    flops_per_second: float
    memory_bytes: float
    memory_bytes_per_second: float
    devices: int = 1  # that JAX makes of it: v2, v3 and v7x show their two cores one by one


CHIPS: dict[str, Chip] = {
    "TPU v2": Chip(45 * TERA, 16 * GIB, 700 * GIGA, devices=2),
    "TPU v3": Chip(123 * TERA, 32 * GIB, 900 * GIGA, devices=2),
    "TPU v4": Chip(275 * TERA, 32 * GIB, 1228 * GIGA),
    "TPU v5 lite": Chip(197 * TERA, 16 * GIB, 819 * GIGA),
    "TPU v5e": Chip(197 * TERA, 16 * GIB, 819 * GIGA),
    "TPU v5": Chip(459 * TERA, 95 * GIB, 2765 * GIGA),
    "TPU v5p": Chip(459 * TERA, 95 * GIB, 2765 * GIGA),
    "TPU v6 lite": Chip(918 * TERA, 32 * GIB, 1640 * GIGA),
    "TPU v6e": Chip(918 * TERA, 32 * GIB, 1640 * GIGA),
    "TPU7x": Chip(2307 * TERA, 192 * GIB, 7380 * GIGA, devices=2),
    "Tesla V100-SXM2-16GB": Chip(125 * TERA, 16 * GIB, 900 * GIGA),
    "Tesla V100-SXM2-32GB": Chip(125 * TERA, 32 * GIB, 900 * GIGA),
    "Tesla T4": Chip(65 * TERA, 16 * GIB, 320 * GIGA),
    "NVIDIA A100-SXM4-40GB": Chip(312 * TERA, 40 * GIB, 1555 * GIGA),
    "NVIDIA A100-SXM4-80GB": Chip(312 * TERA, 80 * GIB, 2039 * GIGA),
    "NVIDIA A100 80GB PCIe": Chip(312 * TERA, 80 * GIB, 1935 * GIGA),
    "NVIDIA L4": Chip(121 * TERA, 24 * GIB, 300 * GIGA),
    "NVIDIA L40S": Chip(362 * TERA, 48 * GIB, 864 * GIGA),
    "NVIDIA H100 PCIe": Chip(756 * TERA, 80 * GIB, 2000 * GIGA),
    "NVIDIA H100 80GB HBM3": Chip(989 * TERA, 80 * GIB, 3350 * GIGA),
    "NVIDIA H200": Chip(989 * TERA, 141 * GIGA, 4800 * GIGA),
    "NVIDIA B200": Chip(2250 * TERA, 180 * GIB, 7700 * GIGA),
}


def peak_flops_per_second(device_kind: str) -> float | None:
    """Peak of one JAX device in bfloat16; `None` where it is not known, as for CPUs."""
    chip = CHIPS.get(device_kind)
    return None if chip is None else chip.flops_per_second / chip.devices
