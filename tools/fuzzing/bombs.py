"""Small zip files that unfold to very many zeros, made without unfolding them."""

from __future__ import annotations

import struct
import zlib
from typing import Final

__all__ = ["bomb", "bzip2_zeros", "deflated_zeros"]

# A block of bzip2 -9: 900,000 bytes that stand for runs of zeros. It begins and ends at
# a byte, so that one can follow the other.
_BLOCK: Final = bytes.fromhex(
    "3141592653590e09e2df015f8e4000c0000008200030804d4642a025a90a8097"
)
_BLOCK_ZEROS: Final = 45_899_235
_BLOCK_CRC: Final = 0x0E09E2DF
_FOOTER: Final = bytes.fromhex("177245385090")
_CHUNK_ZEROS: Final = 1 << 20
_BZIP2, _DEFLATE = 12, 8  # of zip files


def bomb(name: str, num_zeros: int, *, claimed: int, bzip2: bool) -> bytes:
    """Returns a zip file of one member of zeros.

    Args:
      name: Of the member.
      num_zeros: About how many.
      claimed: How many the headers claim.
      bzip2: Whether it is packed by bzip2; by deflate otherwise.
    """
    stream = bzip2_zeros(num_zeros) if bzip2 else deflated_zeros(num_zeros)
    fields = (
        *(20, 0, _BZIP2 if bzip2 else _DEFLATE, 0, 0, 0),
        *(len(stream), claimed, len(name), 0),
    )
    header = struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + name.encode()
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, *(0, 0, 0, 0, 0))
    entry += name.encode()
    place = len(header) + len(stream)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), place, 0)
    return header + stream + entry + end


def bzip2_zeros(num_zeros: int) -> bytes:
    """Returns a bzip2 stream of so many zeros, in whole blocks of 45,899,235."""
    num_blocks = max(num_zeros // _BLOCK_ZEROS, 1)
    total = 0
    for _ in range(num_blocks):
        total = ((total << 1 | total >> 31) ^ _BLOCK_CRC) & 0xFFFFFFFF
    return b"BZh9" + _BLOCK * num_blocks + struct.pack(">6sI", _FOOTER, total)


def deflated_zeros(num_zeros: int) -> bytes:
    """Returns a raw deflate stream of so many zeros, in whole MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(_CHUNK_ZEROS)
    chunk = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    last = packer.compress(b"") + packer.flush()
    return chunk * max(num_zeros // _CHUNK_ZEROS, 1) + last
