"""Batches of rows, in the canonical order, for one rank.

Shape legend: R rows of this rank in one global batch, L tokens of a row.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from electra_ds.data.config import DataConfig
from electra_ds.data.mixing import hash_words
from electra_ds.data.order import Located, RowOrder
from electra_ds.data.rows import PackedRows, Packing, pack_block
from electra_ds.data.shards import ShardSet
from electra_ds.errors import UserError

Item = TypeVar("Item")
_LAYOUT, _SPLIT = 21, 22


@dataclass(frozen=True)
class Rows:
    """What one rank consumes of one global batch.

    Attributes:
        ids, segments, positions, token_types: int64 [R, L], see `PackedRows`.
        row_ids: int64 [R], number of each row in the shard set. epochs: int64 [R].
    """

    ids: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    token_types: np.ndarray
    row_ids: np.ndarray
    epochs: np.ndarray


class RowSource:
    """Rows of one split at one row length, by position in the order.

    Holds no state but a cache: what stands at a position depends on nothing but the arguments of `__init__`.
    """

    def __init__(self, shards: ShardSet, config: DataConfig, length: int, seed: int) -> None:
        """Args: shards: the split. config: packing and order. length: L, tokens. seed: of the run."""
        self.shards, self.config, self.length = shards, config, length
        self.packing = Packing(length, config.pairs, config.single_segment_every, config.short_segment_every)
        fingerprint = int(shards.manifest.fingerprint[:16], 16)
        self.block_keys = hash_words(_LAYOUT, fingerprint, length, np.arange(len(shards)))
        rows = self.packing.rows(shards.records["tokens"], shards.records["documents"], self.block_keys)
        self._seed = seed
        self.order = RowOrder(
            rows, seed, shards.manifest.fingerprint, length, config.streams, max(1, config.shuffle_tokens // length)
        )
        self._cache: OrderedDict[tuple[int, int], PackedRows] = OrderedDict()
        self._cached_bytes = 0

    @property
    def total(self) -> int:
        """Rows of one epoch."""
        return self.order.total

    def at(self, positions: np.ndarray) -> Rows:
        """Rows at positions of the run, int64 [R]."""
        return self._collect(self.order.locate(positions))

    def unshuffled(self, rows: np.ndarray) -> Rows:
        """Rows by their number in the shard set, int64 [R], as in epoch 0; for validation."""
        block = np.searchsorted(self.order.first_row_id, rows, "right") - 1
        return self._collect(Located(np.zeros_like(rows), block, rows - self.order.first_row_id[block], rows))

    def _collect(self, located: Located) -> Rows:
        shape = (len(located.row), self.length)
        out = [np.empty(shape, np.int64) for _ in range(4)]
        for epoch, block in sorted(set(zip(located.epoch.tolist(), located.block.tolist(), strict=True))):
            here = (located.epoch == epoch) & (located.block == block)
            packed, rows = self._packed(epoch, block), located.row[here]
            for target, source in zip(
                out, (packed.ids, packed.segments, packed.positions, packed.token_types), strict=True
            ):
                target[here] = source[rows]
        ids, segments, positions, token_types = out
        return Rows(ids, segments, positions, token_types, row_ids=located.row_id, epochs=located.epoch)

    def _packed(self, epoch: int, block: int) -> PackedRows:
        if (epoch, block) in self._cache:
            self._cache.move_to_end((epoch, block))
            return self._cache[epoch, block]
        special = self.shards.manifest.tokenizer
        packed = pack_block(
            self.shards.read(block),
            self.packing,
            int(self.block_keys[block]),
            int(hash_words(_SPLIT, self._seed, epoch, int(self.block_keys[block]))[0]),
            special.cls_id,
            special.sep_id,
            special.pad_id,
        )
        self._cache[epoch, block] = packed
        self._cached_bytes += packed.nbytes
        while self._cached_bytes > self.config.cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return packed


def rank_positions(consumed: int, global_batch: int, rank: int, world_size: int) -> np.ndarray:
    """Positions that one rank takes of the global batch after `consumed` rows, int64 [global_batch / world_size].

    Every world_size-th position, so that a rank whose world size divides the number of streams keeps to its own.
    """
    return consumed + rank + world_size * np.arange(global_batch // world_size)


def require_enough_rows(source: RowSource, global_batch: int, world_size: int) -> None:
    """Refuse a shard set with fewer rows than one global batch."""
    if source.total < global_batch:
        raise UserError(
            f"{source.shards.folder}: split '{source.shards.split}' has {source.total} rows of {source.length} tokens, "
            f"fewer than one global batch of {global_batch} ({world_size} ranks); lower training.global_batch_size, "
            "shorten data.sequence_length, or prepare more text"
        )


class Prefetcher(Generic[Item]):
    """Runs a function of consecutive numbers in a background thread, some results ahead.

    What was made but not taken is simply made again after a resume: nothing is lost, since position decides content.
    """

    def __init__(self, make: Callable[[int], Item], begin: int, ahead: int) -> None:
        """Args: make: called with begin, begin + 1, ...; begin: first number; ahead: results kept ready."""
        self._make, self._begin = make, begin
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """Return the next result; an error in the thread is raised here."""
        before = time.perf_counter()
        item = self._queue.get()
        self.waited_seconds += time.perf_counter() - before
        if isinstance(item, _Failure):
            raise item.error
        result: Item = item
        return result

    def close(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self) -> None:
        number = self._begin
        while not self._stopped.is_set():
            try:
                item: Any = self._make(number)
            except BaseException as error:
                item = _Failure(error)
            self._queue.put(item)
            if isinstance(item, _Failure):
                return
            number += 1


@dataclass(frozen=True)
class _Failure:
    error: BaseException
