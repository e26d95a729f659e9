"""Opening a shard set and reading its blocks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from electra_ds.data.format import (
    INDEX_RECORD,
    Block,
    Manifest,
    ShardInfo,
    decode_block,
    read_block_bytes,
    read_index,
    read_manifest,
)
from electra_ds.errors import DataError, UserError, did_you_mean
from electra_ds.files import sha256_of


class ShardSet:
    """One split of a shard set: the table of its blocks, and positioned reads of them.

    Opening reads the manifest and the indexes, never a tar; sizes of tars are compared with the manifest.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str = "train") -> None:
        """Open a split.

        Raises:
            DataError: manifest, index or tar missing, cut short or altered.
            UserError: no such split.
        """
        self.folder, self.split = Path(folder), split
        self.manifest: Manifest = read_manifest(folder)
        if split not in self.manifest.splits:
            raise UserError(
                f"{folder}: no split '{split}', it holds {', '.join(self.manifest.splits)}"
                f"{did_you_mean(split, self.manifest.splits)}"
            )
        self._shards = self.manifest.splits[split]
        records = [self._open_index(shard) for shard in self._shards]
        self.records = np.concatenate(records) if records else np.empty(0, INDEX_RECORD)
        self._first_block = np.cumsum([0] + [len(part) for part in records])
        self._descriptors: dict[int, int] = {}
        self.bytes_read = 0

    def __len__(self) -> int:
        return len(self.records)

    def read(self, block: int) -> Block:
        """Read one block, by its number in manifest order, and check its CRC-32.

        Raises:
            DataError: missing, cut short or altered; names shard, block, offset and checksum.
        """
        shard = int(np.searchsorted(self._first_block, block, "right")) - 1
        where = f"{self.folder / self._shards[shard].name}.tar block {block - self._first_block[shard]}"
        if shard not in self._descriptors:
            try:
                self._descriptors[shard] = os.open(self.folder / f"{self._shards[shard].name}.tar", os.O_RDONLY)
            except OSError as error:
                raise DataError(f"{where}: cannot be opened ({error}); rerun prep to rebuild the shard") from error
        data = read_block_bytes(self._descriptors[shard], self.records[block], where)
        self.bytes_read += len(data)
        decoded = decode_block(data, where)
        if len(decoded.tokens) != self.records[block]["tokens"]:
            raise DataError(
                f"{where}: holds {len(decoded.tokens)} tokens, its index says {self.records[block]['tokens']}"
            )
        return decoded

    def close(self) -> None:
        """Close the tars."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _open_index(self, shard: ShardInfo) -> np.ndarray:
        path, tar = self.folder / f"{shard.name}.idx", self.folder / f"{shard.name}.tar"
        index = read_index(path)
        if sha256_of(path) != shard.index_sha256 or index.tar_sha256 != shard.sha256:
            raise DataError(f"index {path}: not the one its manifest names; delete it and rerun prep to rebuild it")
        size = tar.stat().st_size if tar.exists() else None
        if size != shard.bytes:
            found = "missing" if size is None else f"{size} bytes"
            raise DataError(
                f"shard {tar}: {found}, the manifest says {shard.bytes} bytes; delete it and rerun prep to rebuild it"
            )
        return index.records
