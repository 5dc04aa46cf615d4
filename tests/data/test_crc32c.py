"""CRC-32C against the test vectors of RFC 3720 and against a loop over bits."""

import pytest

from align_jax.data.crc32c import crc32c, masked_crc32c


def loop(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"", 0),
    ],
)
def test_vectors_of_the_rfc(content: bytes, expected: int) -> None:
    assert crc32c(content) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 511, 512, 513, 1024, 1500])
def test_lanes_of_any_length_are_chained(size: int) -> None:
    content = bytes((7 * number + size) % 251 for number in range(size))
    assert crc32c(content) == loop(content)


def test_mask_rotates_right_by_15_and_adds_a_constant() -> None:
    crc = loop((24).to_bytes(8, "little"))
    assert masked_crc32c((24).to_bytes(8, "little")) == (((crc >> 15) | (crc << 17) % 2**32) + 0xA282EAD8) % 2**32
