"""Blocks of remote tars: long range requests, fetched ahead, kept in a cache on local disk."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from electra_ds.data.cache import DiskCache
from electra_ds.data.format import ShardInfo
from electra_ds.data.format.shard import check_block_bytes
from electra_ds.data.read_ahead import ReadAhead
from electra_ds.errors import DataError
from electra_ds.remote import RemoteFolder

SHORTEST_REQUEST = 1 << 18
"""Bytes; smaller blocks are fetched together with those that follow them."""
TRIES_OF_DAMAGED = 3
"""How often bytes with a wrong checksum are asked for before the file itself is held to be damaged."""


class RemoteBlocks:
    """Bytes of blocks by number. A *span* is what one request fetches: a block, or small neighbours of one shard.

    Safe to use from several threads, and from several processes on one cache.
    """

    def __init__(
        self,
        storage: RemoteFolder,
        shards: Sequence[ShardInfo],
        records: np.ndarray,
        first_block: np.ndarray,
        cache: DiskCache,
        read_ahead: int,
    ) -> None:
        """Fetch nothing yet.

        Args:
            storage: where the tars are.
            shards: in order.
            records: [blocks] of `INDEX_RECORD` of all shards.
            first_block: [shards + 1] number of each shard's first block.
            cache: shared by the processes of this node.
            read_ahead: spans fetched at a time, and kept in memory (count).
        """
        self._storage, self._shards, self._records, self._first_block = storage, shards, records, first_block
        self._cache = cache
        self._spans = _spans(records, first_block)
        self._ahead = ReadAhead(self._load, read_ahead)
        self._lock = threading.Lock()
        self.bytes_fetched = self.reads = self.cache_hits = 0

    def read(self, block: int, where: str) -> bytes:
        """Bytes of a block, compared with its checksum; `where` names it in errors.

        Raises:
            DataError: it cannot be fetched, or is damaged where it comes from.
        """
        span = self._span_of(block)
        begin = int(self._records[block]["offset"]) - int(self._records[self._spans[span]]["offset"])
        data = self._ahead.get(span)[begin : begin + int(self._records[block]["size"])]
        try:
            return check_block_bytes(data, self._records[block], where)
        except DataError:
            self._ahead.forget(span)  # someone may mend the file before it is asked for again
            raise

    def will_need(self, blocks: Iterable[int]) -> None:
        """Fetch blocks in the background, in this order, some at a time."""
        self._ahead.will_need(self._span_of(block) for block in blocks)

    def close(self) -> None:
        """Stop fetching ahead."""
        self._ahead.close()

    def _span_of(self, block: int) -> int:
        return int(np.searchsorted(self._spans, block, "right")) - 1

    def _load(self, span: int) -> bytes:
        blocks = self._records[self._spans[span] : self._spans[span + 1]]
        shard = self._shards[int(np.searchsorted(self._first_block, self._spans[span], "right")) - 1]
        offset = int(blocks[0]["offset"])
        size = int(blocks["size"].sum(dtype=np.int64))

        def fetch() -> bytes:
            with self._lock:
                self.reads += 1
                self.bytes_fetched += size
            return self._storage.read_range(f"{shard.name}.tar", offset, size)

        def is_whole(data: bytes) -> bool:
            begins = blocks["offset"].astype(np.int64) - offset
            parts = zip(begins.tolist(), blocks["size"].tolist(), blocks["crc32"].tolist(), strict=True)
            return all(zlib.crc32(memoryview(data)[begin : begin + size]) == crc for begin, size, crc in parts)

        data, hit = fetch_cached(self._cache, f"{shard.sha256}-{offset}-{size}", size, fetch, is_whole)
        with self._lock:
            self.cache_hits += hit
        return data


def fetch_cached(
    cache: DiskCache, key: str, size: int, fetch: Callable[[], bytes], is_whole: Callable[[bytes], bool]
) -> tuple[bytes, bool]:
    """Take an entry from the cache, or fetch and store it, once among all processes.

    Returns:
        The bytes, and whether they came from the cache. Bytes that stay damaged after `TRIES_OF_DAMAGED` fetches are
        returned as they are, and not stored: the caller knows what to say.
    """

    def cached() -> bytes | None:
        data = cache.read(key, size)
        if data is not None and not is_whole(data):
            cache.drop(key)
            return None
        return data

    if (data := cached()) is not None:
        return data, True
    with cache.fetching(key):
        if (data := cached()) is not None:  # another process fetched it while this one waited
            return data, True
        data = fetch()
        for _ in range(TRIES_OF_DAMAGED - 1):
            if is_whole(data):
                cache.store(key, data)
                break
            data = fetch()
    return data, False


def _spans(records: np.ndarray, first_block: np.ndarray) -> np.ndarray:
    """[spans + 1] int64: number of the first block of each span; a shard's last span takes in a short rest."""
    large = records["size"] >= SHORTEST_REQUEST
    if large.all():
        return np.arange(len(records) + 1)
    firsts = []
    for begin, end in zip(first_block[:-1].tolist(), first_block[1:].tolist(), strict=True):
        if large[begin:end].all():
            firsts.append(np.arange(begin, end))
            continue
        ends = np.cumsum(records["size"][begin:end], dtype=np.int64)
        found, done = [begin], 0
        while (place := int(np.searchsorted(ends, done + SHORTEST_REQUEST))) < end - begin - 1:
            found.append(begin + place + 1)
            done = int(ends[place])
        if len(found) > 1 and int(ends[-1]) - done < SHORTEST_REQUEST:
            found.pop()
        firsts.append(np.array(found))
    return np.concatenate([*firsts, [len(records)]]).astype(np.int64)
