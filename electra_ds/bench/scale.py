"""What grows with ranks and with the set: who reads which bytes, and how long opening and seeking take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from electra_ds.data.config import DataConfig
from electra_ds.data.loader import Portion, RowSource, StepRows, open_shards


def count_reads(shards: str, length: int, batch: int, world_sizes: list[int]) -> list[dict[str, Any]]:
    """Read one epoch as the ranks of each world size would, one after another.

    Args:
        shards: shard set.
        length: L, tokens of a row.
        batch: rows of a global batch, at least; raised to a multiple of the world size.
        world_sizes: numbers of ranks.

    Returns:
        Per world size: bytes and reads of all ranks together, fewest and most bytes of one, blocks packed, and the
        blocks and bytes that the shards hold.
    """
    counts = []
    for world_size in world_sizes:
        global_batch = math.ceil(batch / world_size) * world_size
        portions = [
            Portion(first_step=0, first_row=0, global_batch=global_batch, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        per_rank = [_read_as(shards, length, portion) for portion in portions]
        records = open_shards(DataConfig(path=shards)).records
        counts.append(
            {
                "ranks": world_size,
                "bytes": sum(count["bytes_read"] for count in per_rank),
                "reads": sum(count["reads"] for count in per_rank),
                "blocks_packed": sum(count["blocks_packed"] for count in per_rank),
                "fewest_bytes": min(count["bytes_read"] for count in per_rank),
                "most_bytes": max(count["bytes_read"] for count in per_rank),
                "stored_blocks": len(records),
                "stored_bytes": int(records["size"].sum(dtype=np.int64)),
            }
        )
    return counts


def _read_as(shards: str, length: int, portion: Portion) -> dict[str, int]:
    """What one rank counts in the whole steps of one epoch."""
    config = DataConfig(path=shards)
    rows_of = StepRows(RowSource(open_shards(config), config, length, seed=0), portion)
    for step in range(rows_of.source.total // portion.global_batch):
        rows_of(step)
    return rows_of.counters()
