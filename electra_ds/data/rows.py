"""Packing a block into static rows of L tokens, with a row count in closed form.

A row is filled with *segments*: ``[CLS] a [SEP]``, or a pair ``[CLS] a [SEP] b [SEP]``. Documents of a block follow
each other; between two of them stands a separator as wide as the special tokens of the segment that begins there (2, or
3 for a pair). Row i covers the next L slots less its own first segment's special tokens. Which rows and documents begin
with a single text instead of a pair, and which rows hold one extra cut (the original builder's short sequences),
follows from counters, so the number of rows of a block follows from its tokens and documents alone and row i is found
without looking at the others. Where a row ends inside a separator, at most 3 slots stay empty at either end, and one
more where a document of a single token cannot be a pair; they are moved to the end of the row as padding, and counted.
The last row of a block is padded. No token is dropped.

Shape legend: T tokens, D documents, R rows, L tokens of a row, G segments of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from electra_ds.data.format import Block
from electra_ds.data.mixing import hash_words, uniform

SHORTEST_ROW = 16
"""Fewest tokens of a row: room for a pair, an extra cut and some text."""
LONGEST_ROW = 65_535
"""Most tokens of a row: positions are uint16, and 65,535 stands for none (see `pack_block`)."""
_PIECE = 1 << 14
SHORTEST_CUT = 5
"""Fewest slots of a short sequence in the original builder."""


@dataclass(frozen=True)
class Packing:
    """What decides the rows of a block, besides its text."""

    length: int
    """L, tokens of a row."""
    pairs: bool = True
    single_segment_every: int = 10
    short_segment_every: int = 20

    def overheads(self, key: np.ndarray | int) -> _Offsets:
        """Phases of the three counters for blocks with these keys (uint64)."""
        words = np.asarray(key, np.uint64)
        return _Offsets(
            (words % np.uint64(self.single_segment_every)).astype(np.int64),
            ((words >> np.uint64(20)) % np.uint64(self.single_segment_every)).astype(np.int64),
            ((words >> np.uint64(40)) % np.uint64(self.short_segment_every)).astype(np.int64),
        )

    def slots(self, tokens: np.ndarray, documents: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Slots that the text of a block takes with its separators, int64."""
        tokens, documents = np.asarray(tokens, np.int64), np.asarray(documents, np.int64)
        if not self.pairs:
            return tokens + 2 * (documents - 1)
        phase = self.overheads(key).document
        singles = _multiples(documents, phase, self.single_segment_every)
        first = _multiples(np.ones_like(documents), phase, self.single_segment_every)
        return tokens + 3 * (documents - 1) - (singles - first)

    def starts(self, row: np.ndarray, key: np.ndarray | int) -> np.ndarray:
        """First slot of a row's text, int64: what rows 0 .. row - 1 hold."""
        return self._starts(np.asarray(row, np.int64), self.overheads(key))

    def _starts(self, row: np.ndarray, phase: _Offsets) -> np.ndarray:
        if not self.pairs:
            return row * (self.length - 2)
        singles = _multiples(row, phase.row, self.single_segment_every)
        short = _multiples(row, phase.short, self.short_segment_every)
        return row * (self.length - 3) + singles - 3 * short

    def rows(self, tokens: np.ndarray, documents: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Rows of blocks, int64 [M], from their counts alone (all arguments [M])."""
        # A million blocks in pieces that stay in the processor's cache.
        pieces = [slice(begin, begin + _PIECE) for begin in range(0, len(key), _PIECE)]
        counts = [self._rows(tokens[piece], documents[piece], key[piece]) for piece in pieces]
        return np.concatenate([np.empty(0, np.int64), *counts])

    def _rows(self, tokens: np.ndarray, documents: np.ndarray, key: np.ndarray) -> np.ndarray:
        slots, phase = self.slots(tokens, documents, key), self.overheads(key)
        count = np.zeros_like(slots)
        # Each step adds a lower bound of the rows still missing, so it reaches the least count that suffices.
        while np.any(missing := np.maximum(slots - self._starts(count, phase), 0)):
            count = count - -missing // (self.length - 2)
        return count


@dataclass(frozen=True)
class _Offsets:
    row: np.ndarray
    document: np.ndarray
    short: np.ndarray


def _multiples(before: np.ndarray, phase: np.ndarray, every: int) -> np.ndarray:
    """How many i in [0, before) have (i + phase) divisible by `every`."""
    return (before + phase + every - 1) // every - (phase + every - 1) // every


def row_dtype(length: int, token_dtype: np.dtype[Any]) -> np.dtype[Any]:
    """One row of `length` tokens as one record, so that a row is gathered by one copy.

    Fields, each [length]: ids (the shards' dtype, padding included); segments uint16, 1, 2, ... within a row, 0 at
    padding; positions uint16, restarting in each segment; token_types uint8, 1 in the second text of a pair.
    """
    return np.dtype(
        [
            ("ids", token_dtype, (length,)),
            ("segments", np.uint16, (length,)),
            ("positions", np.uint16, (length,)),
            ("token_types", np.uint8, (length,)),
        ]
    )


@dataclass(frozen=True)
class PackedRows:
    """Rows of one block, [R] of `row_dtype`."""

    records: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        """[R, L] the block's dtype, padding included."""
        return self.records["ids"]

    @property
    def segments(self) -> np.ndarray:
        """[R, L] uint16, 1, 2, ... within a row, 0 at padding."""
        return self.records["segments"]

    @property
    def positions(self) -> np.ndarray:
        """[R, L] uint16, restarting in each segment."""
        return self.records["positions"]

    @property
    def token_types(self) -> np.ndarray:
        """[R, L] uint8, 1 in the second text of a pair."""
        return self.records["token_types"]

    def cu_seqlens(self, row: int) -> np.ndarray:
        """[segments + 1] int32, cumulated segment lengths of a row, padding left out."""
        present = self.segments[row][self.segments[row] > 0]
        return np.concatenate([[0], np.cumsum(np.bincount(present)[1:])]).astype(np.int32)


def pack_block(
    block: Block, packing: Packing, key: int, epoch_key: int, cls_id: int, sep_id: int, pad_id: int
) -> PackedRows:
    """Build all rows of a block.

    Arrays as long as the text are touched only in their own small dtypes, and in order: five times as fast as with
    int64 indexes for every token.

    Args:
        block: the text.
        packing: row length and pairs.
        key: uint64 of this block: which rows are single texts, which hold an extra cut.
        epoch_key: uint64 of this block and epoch: where pairs and extra cuts fall.
        cls_id: id of [CLS].
        sep_id: id of [SEP].
        pad_id: id of [PAD].
    """
    begins, ends, rows, paired = _segments(block, packing, key, epoch_key)
    second_begin = np.where(paired, _split_points(block, begins, ends, epoch_key), ends)
    segments = Segments(begins, ends, second_begin, rows, paired)
    return lay_out(block.tokens, segments, int(rows[-1]) + 1, packing.length, cls_id, sep_id, pad_id)


@dataclass(frozen=True)
class Segments:
    """What the rows of a block are made of, all [G], in the order in which they stand in the rows.

    Attributes:
        begins: int64, first token. ends: int64, one past the last token, where the next segment begins.
        second_begin: int64, first token of a pair's second text; `ends` where there is none.
        rows: int64, ascending, without gaps from 0 on.
        paired: bool, whether it has two texts.
    """

    begins: np.ndarray
    ends: np.ndarray
    second_begin: np.ndarray
    rows: np.ndarray
    paired: np.ndarray


def lay_out(
    tokens: np.ndarray, parts: Segments, count: int, length: int, cls_id: int, sep_id: int, pad_id: int
) -> PackedRows:
    """Write segments into rows, with special tokens between them and padding at the end of each row.

    Args:
        tokens: [T], the text of all segments, one after another.
        parts: the segments.
        count: R; rows after the last segment's are padding.
        length: L.
        cls_id: id of [CLS].
        sep_id: id of [SEP].
        pad_id: id of [PAD].
    """
    begins, ends, rows, paired, second_begin = parts.begins, parts.ends, parts.rows, parts.paired, parts.second_begin
    shape = (count, length)

    lengths = ends - begins + np.where(paired, 3, 2)
    offsets = np.cumsum(lengths) - lengths
    first = np.searchsorted(rows, rows)  # the first segment in the row of each
    offsets = offsets - offsets[first] + rows * length
    stops = offsets + lengths
    gaps = np.append(offsets[1:], count * length) - stops
    padding = np.repeat(stops, gaps) + _ranges(gaps)
    covered = lengths + gaps  # slots from one segment's begin to the next one's

    records = np.empty(count, row_dtype(length, tokens.dtype))
    segments = np.repeat((np.arange(len(rows)) - first + 1).astype(np.uint16), covered)
    segments[padding] = 0
    records["segments"] = segments.reshape(shape)

    begin_in_row = np.repeat((offsets - rows * length).astype(np.uint16), covered).reshape(shape)
    positions = np.arange(length, dtype=np.uint16) - begin_in_row
    positions.reshape(-1)[padding] = 0
    records["positions"] = positions
    # No position reaches the 65,535 of a single text; padding, at position 0, is never in a second one.
    second = np.where(paired, second_begin - begins + 2, 65_535).astype(np.uint16)
    records["token_types"] = positions >= np.repeat(second, covered).reshape(shape)

    ids = np.empty(count * length, tokens.dtype)
    text = np.ones(len(ids), bool)
    for slots, token in (
        (padding, pad_id),
        (offsets, cls_id),
        (offsets + 1 + second_begin - begins, sep_id),
        (stops - 1, sep_id),
    ):
        text[slots] = False
        ids[slots] = token
    ids[text] = tokens  # numpy copies each run of true entries as one piece
    records["ids"] = ids.reshape(shape)
    return PackedRows(records)


def _segments(
    block: Block, packing: Packing, key: int, epoch_key: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First and last-plus-one token, row, and whether it is a pair, of each segment; all [G]."""
    keys = np.array([key], np.uint64)
    documents = block.documents.astype(np.int64)
    tokens = len(block.tokens)
    count = int(packing.rows(np.array([tokens]), np.array([len(documents)]), keys)[0])
    phase = packing.overheads(keys)
    if packing.pairs:
        document_single = (np.arange(len(documents)) + phase.document) % packing.single_segment_every == 0
        row_single = (np.arange(count) + phase.row) % packing.single_segment_every == 0
    else:
        document_single, row_single = np.ones(len(documents), bool), np.ones(count, bool)
    separators = np.where(document_single, 2, 3)
    separators[0] = 0
    document_slot = documents + np.cumsum(separators)

    row_slot = packing.starts(np.arange(count), keys)
    at = np.searchsorted(document_slot, row_slot, "right") - 1
    within = np.minimum(row_slot - document_slot[at], block.document_ends[at] - documents[at])
    row_begin = documents[at] + within

    begins, source = np.unique(np.concatenate([row_begin, documents]), return_index=True)
    rows = np.searchsorted(row_begin, begins, "right") - 1
    leads = source < count
    paired = np.where(leads, ~row_single[rows], ~document_single[np.searchsorted(documents, begins, "right") - 1])
    if packing.pairs:
        begins, rows, paired = _cut_short(begins, rows, paired, tokens, packing, phase, epoch_key)
    ends = np.append(begins[1:], tokens)
    return begins, ends, rows, paired & (ends - begins >= 2)


def _cut_short(
    begins: np.ndarray,
    rows: np.ndarray,
    paired: np.ndarray,
    tokens: int,
    packing: Packing,
    phase: _Offsets,
    epoch_key: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the longest segment of every row that has room for it, at a random length from 5 slots on."""
    sizes = np.append(begins[1:], tokens) - begins
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    largest = np.flatnonzero(sizes == np.maximum.reduceat(sizes, first)[rows])
    longest = largest[np.diff(rows[largest], prepend=-1) > 0]
    short = (rows[longest] + phase.short) % packing.short_segment_every == 0
    chosen = longest[short & (sizes[longest] >= 2)]
    draw = uniform(hash_words(epoch_key, 1, begins[chosen]))
    slots = SHORTEST_CUT + np.floor(draw * (packing.length - SHORTEST_CUT + 1)).astype(np.int64)
    cuts = begins[chosen] + np.clip(slots - np.where(paired[chosen], 3, 2), 1, sizes[chosen] - 1)
    merged = np.concatenate([begins, cuts])
    order = np.argsort(merged, kind="stable")
    return (
        merged[order],
        np.concatenate([rows, rows[chosen]])[order],
        np.concatenate([paired, np.ones(len(cuts), bool)])[order],
    )


def _split_points(block: Block, begins: np.ndarray, ends: np.ndarray, epoch_key: int) -> np.ndarray:
    """Where the second text of a pair begins, [G] tokens, strictly inside the segment where it has 2 tokens or more.

    As the original builder: sentences go to the first text while it stays below half; the sentence that would carry it
    over goes there too on a coin flip. Without a sentence border inside, the segment is cut in the middle.
    """
    sentences = np.append(block.sentences.astype(np.int64), len(block.tokens))
    half = begins + (ends - begins) // 2
    below = np.searchsorted(sentences, half, "right") - 1
    last_below, first_above = sentences[below], sentences[np.minimum(below + 1, len(sentences) - 1)]
    has_below = last_below > begins
    has_above = first_above < ends
    coin = uniform(hash_words(epoch_key, 2, begins)) < 0.5
    take_above = has_above & (coin | ~has_below)
    return np.where(take_above, first_above, np.where(has_below, last_below, np.maximum(half, begins + 1)))


def _ranges(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., n - 1 for each n, one after another."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
