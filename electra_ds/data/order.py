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


class RowOrder:
    """Maps positions of the training run to rows."""

    def __init__(self, rows: np.ndarray, seed: int, fingerprint: str, length: int, streams: int, window_rows: int):
        """Describe an order.

        Args:
            rows: int64 [M], rows of each block in manifest order.
            seed: of the run.
            fingerprint: hexadecimal, of the manifest.
            length: L, tokens of a row.
            streams: S.
            window_rows: rows permuted among each other within a stream.
        """
        self.rows = np.asarray(rows, np.int64)
        self.total = int(self.rows.sum())
        self.first_row_id = np.cumsum(self.rows) - self.rows
        self.streams, self.window_rows = streams, window_rows
        self.key = int(hash_words(seed, int(fingerprint[:16], 16), length)[0])
        self._epoch_layout = lru_cache(maxsize=2)(self._compute_epoch_layout)

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
        window = step // self.window_rows
        window_begin = window * self.window_rows
        size = np.minimum(self.window_rows, length - window_begin)
        keys = hash_words(self.key, _WINDOW, epoch, stream, window)
        sequence = stream_begin + window_begin + permute(step - window_begin, size, keys)
        order, ends = self._epoch_layout(epoch)
        rank = np.searchsorted(ends, sequence, "right")
        block = order[rank]
        return block, sequence - (ends[rank] - self.rows[block])

    def _compute_epoch_layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Permuted blocks [M], and the cumulated number of their rows [M]."""
        count = len(self.rows)
        order = permute(np.arange(count), count, hash_words(self.key, _BLOCKS, epoch))
        return order, np.cumsum(self.rows[order])
