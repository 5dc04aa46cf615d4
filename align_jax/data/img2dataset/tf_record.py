"""Records of a TFRecord file, read without TensorFlow.

A record is its length (8 bytes, little endian), the checksum of that (4 bytes: masked CRC-32C), the bytes, and their
checksum, which is not checked: it would take longer than decoding the image, which finds most of what it would.
Format: tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from align_jax.data.collections.item import MAX_IMAGE_BYTES, MAX_TEXT_BYTES, Refused

MAX_RECORD_BYTES = MAX_IMAGE_BYTES + 16 * MAX_TEXT_BYTES
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected


def read_records(path: Path) -> Iterator[bytes | Refused]:
    """The records in order; where the file is cut or damaged, a refusal, and after it only what can be found again."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        position = file.seek(0)
        while position < end:
            header = file.read(12)
            length = int.from_bytes(header[:8], "little")
            if len(header) < 12 or position + 16 + length > end:
                # A wrong length says nothing about where the next record begins.
                yield Refused(f"byte {position}", "the TFRecord file is cut or damaged")
                return
            if struct.unpack("<I", header[8:])[0] != masked_crc(header[:8]):
                yield Refused(f"byte {position}", "the TFRecord file is cut or damaged")
                return
            if length > MAX_RECORD_BYTES:
                yield Refused(f"byte {position}", f"the record has more than {MAX_RECORD_BYTES} bytes")
                file.seek(length, 1)
            else:
                yield file.read(length)
            position = file.seek(4, 1)


def masked_crc(content: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()
