"""Packing a block of translation pairs into rows of L tokens (XLM-E, arXiv 2106.16138, section 2.3).

Each segment is ``[CLS] a [SEP] b [SEP]``, a and b translations of each other; which of the two comes first is drawn
anew in each epoch. As in other blocks, the number of rows follows from counts alone: a row may leave `SPARE` slots
empty, so a block of T tokens in P pairs has R = ceil((T + 3 P) / (L - `SPARE`)) rows, whatever the pairs' lengths.

Pairs are put into rows by best fit, the longest first, each row filled about equally. A pair longer than a row, and one
for which the last hole of a row is needed, is cut into pieces: both texts at the same share of their lengths, so that
each piece still holds about what the other says. No token is dropped. A piece in which one of the texts has no token
left is a single text ``[CLS] a [SEP]``. Where pairs are many rows long, a block may now and then need a
row less than counted; its last row is then padding alone.

Shape legend: T tokens, P pairs, R rows, L tokens of a row, G pieces (segments) of a block.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass

import numpy as np

from electra_ds.data.format import Block
from electra_ds.data.mixing import hash_words, uniform
from electra_ds.data.rows import PackedRows, Segments, lay_out

SPARE = 4
"""Slots of a row that may stay empty. A hole of 5 takes a piece: three special tokens and a token of each text; a cut
costs three special tokens more than its pair had."""
_ORDER = 3


def translation_rows(tokens: np.ndarray, texts: np.ndarray, length: int) -> np.ndarray:
    """Rows of blocks of pairs, int64 [M], from their counts alone.

    Args:
        tokens: of each block, [M].
        texts: of each block, [M], two a pair.
        length: L.
    """
    pairs = np.asarray(texts, np.int64) // 2
    return -(-(np.asarray(tokens, np.int64) + 3 * pairs) // (length - SPARE))


@dataclass(frozen=True)
class Pieces:
    """Where the pairs of a block go, all int64 [G], in the order of the rows.

    Attributes:
        rows: ascending. pairs: number of the pair in the block.
        first, second: [G, 2], tokens of the first and of the second text, from and up to, counted in the text.
    """

    rows: np.ndarray
    pairs: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def cut(self) -> np.ndarray:
        """Numbers of the pairs that are in several pieces, int64, ascending."""
        found, pieces = np.unique(self.pairs, return_counts=True)
        return found[pieces > 1]


def place_pairs(first: list[int], second: list[int], length: int) -> Pieces:
    """Divide pairs over rows.

    With m rows left, what is left to place never exceeds m (L - `SPARE`): a row that holds its equal share of it keeps
    that true, and so does one that a cut fills up, as it costs three slots more. So the last row ends the block.

    Args:
        first: tokens of each pair's first text, [P], at least 1.
        second: likewise.
        length: L.
    """
    places = _Places(first, second, length)
    count = int(translation_rows(np.array(sum(first) + sum(second)), np.array(2 * len(first)), length))
    for row in range(count):
        places.fill(row, count - row)
    table = np.array(places.found, np.int64).reshape(-1, 6)
    return Pieces(table[:, 0], table[:, 1], table[:, 2:4], table[:, 4:6])


class _Places:
    def __init__(self, first: list[int], second: list[int], length: int) -> None:
        self._length = length
        self._lengths = (first, second)
        self._begins = [0] * len(first), [0] * len(second)
        self._waiting = sorted((a + b + 3, pair) for pair, (a, b) in enumerate(zip(first, second, strict=True)))
        """Slots and number of each pair, or of what is left of it."""
        self._demand = sum(slots for slots, _ in self._waiting)
        self.found: list[tuple[int, int, int, int, int, int]] = []

    def fill(self, row: int, left: int) -> None:
        """Fill one of the `left` rows that are still empty."""
        length, waiting = self._length, self._waiting
        elsewhere = (left - 1) * (length - SPARE)
        share = -(-self._demand // left)
        filled = 0
        while waiting and filled < share:
            if filled and len(waiting) < left and self._demand <= elsewhere:
                return  # each of the others gets one of those that are left
            hole, (largest, _) = length - filled, waiting[-1]
            if not filled and largest > length:
                self._cut(row, length)
                return
            if not filled and len(waiting) < left:  # fewer pairs than rows
                slots = max(self._demand + 3 - elsewhere, largest // 2 + 2)
                if 5 <= slots < largest:
                    self._cut(row, slots)
                    return
            fits = bisect_right(waiting, (hole, len(self._lengths[0]))) - 1
            if fits < 0:
                self._cut(row, hole)
                return
            filled += self._take(row, fits)

    def _take(self, row: int, number: int) -> int:
        """Place what is left of a pair; return its slots."""
        slots, pair = self._waiting.pop(number)
        (first_begin, second_begin), (first_end, second_end) = (
            self._at(self._begins, pair),
            self._at(self._lengths, pair),
        )
        self.found.append((row, pair, first_begin, first_end, second_begin, second_end))
        self._demand -= slots
        return slots

    def _cut(self, row: int, slots: int) -> None:
        """Place so many slots of the longest pair."""
        size, pair = self._waiting.pop()
        begins, ends = self._at(self._begins, pair), self._at(self._lengths, pair)
        a, b = ends[0] - begins[0], ends[1] - begins[1]
        tokens = slots - (3 if a and b else 2)
        share = (2 * tokens * a + a + b) // (2 * (a + b))
        low, high = max(1, tokens - b + 1), min(a - 1, tokens - 1)
        if low > high:  # not all four parts can have a token
            low, high = max(0, tokens - b), min(a, tokens)
        first = min(max(share, low), high)
        middle = (begins[0] + first, begins[1] + tokens - first)
        self.found.append((row, pair, begins[0], middle[0], begins[1], middle[1]))
        self._begins[0][pair], self._begins[1][pair] = middle
        a, b = ends[0] - middle[0], ends[1] - middle[1]
        rest = a + b + (3 if a and b else 2)
        self._demand -= size - rest
        insort(self._waiting, (rest, pair))

    @staticmethod
    def _at(lists: tuple[list[int], list[int]], pair: int) -> tuple[int, int]:
        return lists[0][pair], lists[1][pair]


def pieces_of(block: Block, length: int) -> Pieces:
    """Where the pairs of a block go."""
    lengths = block.document_ends - block.documents.astype(np.int64)
    return place_pairs(lengths[::2].tolist(), lengths[1::2].tolist(), length)


def pack_pairs(block: Block, length: int, epoch_key: int, cls_id: int, sep_id: int, pad_id: int) -> PackedRows:
    """Build all rows of a block of translation pairs.

    Args:
        block: an even number of documents, each followed by its translation.
        length: L.
        epoch_key: uint64 of this block and epoch: which text of each pair comes first.
        cls_id: id of [CLS].
        sep_id: id of [SEP].
        pad_id: id of [PAD].
    """
    pieces = pieces_of(block, length)
    starts = block.documents.astype(np.int64)
    begins = starts.reshape(-1, 2)[pieces.pairs]
    first, second = pieces.first + begins[:, :1], pieces.second + begins[:, 1:]
    swap = (uniform(hash_words(epoch_key, _ORDER, starts[::2])) < 0.5)[pieces.pairs, None]
    first, second = np.where(swap, second, first), np.where(swap, first, second)

    # The text in the order of the rows: of each piece its first part, then its second.
    ranges = np.stack([first, second], axis=1).reshape(-1, 2)
    sizes = ranges[:, 1] - ranges[:, 0]
    ends = np.cumsum(sizes)
    source = np.arange(len(block.tokens)) + np.repeat(ranges[:, 0] - (ends - sizes), sizes)
    sizes, ends = sizes.reshape(-1, 2), ends[1::2]
    paired = (sizes > 0).all(1)
    second_begin = np.where(paired, ends - sizes[:, 1], ends)
    segments = Segments(ends - sizes.sum(1), ends, second_begin, pieces.rows, paired)
    count = int(translation_rows(np.array(len(source)), np.array(len(starts)), length))
    return lay_out(block.tokens[source], segments, count, length, cls_id, sep_id, pad_id)
