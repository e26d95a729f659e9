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
from electra_ds.storage import open_folder

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
END_OF_TAR = 1024
"""Zero bytes after the last block."""
LARGEST_INDEX = 1 << 28
"""Bytes; an index of eight million blocks, and more than any shard has."""


@dataclass(frozen=True)
class ShardIndex:
    """Records of one shard, [blocks] of `INDEX_RECORD`, and what they were written for."""

    records: np.ndarray
    tar_bytes: int
    tar_sha256: str


def encode_index(index: ShardIndex) -> bytes:
    """The bytes of an index."""
    body = (
        HEADER.pack(
            MAGIC, VERSION, INDEX_RECORD.itemsize, len(index.records), index.tar_bytes, bytes.fromhex(index.tar_sha256)
        )
        + index.records.astype(INDEX_RECORD).tobytes()
    )
    return body + struct.pack("<I", zlib.crc32(body))


def write_index(path: str | os.PathLike[str], index: ShardIndex) -> None:
    """Write an index atomically."""
    with atomic_write(path) as file:
        file.write(encode_index(index))


def read_index(path: str | os.PathLike[str]) -> ShardIndex:
    """Read and check a local index.

    Raises:
        DataError: missing, cut short, altered, or of another version.
    """
    folder, name = os.path.split(os.fspath(path))
    return parse_index(open_folder(folder or ".").read_file(name, LARGEST_INDEX), str(path))


def index_bytes(blocks: int) -> int:
    """Bytes of the index of a shard with so many blocks."""
    return HEADER.size + blocks * INDEX_RECORD.itemsize + 4


def parse_index(data: bytes, where: str) -> ShardIndex:
    """Decode the bytes of an index; `where` names it in errors.

    Raises:
        DataError: cut short, altered, of another version, or its records cannot be those of a shard.
    """
    index = parse_index_unchecked(data, where)
    if (bad := first_bad_record(index.records)) is not None:
        raise refuse_index(where, f"the record of block {bad} says what no block can be")
    if index.tar_bytes != tar_bytes_of(index.records):
        raise refuse_index(where, f"its tar of {index.tar_bytes:,} bytes does not end with its last block")
    return index


def parse_index_unchecked(data: bytes, where: str) -> ShardIndex:
    """Like `parse_index`, but leave the records to the caller, who checks those of many indexes at once."""
    if len(data) < HEADER.size + 4:
        raise refuse_index(where, f"{len(data)} bytes, expected at least {HEADER.size + 4}")
    magic, version, record_size, count, tar_bytes, sha = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or record_size != INDEX_RECORD.itemsize:
        raise refuse_index(where, f"not an index of version {VERSION} (magic {magic!r}, version {version})")
    if len(data) != index_bytes(count):
        raise refuse_index(where, f"{len(data)} bytes, expected {index_bytes(count)} for {count} blocks")
    (checksum,) = struct.unpack_from("<I", data, len(data) - 4)
    if checksum != zlib.crc32(memoryview(data)[:-4]):
        raise refuse_index(where, "its checksum does not match its content")
    records: np.ndarray[Any, Any] = np.frombuffer(data, INDEX_RECORD, count, HEADER.size)
    return ShardIndex(records, tar_bytes, sha.hex())


def first_bad_record(records: np.ndarray, first: np.ndarray | None = None) -> int | None:
    """Number of the first record that no `ShardWriter` wrote, None if there is none.

    Args:
        records: [blocks] of `INDEX_RECORD`, of one shard or of several, one after another.
        first: [shards] number of the first record of each shard; unset: all are of one.

    Blocks follow each other without a gap from byte 0 on, are multiples of 512 bytes, and hold what they count.
    """
    if not len(records):
        return None
    size, tokens, documents, sentences = (
        records[name].astype(np.uint64) for name in ("size", "tokens", "documents", "sentences")
    )
    expected = np.zeros(len(records), np.uint64)
    np.add(records["offset"][:-1], size[:-1], out=expected[1:])
    expected[first[first < len(records)] if first is not None else 0] = 0
    bad = (records["offset"] != expected) | (size % 512 != 0) | (records["reserved"] != 0)
    bad |= (documents < 1) | (sentences < documents) | (tokens < sentences)
    bad |= 2 * tokens + 4 * (documents + sentences) + 4 * 512 > size
    found = int(np.argmax(bad))
    return found if bad[found] else None


def tar_bytes_of(records: np.ndarray) -> int:
    """Bytes of a tar: its blocks and the two zero records that end it."""
    return END_OF_TAR + (int(records[-1]["offset"]) + int(records[-1]["size"]) if len(records) else 0)


def refuse_index(where: str, problem: str) -> DataError:
    """Error that names an index and what is wrong with it."""
    return DataError(f"index {where}: {problem}; delete it and rerun prep to rebuild it")
