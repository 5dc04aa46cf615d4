"""CRC-32C (Castagnoli), the checksum of TFRecord files, over many bytes at a time with NumPy.

A checksum without its first and last inversion is linear, and zeros in front do not change it. So the content is cut
into lanes of equal length, all of them advance a byte at a time together, and their checksums are then chained.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected
_LANE_BYTES = 512


def masked_crc32c(content: bytes) -> int:
    """The checksum, rotated and shifted as TFRecord stores it."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """The checksum.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    if len(content) < 4:
        crc = 0xFFFFFFFF
        for byte in content:
            crc = int(_table()[(crc ^ byte) & 0xFF]) ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    lanes = -(-len(content) // _LANE_BYTES)
    filled = np.zeros(lanes * _LANE_BYTES, np.uint8)
    start = len(filled) - len(content)
    filled[start:] = np.frombuffer(content, np.uint8)
    filled[start : start + 4] ^= 0xFF  # the first inversion
    states = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(filled.reshape(lanes, _LANE_BYTES).T):
        states = _advanced(states, column)
    crc, chain = 0, _chain()
    for state in states.tolist():
        crc = (
            state ^ chain[0][crc & 0xFF] ^ chain[1][crc >> 8 & 0xFF] ^ chain[2][crc >> 16 & 0xFF] ^ chain[3][crc >> 24]
        )
    return crc ^ 0xFFFFFFFF


def _advanced(states: np.ndarray, column: np.ndarray | np.uint32) -> np.ndarray:
    return _table()[(states ^ column) & np.uint32(0xFF)] ^ states >> np.uint32(8)


@functools.cache
def _table() -> np.ndarray:
    """What a byte becomes when it is shifted out."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> np.uint32(1) ^ np.where(table & np.uint32(1), np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


@functools.cache
def _chain() -> list[list[int]]:
    """What each byte of a checksum becomes when a lane follows."""
    states = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    for _ in range(_LANE_BYTES):
        states = _advanced(states, np.uint32(0))
    return states.tolist()
