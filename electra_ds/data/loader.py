"""Rows of a split, by position in the canonical order.

Shape legend: R rows asked for, L tokens of a row, M blocks.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from electra_ds.data.config import DataConfig
from electra_ds.data.format import Manifest
from electra_ds.data.mixing import hash_words
from electra_ds.data.mixture import order_of
from electra_ds.data.order import Located
from electra_ds.data.rows import PackedRows, Packing, pack_block, row_dtype
from electra_ds.data.shards import ShardSet
from electra_ds.data.translations import pack_pairs, translation_rows
from electra_ds.errors import DataError, UserError

COUNTERS = ("bytes_read", "reads", "blocks_packed")
"""What a loader counts: bytes of shards read, in how many reads, and blocks packed into rows."""
_LAYOUT, _SPLIT = 21, 22


@dataclass(frozen=True)
class Rows(PackedRows):
    """Some rows, in compact dtypes.

    Attributes:
        records: [R] of `row_dtype`: ids, segments, positions and token types of each row.
        row_ids: int64 [R], number of each row in the shard set. epochs: int64 [R].
        skipped: bool [R], rows of blocks that cannot be read; they hold nothing but padding.
        pair_rows: bool [R], rows of translation pairs; None where the set has none.
    """

    row_ids: np.ndarray
    epochs: np.ndarray
    skipped: np.ndarray
    pair_rows: np.ndarray | None = None


@dataclass
class _CachedBlock:
    content: memoryview
    """Its packed rows as bytes, one after another."""
    left: int
    """Rows of it that were not asked for yet, as far as this process knows."""


class RowSource:
    """Rows of one split at one row length, by position in the order.

    What stands at a position depends on nothing but the arguments of `__init__`; the object itself holds a cache of
    packed blocks, a list of blocks that cannot be read, and counts. A block leaves the cache when its last row of the
    epoch was given out, so an epoch that is read in order packs each block once, in the memory that `live_bytes` tells.
    """

    def __init__(self, shards: ShardSet, config: DataConfig, length: int, seed: int) -> None:
        """Args: shards: the split. config: packing and order. length: L, tokens. seed: of the run.

        Raises:
            UserError: weights that do not fit the corpora.
        """
        self.shards, self.config, self.length = shards, config, length
        self.packing = Packing(length, config.pairs, config.single_segment_every, config.short_segment_every)
        manifest = shards.manifest
        self.block_keys = hash_words(_LAYOUT, int(manifest.fingerprint[:16], 16), length, np.arange(len(shards)))
        tokens, documents = shards.records["tokens"], shards.records["documents"]
        self.rows = self.packing.rows(tokens, documents, self.block_keys)
        if manifest.has_pairs:
            self.rows = np.where(shards.pairs, translation_rows(tokens, documents, length), self.rows)
        self.first_row_id = np.cumsum(self.rows) - self.rows
        self.order = order_of(manifest, shards.split, self.rows, config, length, seed)
        self.bad_blocks: dict[int, str] = {}
        """Blocks that could not be read, with on_corrupt=skip, and why."""
        self.blocks_packed = 0
        self._seed = seed
        self._dtype = row_dtype(length, np.dtype(manifest.dtype).newbyteorder("<"))
        self._padding = np.zeros((), self._dtype)
        self._padding["ids"] = manifest.tokenizer.pad_id
        self._cache: OrderedDict[tuple[int, int], _CachedBlock] = OrderedDict()
        self._cached_bytes = 0
        self._most_cached = config.cache_bytes

    @property
    def total(self) -> int:
        """Rows of one pass over everything that is used."""
        return self.order.total

    @property
    def segments_a_row(self) -> float:
        """Segments of a row on average, from the counts alone: each row begins one, each document, each extra cut."""
        documents = int(self.shards.records["documents"].sum(dtype=np.int64))
        return 1 + documents / max(1, len(self)) + 1 / self.packing.short_segment_every

    def __len__(self) -> int:
        """Rows of the split, whether they are used or not."""
        return int(self.rows.sum())

    def at(self, positions: np.ndarray) -> Rows:
        """Rows at positions of the run, int64 [R].

        Raises:
            DataError: a block cannot be read, with on_corrupt=stop.
        """
        return self.collect(self.order.locate(positions))

    def unshuffled(self, rows: np.ndarray, epoch: int = 0) -> Rows:
        """Rows by their number in the shard set, int64 [R], as they are in an epoch; for validation and inspection."""
        block = np.searchsorted(self.first_row_id, rows, "right") - 1
        return self.collect(
            Located(np.full_like(rows, epoch), block, rows - self.first_row_id[block], rows), once=False
        )

    def collect(self, located: Located, once: bool = True) -> Rows:
        """Rows that were located before; `once`: none of them will be asked for again in its epoch."""
        records = np.empty(len(located.row), self._dtype)
        skipped = np.zeros(len(records), bool)
        size, target = self._dtype.itemsize, _bytes(records)
        # Few rows of a batch share a block, so rows are copied one by one: as bytes, which costs half a microsecond.
        keys = zip(located.epoch.tolist(), located.block.tolist(), strict=True)
        for number, (key, row) in enumerate(zip(keys, located.row.tolist(), strict=True)):
            cached = self._packed(key)
            if cached is None:
                records[number], skipped[number] = self._padding, True
                continue
            target[number * size : (number + 1) * size] = cached.content[row * size : (row + 1) * size]
            if once:
                cached.left -= 1
                if not cached.left:
                    self._forget(key)
        pair_rows = self.shards.pairs[located.block] if self.shards.manifest.has_pairs else None
        return Rows(records, located.row_id, located.epoch, skipped, pair_rows)

    def clear(self) -> None:
        """Empty the cache."""
        self._cache.clear()
        self._cached_bytes = 0

    def will_need(self, located: Located) -> None:
        """Let the shard set fetch ahead what these rows will read, in the order in which they come."""
        keys, first = np.unique(located.epoch * len(self.rows) + located.block, return_index=True)
        pairs = (divmod(key, len(self.rows)) for key in keys[np.argsort(first)].tolist())
        new = dict.fromkeys(block for epoch, block in pairs if (epoch, block) not in self._cache)
        self.shards.will_need(block for block in new if block not in self.bad_blocks)

    def live_bytes(self, world_size: int) -> int:
        """Memory of the blocks that one of `world_size` ranks works on at once (bytes, an upper estimate)."""
        streams = self.config.streams // np.gcd(self.config.streams, world_size)
        open_blocks = self.order.open_blocks() * min(1.0, streams / self.config.streams)
        return int(open_blocks * (self.rows.mean() if len(self.rows) else 0) * self._dtype.itemsize)

    def share_cache(self, world_size: int) -> None:
        """Keep no more than one of `world_size` ranks needs.

        A block on the border of two streams may have rows for two ranks. Neither of them sees all its rows, so neither
        can tell that it is done with it: the least recently used must go, or memory would grow from epoch to epoch.
        """
        largest = int(self.rows.max()) * self._dtype.itemsize if len(self.rows) else 0
        self._most_cached = min(self.config.cache_bytes, 2 * self.live_bytes(world_size) + 8 * largest)

    def _packed(self, key: tuple[int, int]) -> _CachedBlock | None:
        """Packed rows of a block in an epoch, or None if it cannot be read and is to be skipped."""
        if (cached := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return cached
        epoch, block = key
        if block in self.bad_blocks:
            return None
        try:
            text = self.shards.read(block)
        except (DataError, OSError) as error:
            if self.config.on_corrupt == "stop":
                raise
            self.bad_blocks[block] = str(error)
            print(f"skipped, {self.rows[block]} rows of {self.length} tokens: {error}", file=sys.stderr, flush=True)
            return None
        special = self.shards.manifest.tokenizer
        split_key = int(hash_words(_SPLIT, self._seed, epoch, int(self.block_keys[block]))[0])
        ids = (special.cls_id, special.sep_id, special.pad_id)
        if self.shards.pairs[block]:
            packed = pack_pairs(text, self.length, split_key, *ids)
        else:
            packed = pack_block(text, self.packing, int(self.block_keys[block]), split_key, *ids)
        self.blocks_packed += 1
        self._cache[key] = _CachedBlock(_bytes(packed.records), len(packed.records))
        self._cached_bytes += packed.records.nbytes
        while self._cached_bytes > self._most_cached and len(self._cache) > 1:
            self._forget(next(iter(self._cache)))
        return self._cache[key]

    def _forget(self, key: tuple[int, int]) -> None:
        cached = self._cache.pop(key, None)
        self._cached_bytes -= cached.content.nbytes if cached else 0


def _bytes(records: np.ndarray) -> memoryview:
    """The memory of an array."""
    return records.view(np.uint8).data


def rank_positions(consumed: int, global_batch: int, rank: int, world_size: int) -> np.ndarray:
    """Positions that one rank takes of the global batch after `consumed` rows, int64 [global_batch / world_size].

    Every world_size-th position, so that a rank whose world size divides the number of streams keeps to its own.
    """
    return consumed + rank + world_size * np.arange(global_batch // world_size)


@dataclass(frozen=True)
class Portion:
    """The rows that one rank takes of each step, from a step on; nothing in it is state."""

    first_step: int
    """Updates made before the phase began."""
    first_row: int
    """Position of the phase's first row: what earlier phases of the same row length consumed."""
    global_batch: int
    """Rows of a step, over all ranks."""
    rank: int
    world_size: int

    def positions(self, begin: int, end: int) -> np.ndarray:
        """Positions of this rank's rows for the updates after `begin` ... `end` - 1 finished ones, int64."""
        consumed = self.first_row + (begin - self.first_step) * self.global_batch
        return rank_positions(consumed, (end - begin) * self.global_batch, self.rank, self.world_size)


