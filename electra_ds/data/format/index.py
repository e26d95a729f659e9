"""The index of a shard: where each block lies, how much it holds, and its checksum.

Layout, little-endian: 8 bytes magic, u4 version, u4 record size, u8 number of blocks, u8 bytes of the
tar, 32 bytes SHA-256 of the tar, the records, u4 CRC-32 of everything before it.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from electra_ds.errors import DataError
from electra_ds.files import atomic_write

MAGIC = b"EDSINDEX"
VERSION = 1
HEADER = struct.Struct("<8sIIQQ32s")
INDEX_RECORD = np.dtype(
    [
        ("offset", "<u8"),
        ("size", "<u4"),
        ("tokens", "<u4"),
        ("documents", "<u4"),
        ("sentences", "<u4"),
        ("crc32", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""One block: offset and size in the tar (bytes), counts, CRC-32 of those bytes."""


@dataclass(frozen=True)
class ShardIndex:
    """Records of one shard, [blocks] of `INDEX_RECORD`, and what they were written for."""

    records: np.ndarray
    tar_bytes: int
    tar_sha256: str


def write_index(path: str | os.PathLike[str], index: ShardIndex) -> None:
    """Write an index atomically."""
    body = (
        HEADER.pack(
            MAGIC, VERSION, INDEX_RECORD.itemsize, len(index.records), index.tar_bytes, bytes.fromhex(index.tar_sha256)
        )
        + index.records.astype(INDEX_RECORD).tobytes()
    )
    with atomic_write(path) as file:
        file.write(body + struct.pack("<I", zlib.crc32(body)))


def read_index(path: str | os.PathLike[str]) -> ShardIndex:
    """Read and check an index.

    Raises:
        DataError: missing, cut short, altered, or of another version.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"index {path}: cannot be read ({error}); rerun prep to rebuild it") from error
    return parse_index(data, str(path))


def parse_index(data: bytes, where: str) -> ShardIndex:
    """Decode the bytes of an index; `where` names it in errors."""

    def refuse(problem: str) -> DataError:
        return DataError(f"index {where}: {problem}; delete it and rerun prep to rebuild it")

    if len(data) < HEADER.size + 4:
        raise refuse(f"{len(data)} bytes, expected at least {HEADER.size + 4}")
    magic, version, record_size, count, tar_bytes, sha = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or record_size != INDEX_RECORD.itemsize:
        raise refuse(f"not an index of version {VERSION} (magic {magic!r}, version {version})")
    if len(data) != HEADER.size + count * record_size + 4:
        raise refuse(f"{len(data)} bytes, expected {HEADER.size + count * record_size + 4} for {count} blocks")
    (checksum,) = struct.unpack_from("<I", data, len(data) - 4)
    if checksum != zlib.crc32(data[:-4]):
        raise refuse("its checksum does not match its content")
    records: np.ndarray[Any, Any] = np.frombuffer(data, INDEX_RECORD, count, HEADER.size)
    ends = records["offset"].astype(np.uint64) + records["size"]
    if count and (np.any(ends > tar_bytes) or np.any(records["offset"][1:] < ends[:-1])):
        raise refuse("its blocks overlap or reach past the end of the tar")
    return ShardIndex(records, tar_bytes, sha.hex())
