"""How shards become rows. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from electra_ds.data.rows import SHORTEST_ROW


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which shards, how rows are packed, and in which order they come."""

    path: str
    """Folder of the shard set that 'electra-ds prep' wrote."""
    sequence_length: int = 128
    """Tokens of a row, special tokens included, where training.phases does not say otherwise."""
    pairs: bool = True
    """Most segments are pairs [CLS] a [SEP] b [SEP] with token types (the paper); false: one text a segment."""
    single_segment_every: int = 10
    """With pairs: one segment in this many stays a single text (count; the original's 10%)."""
    short_segment_every: int = 20
    """With pairs: in one row of this many, a segment is cut at a random length from 5 tokens on (the original's 5%)."""
    streams: int = 64
    """Canonical streams the order is spread over (count): ranks that divide it read each byte about once."""
    shuffle_tokens: int = 524_288
    """Rows are permuted within windows of this many tokens of a stream; bounds the memory of the shuffle."""
    cache_bytes: int = 1_073_741_824
    """Packed blocks a rank keeps in memory (bytes)."""
    prefetch: int = 2
    """Global batches prepared ahead by a background thread (count)."""
    audit: bool = False
    """Write the ids of the rows each rank consumed, step by step, next to the metrics."""

    def __post_init__(self) -> None:
        if self.sequence_length < SHORTEST_ROW:
            raise ValueError(f"data.sequence_length={self.sequence_length}: must be at least {SHORTEST_ROW}")
        for name in ("single_segment_every", "short_segment_every"):
            if getattr(self, name) < 2:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 2 (or set data.pairs to false)")
        for name in ("streams", "shuffle_tokens", "cache_bytes", "prefetch"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 1")
