"""Which row comes when: a pure function of (seed, epoch, manifest fingerprint, row length).

Blocks are permuted; their rows, one block after another, are cut into a fixed number of *canonical streams* of equal
length; inside a stream rows are permuted within bounded windows; position p of an epoch takes the next row of stream
p mod streams. A world size that divides the number of streams gives each rank whole streams, so it reads each byte
about once. Nothing here knows the world size.

Shape legend: P positions asked for, N rows of an epoch, S streams, M blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from electra_ds.data.mixing import hash_words, permute

_BLOCKS, _WINDOW = 11, 12


@dataclass(frozen=True)
class Located:
    """Rows found for positions, all int64 [P].

    Attributes:
        epoch: which pass over the data. block: number of the block in manifest order. row: its row inside the block.
        row_id: number of the row in the shard set, counted in manifest order; names it in audits and noise.
    """

    epoch: np.ndarray
    block: np.ndarray
    row: np.ndarray
    row_id: np.ndarray

    def part(self, where: slice) -> Located:
        """Some of them."""
        return Located(self.epoch[where], self.block[where], self.row[where], self.row_id[where])


class RowOrder:
    """Maps positions of the training run to rows."""

    def __init__(
        self,
        rows: np.ndarray,
        seed: int,
        fingerprint: str,
        length: int,
        streams: int,
        window_rows: int,
        corpus: int | None = None,
    ) -> None:
        """Describe an order.

        Args:
            rows: int64 [M], rows of each block in manifest order.
            seed: of the run.
            fingerprint: hexadecimal, of the manifest.
            length: L, tokens of a row.
            streams: S.
            window_rows: rows permuted among each other within a stream.
            corpus: number of the corpus whose blocks these are, which gives each its own order; None for all blocks.
        """
        self.rows = np.asarray(rows, np.int64)
        self.total = int(self.rows.sum())
        self.first_row_id = np.cumsum(self.rows) - self.rows
        self.streams, self.window_rows = streams, window_rows
        parts = (seed, int(fingerprint[:16], 16), length)
        self.key = int(hash_words(*parts, *(() if corpus is None else (corpus,)))[0])
        self._epoch_layout = lru_cache(maxsize=2)(self._compute_epoch_layout)

    def epochs(self, consumed: int) -> dict[str, float]:
        """Epochs that `consumed` rows make, by corpus: empty, as all blocks are one pool."""
        return {}

    def open_blocks(self) -> float:
        """Blocks that all streams work on at once, at most.

        Of each stream: those of a window, one more as windows cut blocks, and one that it shares with its neighbour.
        """
        blocks = len(self.rows)
        return min(float(blocks), self.streams * (self.window_rows * blocks / max(1, self.total) + 2))

    def locate(self, positions: np.ndarray) -> Located:
        """Find the rows at `positions`, int64 [P], counted from the run's first row and going on over epochs."""
        positions = np.asarray(positions, np.int64)
        epochs = positions // self.total
        block, row = np.empty_like(positions), np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            block[here], row[here] = self._locate_in_epoch(positions[here] - epoch * self.total, int(epoch))
        return Located(epochs, block, row, self.first_row_id[block] + row)

    def _locate_in_epoch(self, index: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        stream, step = index % self.streams, index // self.streams
        stream_begin = stream * self.total // self.streams
        # Streams differ by at most one row; the longer ones take the positions that are left over at the end.
        short = self.total // self.streams
        left_over = step >= short
        if left_over.any():
            lengths = np.diff(np.arange(self.streams + 1) * self.total // self.streams)
            longer = np.flatnonzero(lengths > short)
            stream = np.where(left_over, longer[np.where(left_over, index - short * self.streams, 0)], stream)
            stream_begin = stream * self.total // self.streams
            step = np.where(left_over, short, step)
        length = (stream + 1) * self.total // self.streams - stream_begin
        # Windows of the streams begin at different steps, so that blocks are opened one after another, not all at once.
        early = stream * self.window_rows // self.streams
        window = (step + early) // self.window_rows
        window_begin = np.maximum(window * self.window_rows - early, 0)
        size = np.minimum((window + 1) * self.window_rows - early, length) - window_begin
        keys = hash_words(self.key, _WINDOW, epoch, stream, window)
        sequence = stream_begin + window_begin + permute(step - window_begin, size, keys)
        order, ends = self._epoch_layout(epoch)
        rank = np.searchsorted(ends, sequence, "right")
        block = order[rank]
        return block, sequence - (ends[rank] - self.rows[block])

    def _compute_epoch_layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Permuted blocks [M], and the cumulated number of their rows [M]."""
        # Blocks are sorted by a hash whose low bits are replaced by their number: no two are alike, so any way of
        # sorting gives the same order. A million blocks take 0.05 s; walking a permutation took up to ten times that.
        count = len(self.rows)
        low = np.uint64((1 << count.bit_length()) - 1)
        blocks = np.arange(count)
        keys = (hash_words(self.key, _BLOCKS, epoch, blocks) & ~low) | blocks.astype(np.uint64)
        order = (np.sort(keys) & low).astype(np.int64)
        return order, np.cumsum(self.rows[order])
