"""Opening a shard set and reading its blocks."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from electra_ds.data.cache import DiskCache, default_folder
from electra_ds.data.format import INDEX_RECORD, PAIRS, Block, Manifest, ShardInfo, decode_block
from electra_ds.data.format.index import (
    first_bad_record,
    index_bytes,
    parse_index_unchecked,
    refuse_index,
    tar_bytes_of,
)
from electra_ds.data.format.manifest import read_manifest_in
from electra_ds.data.format.shard import check_block_bytes
from electra_ds.data.remote_blocks import RemoteBlocks, fetch_cached
from electra_ds.data.remote_tokenizer import local_tokenizer
from electra_ds.errors import DataError, UserError, did_you_mean
from electra_ds.remote import RemoteFolder, Retry
from electra_ds.storage import LocalFolder, open_folder

CACHE_DISK_BYTES = 20_000_000_000
"""Default bound of the cache of remote blocks (bytes)."""
_HINTS = 64
"""Blocks that the kernel is told of at a time."""
_REQUESTS_AT_A_TIME = 16
_PATIENCE = 0.3
"""Seconds of opening files one by one."""
_SHARDS_AT_A_TIME = 128

Item = TypeVar("Item")
Result = TypeVar("Result")


class ShardSet:
    """One split of a shard set, in a local folder or behind a URL: the table of its blocks, and reads of them.

    Opening reads the manifest and the indexes, never a tar; sizes of tars are compared with the manifest. Reading is
    safe from several threads; processes of a node share one cache of what is remote.

    Attributes:
        folder: the folder, or the URL as text.
        records: [blocks] of `INDEX_RECORD`, in manifest order.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        *,
        cache_folder: str | os.PathLike[str] | None = None,
        cache_disk_bytes: int = CACHE_DISK_BYTES,
        retries: int = 5,
        read_ahead: int = 8,
        table: tuple[Manifest, np.ndarray] | None = None,
    ) -> None:
        """Open a split.

        Args:
            folder: of the set, local or any fsspec URL.
            split: ``train`` or ``validation``.
            cache_folder: on a local disk, for what is remote; unset: ``$ELECTRA_DS_CACHE``, else among the temporary
                files.
            cache_disk_bytes: most bytes in that folder; 0 turns it off.
            retries: tries after the first, of a request that may yet succeed (count).
            read_ahead: remote requests made ahead at a time (count); their answers are kept in memory. 0: none.
            table: manifest and `records` of the same split as another process opened it: nothing is read then.

        Raises:
            DataError: manifest, index or tar missing, cut short or altered; a server that refuses or does not answer.
            UserError: no such split, or a URL that cannot be read here.
        """
        retry = Retry(retries=retries)
        self._storage = open_folder(folder, retry)
        remote = isinstance(self._storage, RemoteFolder)
        self.folder: Path | str = self._storage.url if isinstance(self._storage, RemoteFolder) else Path(folder)
        self.split = split
        self.manifest: Manifest = table[0] if table else read_manifest_in(self._storage, str(self.folder))
        if split not in self.manifest.splits:
            raise UserError(
                f"{self.folder}: no split '{split}', it holds {', '.join(self.manifest.splits)}"
                f"{did_you_mean(split, self.manifest.splits)}"
            )
        self._cache = DiskCache(cache_folder or default_folder(), cache_disk_bytes if remote else 0, retry.longest)
        self._shards = self.manifest.splits[split]
        self._first_block = np.cumsum([0] + [shard.blocks for shard in self._shards])
        if table:
            self.records = table[1]
        else:
            self.records = np.empty(int(self._first_block[-1]), INDEX_RECORD)
            self._open_indexes()
        self._remote: RemoteBlocks | None = None
        if isinstance(self._storage, RemoteFolder):
            self._remote = RemoteBlocks(
                self._storage, self._shards, self.records, self._first_block, self._cache, read_ahead
            )
        self._lock = threading.Lock()
        self._local_reads = 0
        self.bytes_read = 0

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def pairs(self) -> np.ndarray:
        """Whether the documents of each block are translation pairs, bool [blocks]."""
        counts = np.array([shard.blocks for shard in self._shards], np.int64)
        return np.repeat(np.array([shard.kind == PAIRS for shard in self._shards], bool), counts)

    @property
    def reads(self) -> int:
        """Positioned reads of local tars, or range requests of remote ones (count)."""
        return self._remote.reads if self._remote else self._local_reads

    @property
    def bytes_fetched(self) -> int:
        """Bytes of blocks that came over the network."""
        return self._remote.bytes_fetched if self._remote else 0

    @property
    def cache_hits(self) -> int:
        """Requests that the cache on local disk spared (count)."""
        return self._remote.cache_hits if self._remote else 0

    def read(self, block: int) -> Block:
        """Read one block, by its number in manifest order, and check its CRC-32 and what it holds.

        Raises:
            DataError: missing, cut short or altered; names shard, block, offset and checksum.
            IndexError: no such block.
        """
        shard, number = self._find(block)
        record = self.records[block]
        where = f"{self._storage.path(shard.name)}.tar block {number}"
        if self._remote:
            data = self._remote.read(block, where)
        else:
            data = self._storage.read_range(f"{shard.name}.tar", int(record["offset"]), int(record["size"]))
            check_block_bytes(data, record, where)
        with self._lock:
            self._local_reads += 1
            self.bytes_read += len(data)
        decoded = decode_block(data, where, f"{shard.name}-{number:05d}")
        self._compare(decoded, record, where, shard.kind == PAIRS)
        return decoded

    def will_need(self, blocks: Iterable[int]) -> None:
        """Say which blocks will be read next, in this order: they are fetched ahead, some at a time.

        Replaces what was said before. Of a local set the kernel is told, and reads ahead as it sees fit.
        """
        if self._remote:
            self._remote.will_need(blocks)
        elif isinstance(self._storage, LocalFolder):
            for block in islice(blocks, _HINTS):
                name, record = f"{self._find(block)[0].name}.tar", self.records[block]
                self._storage.will_need(name, int(record["offset"]), int(record["size"]))

    def tokenizer_folder(self) -> Path:
        """Local folder of the set's tokenizer; a remote one is fetched into the cache and checked.

        Raises:
            DataError: it cannot be fetched, or is not the one the shards were made with.
        """
        return local_tokenizer(self.folder, self.manifest, self._cache.folder)

    def close(self) -> None:
        """Close the tars and stop fetching ahead."""
        if self._remote:
            self._remote.close()
        self._storage.close()

    def _find(self, block: int) -> tuple[ShardInfo, int]:
        if not 0 <= block < len(self.records):
            raise IndexError(f"{self.folder}: block {block} is not among the {len(self.records)} of '{self.split}'")
        shard = int(np.searchsorted(self._first_block, block, "right")) - 1
        return self._shards[shard], block - int(self._first_block[shard])

    def _compare(self, block: Block, record: np.void, where: str, pairs: bool) -> None:
        """Refuse a block that is whole but not what index and manifest speak of."""
        for name in ("tokens", "documents", "sentences"):
            if len(getattr(block, name)) != int(record[name]):
                raise DataError(f"{where}: holds {len(getattr(block, name))} {name}, its index says {record[name]}")
        if block.metadata.get("pairs", False) is not pairs:
            wanted = "translation pairs" if pairs else "texts by themselves"
            raise DataError(f"{where}: not of {wanted}, as the manifest says; delete the shard and rerun prep")
        if block.tokens.dtype != np.dtype(self.manifest.dtype):
            raise DataError(f"{where}: tokens are {block.tokens.dtype}, the manifest says {self.manifest.dtype}")
        largest, vocabulary = int(block.tokens.max()), self.manifest.tokenizer.vocab_size
        if largest >= vocabulary:
            raise DataError(
                f"{where}: token id {largest}, but the vocabulary has {vocabulary} ids; delete the shard and rerun prep"
            )

    def _open_indexes(self) -> None:
        """Fill `records`, and check indexes and tars against the manifest."""
        names = [f"{shard.name}.tar" for shard in self._shards]
        listed = self._storage.sizes() if isinstance(self._storage, RemoteFolder) else None
        sizes = [listed.get(name, -1) for name in names] if listed else _all(self._storage.size, names)
        _all(self._open_index, range(len(self._shards)))
        for shard, size in zip(self._shards, sizes, strict=True):
            if size is not None and size != shard.bytes:
                raise DataError(
                    f"shard {self._storage.path(shard.name)}.tar: {'missing' if size < 0 else f'{size} bytes'}, the "
                    f"manifest says {shard.bytes} bytes; delete it and rerun prep to rebuild it"
                )
        for begin in range(0, len(self._shards), _SHARDS_AT_A_TIME):
            self._check_records(begin, min(begin + _SHARDS_AT_A_TIME, len(self._shards)))

    def _check_records(self, begin: int, end: int) -> None:
        """Check the records of shards `begin` to `end` together: one by one costs 30 times as long."""
        first = self._first_block[begin : end + 1]
        records = self.records[first[0] : first[-1]]
        if (bad := first_bad_record(records, first - first[0])) is not None:
            shard, number = self._find(int(first[0]) + bad)
            where = self._storage.path(f"{shard.name}.idx")
            raise refuse_index(where, f"the record of block {number} says what no block can be")
        if self.manifest.has_pairs and np.any(
            odd := self.pairs[first[0] : first[-1]] & (records["documents"] % 2 == 1)
        ):
            shard, number = self._find(int(first[0]) + int(np.argmax(odd)))
            where = self._storage.path(f"{shard.name}.idx")
            raise refuse_index(where, f"block {number} has an odd number of texts, but its shard is of pairs")
        for name in ("tokens", "documents", "sentences"):
            found = np.diff(np.append(0, np.cumsum(records[name], dtype=np.int64))[first - first[0]])
            said = np.array([getattr(shard, name) for shard in self._shards[begin:end]], np.int64)
            for number in np.flatnonzero(found != said)[:1].tolist():
                where = self._storage.path(f"{self._shards[begin + number].name}.idx")
                raise refuse_index(where, f"{found[number]} {name}, the manifest says {said[number]}")

    def _open_index(self, number: int) -> None:
        shard = self._shards[number]
        name, size = f"{shard.name}.idx", index_bytes(shard.blocks)
        where = self._storage.path(name)
        if isinstance(self._storage, LocalFolder):
            data = self._storage.read_file(name, size)
            whole = hashlib.sha256(data).hexdigest() == shard.index_sha256
        else:
            is_whole = lambda data: hashlib.sha256(data).hexdigest() == shard.index_sha256  # noqa: E731
            fetch = lambda: self._storage.read_range(name, 0, size)  # noqa: E731
            data, _ = fetch_cached(self._cache, f"index-{shard.index_sha256}", size, fetch, is_whole)
            whole = is_whole(data)
        index = parse_index_unchecked(data, where)
        if not whole or index.tar_sha256 != shard.sha256 or index.tar_bytes != shard.bytes:
            raise refuse_index(where, "not the one its manifest names")
        if shard.blocks != len(index.records) or tar_bytes_of(index.records) != shard.bytes:
            raise refuse_index(where, f"its blocks are not the {shard.blocks} of a tar of {shard.bytes:,} bytes")
        self.records[int(self._first_block[number]) : int(self._first_block[number + 1])] = index.records


def _all(action: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call `action` for each item; the first error is raised.

    A folder that answers slowly (a server, a parallel file system) is asked for several at a time; on a fast one
    threads would only be in each other's way.
    """
    results = []
    deadline = time.monotonic() + _PATIENCE
    for item in items:
        if time.monotonic() > deadline:
            break
        results.append(action(item))
    with ThreadPoolExecutor(_REQUESTS_AT_A_TIME) as pool:
        waiting = [pool.submit(action, item) for item in items[len(results) :]]
        try:
            return results + [result.result() for result in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
