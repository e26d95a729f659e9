"""How shards become rows. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from electra_ds.data.rows import LONGEST_ROW, SHORTEST_ROW


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which shards, how rows are packed, and in which order they come."""

    path: str
    """Shard set that 'electra-ds prep' wrote: a folder, or a URL that fsspec reads (s3://, gs://, https://, hf://)."""
    sequence_length: int = 128
    """Tokens of a row, special tokens included, where training.phases does not say otherwise."""
    pairs: bool = True
    """Most segments are pairs [CLS] a [SEP] b [SEP] with token types (the paper); false: one text a segment."""
    single_segment_every: int = 10
    """With pairs: one segment in this many stays a single text (count; the original's 10%)."""
    short_segment_every: int = 20
    """With pairs: in one row of this many, a segment is cut at a random length from 5 tokens on (the original's 5%)."""
    mixing: Literal["natural", "weights", "temperature"] = "natural"
    """natural: all blocks are one pool; weights: rows by `weights`; temperature: by tokens^(1 / temperature)."""
    weights: dict[str, float] = field(default_factory=dict)
    """mixing=weights: corpus: its share of the rows, in any unit; 0 leaves it out. Empty takes the shard set's own."""
    temperature: float = 1.0
    """mixing=temperature: 1 mixes by size, above it small corpora gain (5 is usual for languages); no unit."""
    streams: int = 64
    """Canonical streams the order is spread over (count): ranks that divide it read each byte about once."""
    shuffle_tokens: int = 524_288
    """Rows are permuted within windows of this many tokens of a stream; bounds the memory of the shuffle."""
    cache_bytes: int = 1_073_741_824
    """Packed blocks a rank keeps in memory (bytes); a run that needs more says so when it starts."""
    prefetch: int = 2
    """Global batches prepared ahead in the background (count)."""
    prefetch_process: bool = False
    """Read and pack in a process of its own beside each rank; false: in a thread of the rank, which costs less CPU."""
    on_corrupt: Literal["stop", "skip"] = "stop"
    """A block that is missing or altered: stop, or skip its rows (they become padding, counted as rows_skipped)."""
    corrupt_share: float = 0.001
    """on_corrupt=skip: stop once more than this share of the rows consumed was skipped; one block is always allowed."""
    cache_folder: str | None = None
    """Folder on a local disk for blocks of a remote set; unset: $ELECTRA_DS_CACHE, else one among temporary files."""
    cache_disk_bytes: int = 20_000_000_000
    """Most bytes in that folder, shared by the ranks of a node; 0 turns it off. A local set does not use it."""
    retries: int = 5
    """Further tries of a remote request that timed out, broke off or met a busy server (count)."""
    audit: bool = False
    """Write the ids of the rows each rank consumed, step by step, next to the metrics."""

    def __post_init__(self) -> None:
        if not SHORTEST_ROW <= self.sequence_length <= LONGEST_ROW:
            raise ValueError(
                f"data.sequence_length={self.sequence_length}: must lie in [{SHORTEST_ROW}, {LONGEST_ROW:,}]"
            )
        for name in ("single_segment_every", "short_segment_every"):
            if getattr(self, name) < 2:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 2 (or set data.pairs to false)")
        if self.temperature <= 0:
            raise ValueError(f"data.temperature={self.temperature:g}: must be above 0")
        if any(not 0 <= weight < float("inf") for weight in self.weights.values()):
            raise ValueError(f"data.weights={self.weights}: must be numbers of at least 0")
        if self.weights and not any(self.weights.values()):
            raise ValueError(f"data.weights={self.weights}: at least one must be above 0")
        if self.weights and self.mixing != "weights":
            raise ValueError(f"data.weights is set, but data.mixing={self.mixing}: set data.mixing to weights")
        if not 0 <= self.corrupt_share <= 1:
            raise ValueError(f"data.corrupt_share={self.corrupt_share:g}: must lie in [0, 1]")
        for name in ("cache_disk_bytes", "retries"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 0")
        for name in ("streams", "shuffle_tokens", "cache_bytes", "prefetch"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 1")