class StepRows:
    """This rank's rows of a step; called with the number of updates made before it."""

    _PLANNED = 4096
    """Positions located at once (count): finding one alone costs as much as finding a hundred."""

    def __init__(self, source: RowSource, portion: Portion) -> None:
        """Args: source: of the rows. portion: which of them."""
        self.source, self._portion = source, portion
        source.share_cache(portion.world_size)
        self._rows = portion.global_batch // portion.world_size
        self._steps = max(1, self._PLANNED // max(1, self._rows))
        self._begin = 0
        self._located: Located | None = None

    def __call__(self, step: int) -> Rows:
        """Rows of the update after `step` finished ones, [R].

        Raises:
            DataError: a block cannot be read, with on_corrupt=stop.
        """
        if self._located is None or not self._begin <= step < self._begin + self._steps:
            self._begin = step
            self._located = self.source.order.locate(self._portion.positions(step, step + self._steps))
            self.source.will_need(self._located)
        at = (step - self._begin) * self._rows
        return self.source.collect(self._located.part(slice(at, at + self._rows)))

    def counters(self) -> dict[str, int]:
        """`COUNTERS`, of this process."""
        shards = self.source.shards
        return {"bytes_read": shards.bytes_read, "reads": shards.reads, "blocks_packed": self.source.blocks_packed}

    def close(self) -> None:
        """Nothing to end."""


def open_shards(
    config: DataConfig,
    split: str = "train",
    fingerprint: str | None = None,
    table: tuple[Manifest, np.ndarray] | None = None,
) -> ShardSet:
    """Open a split as the config says.

    Args:
        config: which set.
        split: its name.
        fingerprint: of the manifest that the run began with, where it is opened once more.
        table: manifest and records that another rank read, where this one need not.

    Raises:
        DataError: the set is missing, cut short, altered, or no longer the one with that fingerprint.
        UserError: no such split.
    """
    shards = ShardSet(
        config.path,
        split,
        cache_folder=config.cache_folder,
        cache_disk_bytes=config.cache_disk_bytes,
        retries=config.retries,
        table=table,
    )
    found = shards.manifest.fingerprint
    if fingerprint is not None and fingerprint != found:
        raise DataError(
            f"{shards.folder}: replaced while the run goes on (fingerprint {fingerprint[:12]}... before, now "
            f"{found[:12]}...); restore it, and the same command goes on from the newest checkpoint"
        )
    return shards


def require_enough_rows(source: RowSource, global_batch: int, world_size: int) -> None:
    """Refuse a shard set with fewer rows than one global batch."""
    if source.total < global_batch:
        raise UserError(
            f"{source.shards.folder}: split '{source.shards.split}' has {source.total} rows of {source.length} tokens, "
            f"fewer than one global batch of {global_batch} ({world_size} ranks); lower training.global_batch_size, "
            "shorten data.sequence_length, or prepare more text"
        )
