"""Blocks, cells, samples: what shards are made of."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.documents import content_hashes, sample_keys, shuffle_keys, validation_mask
from data_prep.pack import Cell, cut_blocks, pair_blocks, shard_name
from data_prep.plan import Input, PartId, Plan, Shares, part_id, part_of
from data_prep.sample import choose
from data_prep.sources.base import Source


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=1, max_size=12), st.integers(16, 60))
def test_blocks_keep_every_token_and_start_and_are_bounded(documents, limit):
    """Documents given by the lengths of their sentences."""
    lengths = [sum(sentences) for sentences in documents]
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    sentences = np.cumsum([0, *(length for document in documents for length in document)])[:-1]
    names = [[str(number), "", ""] for number in range(len(documents))]
    tokens = np.arange(total, dtype=np.uint32)
    cell = Cell(np.split(tokens, ends[:-1]), ends, sentences, np.arange(len(documents)), names, np.dtype(np.uint32))
    cuts = list(cut_blocks(ends, sentences, limit))
    emitted = [cell.block(*cut) for cut in cuts]
    assert np.concatenate([block.tokens for block in emitted]).tolist() == list(range(total))
    assert all(limit <= len(block.tokens) < 2 * limit for block in emitted[:-1])
    assert 0 < len(emitted[-1].tokens) < 2 * limit
    found = [int(block.tokens[start]) for block in emitted for start in block.sentences]
    begun = {int(block.tokens[0]) for block in emitted if block.metadata["continues"]}
    assert set(sentences.tolist()) <= set(found) <= set(sentences.tolist()) | begun
    starts = sum(len(block.documents) - block.metadata["continues"] for block in emitted)
    assert starts == len(documents)
    owners = np.repeat(np.arange(len(documents)), lengths)
    parts = [set() for _ in documents]
    for number, block in enumerate(emitted):
        for document, start in enumerate(block.documents):
            assert block.label(document)[0] == str(owners[block.tokens[start]])
            parts[owners[block.tokens[start]]].add(number)
    assert cell.documents_cut([end for _, end in cuts]) == sum(len(part) > 1 for part in parts)


def test_a_block_ends_at_a_sentence_inside_a_long_document():
    cuts = list(cut_blocks(np.array([100]), np.array([0, 25, 45]), 20))
    assert cuts == [(0, 25), (25, 45), (45, 65), (65, 100)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=400), max_size=60, unique=True), st.integers(1, 8000))
def test_a_sample_is_bounded_and_in_the_order_of_the_input(texts, limit):
    encoded = [text.encode() for text in texts]
    keys = sample_keys(content_hashes(encoded), 0).tolist()
    entries = list(zip(keys, range(len(texts)), encoded, strict=True))
    sample = choose(list(reversed(entries)), limit)
    size = sum(map(len, encoded))
    assert sample == (texts if size <= limit else [text for text in texts if text in set(sample)])
    assert sum(len(text.encode()) for text in sample[1:]) <= limit
    assert sample or not texts
    # Those with the smallest keys are taken.
    taken = sorted(keys)[: len(sample)]
    assert sorted(key for key, text in zip(keys, texts, strict=True) if text in set(sample)) == taken


def test_the_validation_share_is_what_was_asked():
    hashes = content_hashes([f"document {number}".encode() for number in range(20_000)])
    assert 0.044 < validation_mask(hashes, 0.05, 3).mean() < 0.056
    assert not validation_mask(hashes, 0.0, 3).any()
    other = validation_mask(hashes, 0.05, 4)
    assert 0.0 < (validation_mask(hashes, 0.05, 3) & other).mean() < 0.01


def test_copies_of_a_text_have_places_of_their_own_in_the_shuffle():
    hashes = content_hashes([b"same"] * 1000)
    keys = shuffle_keys(hashes, np.arange(1000, dtype=np.uint64), 0)
    assert len(np.unique(keys)) == 1000
    cells = (keys >> np.uint64(32)) * np.uint64(4) >> np.uint64(32)
    assert np.bincount(cells.astype(np.int64), minlength=4).min() > 200


def test_names_of_shards_are_file_names_and_differ():
    assert shard_name("train", "", 3) == "train-000003"
    assert shard_name("train", "books", 0) == "train-books-000000"
    odd = {shard_name("train", group, 0) for group in ("a/b", "a_b", "a b", "../x", "日本語", "日本誌")}
    assert len(odd) == 6
    assert all("/" not in name and ".." not in name and name.isascii() for name in odd)


class Sized(Source):
    """An input of some size."""

    def __init__(self, size):
        self.name, self.size = "x", size

    def pieces(self, piece_bytes, wanted=None):
        raise NotImplementedError

    def documents(self, piece, dropped):
        raise NotImplementedError


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30), st.integers(1, 64))
def test_every_piece_has_one_rank_that_reads_its_input_and_the_work_is_shared(sizes, ranks):
    plan = Plan([Input(number, "", Sized(size)) for number, size in enumerate(sizes)], {}, 1)
    shares = Shares(plan, ranks)
    load = np.zeros(ranks)
    for number, size in enumerate(sizes):
        owners = [shares.owner(number, piece) for piece in range(200)]
        assert all(shares.reads(number, owner) for owner in set(owners))
        load += np.bincount(owners, minlength=ranks) * max(size, 1) / 200
    total = sum(max(size, 1) for size in sizes)
    # The golden ratio spreads 200 points to within a few of their number.
    assert load.max() <= total / ranks + 5 / 200 * total + 1


@given(st.integers(0, 1000), st.integers(0, 60000), st.integers(0, 1 << 25))
def test_a_document_number_tells_its_part(number, piece, document):
    part = PartId(number, piece)
    word = np.array([part.first_document + document], np.uint64)
    assert part_id(int(part_of(word)[0])) == part


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=80), st.integers(16, 100))
def test_blocks_of_pairs_end_with_the_pair_that_fills_them(lengths, limit):
    ends = np.cumsum(np.array(lengths).reshape(-1))
    found = list(pair_blocks(ends, limit))
    borders = [0, *ends[1::2].tolist()]
    assert [begin for begin, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == ends[-1]
    for begin, end in found:
        before_last = borders[borders.index(end) - 1]
        assert before_last - begin < limit, "it was not full before its last pair"
        assert end - begin >= limit or end == ends[-1]
