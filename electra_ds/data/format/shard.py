"""Writing one shard (tar and index), and reading one block back."""

from __future__ import annotations

import hashlib
import os
import zlib
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np

from electra_ds.data.format.block import Block, encode_block
from electra_ds.data.format.checks import SHARD_NAME
from electra_ds.data.format.index import END_OF_TAR, INDEX_RECORD, ShardIndex, write_index
from electra_ds.data.format.manifest import ShardInfo
from electra_ds.errors import DataError
from electra_ds.files import TEMPORARY_SUFFIX, explain_full_disk, fsync_folder, sha256_of


class ShardWriter:
    """Writes `NAME.tar` under a temporary name, then its index, then renames both.

    Use as a context manager; leaving it by an exception removes the temporary file.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str) -> None:
        """Args: folder: existing folder; name: without ending, for example ``train-000000``."""
        if not SHARD_NAME.fullmatch(name):
            raise ValueError(f"shard name {name!r}: must match {SHARD_NAME.pattern}, as readers demand")
        self.folder, self.name = Path(folder), name
        self._temporary = self.folder / f"{name}.tar{TEMPORARY_SUFFIX}"
        self._file = open(self._temporary, "wb")  # noqa: SIM115 (closed in finish or __exit__)
        self._digest = hashlib.sha256()
        self._offset = 0
        self._records: list[tuple[int, int, int, int, int, int, int]] = []

    def add(self, block: Block) -> None:
        """Append a block; its key is the shard's name and the block's number in it."""
        data = encode_block(f"{self.name}-{len(self._records):05d}", block)
        self._write(data)
        counts = (len(block.tokens), len(block.documents), len(block.sentences))
        self._records.append((self._offset - len(data), len(data), *counts, zlib.crc32(data), 0))

    def finish(self) -> ShardInfo:
        """Close, sync and publish the shard; return what the manifest says of it."""
        self._write(bytes(END_OF_TAR))
        with explain_full_disk(self._temporary):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        records = np.array(self._records, INDEX_RECORD)
        index = ShardIndex(records, self._offset, self._digest.hexdigest())
        index_path = self.folder / f"{self.name}.idx"
        os.replace(self._temporary, self.folder / f"{self.name}.tar")
        write_index(index_path, index)
        fsync_folder(self.folder)
        return ShardInfo.of_index(self.name, index, sha256_of(index_path))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # On a full disk, closing writes the buffer once more and fails again; the first error is the one to show.
        with nullcontext() if kind is None else suppress(OSError):
            self._file.close()
        if kind is not None:
            self._temporary.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        with explain_full_disk(self._temporary):
            self._file.write(data)
        self._digest.update(data)
        self._offset += len(data)


def read_block_bytes(descriptor: int, record: np.void, where: str) -> bytes:
    """Read a block's bytes by one positioned read and check their CRC-32.

    Args:
        descriptor: an open file descriptor of the tar; its position is not moved.
        record: one `INDEX_RECORD`.
        where: named in errors.

    Raises:
        DataError: the tar is cut short, was altered, or cannot be read.
    """
    try:
        data = os.pread(descriptor, int(record["size"]), int(record["offset"]))
    except OSError as error:
        raise DataError(f"{where}: cannot be read at offset {int(record['offset'])} ({error.strerror})") from error
    return check_block_bytes(data, record, where)


def check_block_bytes(data: bytes, record: np.void, where: str) -> bytes:
    """Return a block's bytes if they are as long as its index record says and have its CRC-32.

    Raises:
        DataError: names block, offset and both checksums.
    """
    size, expected = int(record["size"]), int(record["crc32"])
    if len(data) != size or zlib.crc32(data) != expected:
        raise DataError(
            f"{where}: {len(data)} of {size} bytes at offset {int(record['offset'])}, CRC-32 {zlib.crc32(data):08x} "
            f"where the index says {expected:08x}; delete the shard and rerun prep to rebuild it"
        )
    return data
