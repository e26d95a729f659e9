"""Rows of translation pairs: every token once, both languages side by side, as many rows as the counts tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_ds.data.format import Block
from electra_ds.data.mixing import hash_words, uniform
from electra_ds.data.rows import LONGEST_ROW
from electra_ds.data.translations import SPARE, pack_pairs, pieces_of, place_pairs, translation_rows
from tests.data.sets import make_pairs

PAD, CLS, SEP = 0, 2, 3


def block_of(lengths: list[tuple[int, int]]) -> Block:
    """A block whose tokens are all different: 10, 11, ..."""
    sizes = np.array(lengths).reshape(-1)
    starts = (np.cumsum(sizes) - sizes).astype("<u4")
    return Block(np.arange(10, 10 + sizes.sum()).astype("<u2"), starts, starts.copy())


def plain_rows(lengths: list[tuple[int, int]], length: int) -> list[list[tuple[int, list[int], list[int]]]]:
    """The rule by the book: (pair, tokens of the first text, of the second) of each row, numbered as in `block_of`."""
    waiting, token = [], 10
    for number, (a, b) in enumerate(lengths):
        waiting.append((number, list(range(token, token + a)), list(range(token + a, token + a + b))))
        token += a + b

    def size(item):
        return len(item[1]) + len(item[2]) + (3 if item[1] and item[2] else 2)

    def demand():
        return sum(size(item) for item in waiting)

    def longest(most=10**9):
        return max(
            (item for item in waiting if size(item) <= most), key=lambda item: (size(item), item[0]), default=None
        )

    def cut(item, slots):
        number, a, b = item
        tokens = slots - (3 if a and b else 2)
        splits = [n for n in range(len(a) + 1) if 0 <= tokens - n <= len(b)]
        good = [n for n in splits if 0 < n < len(a) and 0 < tokens - n < len(b)]
        wanted = int(np.floor(tokens * len(a) / (len(a) + len(b)) + 0.5))
        here = min(good or splits, key=lambda n: abs(n - wanted))
        waiting.remove(item)
        waiting.append((number, a[here:], b[tokens - here :]))
        return number, a[:here], b[: tokens - here]

    count = -(-demand() // (length - SPARE))
    rows = []
    for left in range(count, 0, -1):
        row: list[tuple[int, list[int], list[int]]] = []
        others, share = (left - 1) * (length - SPARE), -(-demand() // left)
        while waiting and sum(map(size, row)) < share:
            if row and len(waiting) < left and demand() <= others:
                break
            hole = length - sum(map(size, row))
            largest = longest()
            halves = max(demand() + 3 - others, size(largest) // 2 + 2)
            if not row and size(largest) > length:
                row.append(cut(largest, length))
                break
            if not row and len(waiting) < left and 5 <= halves < size(largest):
                row.append(cut(largest, halves))
                break
            fitting = longest(hole)
            if fitting is None:
                row.append(cut(largest, hole))
                break
            waiting.remove(fitting)
            row.append(fitting)
        rows.append(row)
    assert not waiting
    return rows


@st.composite
def pairs(draw):
    """Lengths of pairs, and of rows: short, long, equal, lopsided."""
    kind = draw(st.sampled_from(["short", "long", "any", "lopsided", "equal"]))
    length = draw(st.integers(16, 70))
    if kind == "equal":
        return [(draw(st.integers(1, 2 * length)),) * 2] * draw(st.integers(1, 40)), length
    most = {"short": 12, "long": 300, "any": 90, "lopsided": 60}[kind]
    side = st.integers(1, most)
    other = st.integers(1, 2) if kind == "lopsided" else side
    return draw(st.lists(st.tuples(side, other), min_size=1, max_size=40)), length


@settings(max_examples=150, deadline=None)
@given(case=pairs(), key=st.integers(0, 2**63))
def test_rows_are_those_of_the_plain_rule(case, key):
    lengths, length = case
    block = block_of(lengths)
    rows = pack_pairs(block, length, key, CLS, SEP, PAD)
    swapped = uniform(hash_words(key, 3, block.documents[::2])) < 0.5
    expected = plain_rows(lengths, length)
    assert len(rows.ids) == len(expected) == translation_rows(len(block.tokens), len(block.documents), length)
    for number, row in enumerate(expected):
        ids, segments, positions, types = [], [], [], []
        for segment, (pair, a, b) in enumerate(row, 1):
            first, second = (b, a) if swapped[pair] else (a, b)
            first, second = (first, second) if first and second else (first or second, [])
            whole = [CLS, *first, SEP, *([*second, SEP] if second else [])]
            ids += whole
            segments += [segment] * len(whole)
            positions += range(len(whole))
            types += [0] * (len(first) + 2) + [1] * (len(whole) - len(first) - 2)
        empty = [0] * (length - len(ids))
        assert rows.ids[number].tolist() == ids + empty
        assert rows.segments[number].tolist() == segments + empty
        assert rows.positions[number].tolist() == positions + empty
        assert rows.token_types[number].tolist() == types + empty


@settings(max_examples=150, deadline=None)
@given(case=pairs())
def test_pieces_of_a_pair_cover_both_texts_once_and_side_by_side(case):
    lengths, length = case
    pieces = place_pairs([a for a, _ in lengths], [b for _, b in lengths], length)
    for pair, (a, b) in enumerate(lengths):
        here = pieces.pairs == pair
        first, second = pieces.first[here], pieces.second[here]
        for ranges, whole in ((first, a), (second, b)):
            assert ranges[0, 0] == 0
            assert ranges[-1, 1] == whole
            assert (ranges[1:, 0] == ranges[:-1, 1]).all()
        # A cut falls at the same share of both texts, but for a token at each cut, and where a text is too short.
        if min(a, b) > 2 * here.sum():
            assert np.abs(first[:, 1] / a - second[:, 1] / b).max() <= here.sum() * (1 / a + 1 / b)
    assert pieces.cut().tolist() == [n for n in range(len(lengths)) if (pieces.pairs == n).sum() > 1]


@settings(max_examples=100, deadline=None)
@given(case=pairs(), key=st.integers(0, 2**63))
def test_no_token_is_dropped_or_repeated(case, key):
    lengths, length = case
    block = block_of(lengths)
    rows = pack_pairs(block, length, key, CLS, SEP, PAD)
    assert sorted(rows.ids[rows.ids >= 10].tolist()) == block.tokens.tolist()
    assert (rows.ids[rows.segments == 0] == PAD).all()


@pytest.mark.parametrize(("length", "most_cut", "most_padding"), [(128, 0.08, 0.04), (512, 0.02, 0.01)])
def test_short_pairs_mostly_stay_whole_and_leave_little_padding(length, most_cut, most_padding):
    """Sentence pairs as in aligned corpora, about 25 tokens a side: two or three fit a row of 128."""
    chance = np.random.default_rng(0)
    sides = np.maximum(3, chance.poisson(25, (2000, 1)) + chance.integers(-8, 9, (2000, 2)))
    block = block_of([(a, b) for a, b in sides.tolist()])
    rows = pack_pairs(block, length, 1, CLS, SEP, PAD)
    assert len(pieces_of(block, length).cut()) < most_cut * 2000
    assert (rows.segments == 0).mean() < most_padding
    assert (rows.segments > 0).any(1).all(), "no row is empty"


def test_pairs_longer_than_a_row_are_cut_into_full_rows_of_both_languages():
    lengths = [(180, 240)] * 50
    block = block_of(lengths)
    rows = pack_pairs(block, 128, 1, CLS, SEP, PAD)
    assert len(pieces_of(block, 128).cut()) == 50
    full = (rows.segments == 1).sum(1) == 128
    assert full.sum() >= 150, "three rows a pair, and a rest"
    shares = rows.token_types[full].mean(1)
    assert (np.abs(shares - 0.5) < 0.1).all(), "both texts in each"


def test_which_text_comes_first_is_drawn_anew_in_each_epoch():
    block = make_pairs(0, 1000)
    first, again, later = (pack_pairs(block, 64, key, CLS, SEP, PAD) for key in (7, 7, 8))
    assert np.array_equal(first.records, again.records)
    begins = (first.positions == 1) & (first.segments > 0)
    english, later_english = first.ids[begins] < 500, later.ids[begins] < 500
    assert english.mean() == pytest.approx(0.5, abs=0.05)
    assert (english != later_english).mean() == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(first.segments, later.segments), "the rows hold the same pairs"
    for one, two in zip(first.ids, later.ids, strict=True):
        assert sorted(one.tolist()) == sorted(two.tolist())


def test_the_longest_row_keeps_positions_and_types_apart():
    rows = pack_pairs(block_of([(32_000, 33_000)]), LONGEST_ROW, 0, CLS, SEP, PAD)
    assert rows.positions[0, :65_003].tolist() == list(range(65_003))
    assert sorted(np.bincount(rows.token_types[0]).tolist())[-1] == LONGEST_ROW - rows.token_types[0].sum()


def test_counts_of_many_blocks_give_their_rows_at_once():
    blocks = [make_pairs(seed, 3 + 5 * seed) for seed in range(30)]
    tokens, texts = (
        np.array([len(getattr(block, name)) for block in blocks], "<u4") for name in ("tokens", "documents")
    )
    for length in (16, 40, 128):
        counted = translation_rows(tokens, texts, length)
        assert counted.dtype == np.int64
        packed = [len(pack_pairs(block, length, seed, CLS, SEP, PAD).ids) for seed, block in enumerate(blocks)]
        assert counted.tolist() == packed
