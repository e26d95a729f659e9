"""Packing: every token once, static rows, counts in closed form, pairs as the original builder makes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_ds.data.config import DataConfig
from electra_ds.data.format import Block
from electra_ds.data.rows import LONGEST_ROW, Packing, pack_block
from electra_ds.training.config import Phase, TrainingConfig

PAD, CLS, SEP = 0, 2, 3


def make_block(rng, tokens, documents, sentence_every=12):
    starts = np.sort(rng.choice(np.arange(1, tokens), documents - 1, replace=False)) if documents > 1 else []
    documents = np.concatenate([[0], starts]).astype(np.uint32)
    sentences = np.unique(np.concatenate([documents, rng.integers(0, tokens, tokens // sentence_every)]))
    return Block(np.arange(10, 10 + tokens).astype(np.uint16), documents, sentences.astype(np.uint32))


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tokens = draw(st.integers(1, 2500))
    documents = draw(st.integers(1, max(1, min(tokens, 150))))
    packing = Packing(
        draw(st.integers(16, 140)), draw(st.booleans()), draw(st.integers(2, 12)), draw(st.integers(2, 25))
    )
    return make_block(rng, tokens, documents), packing, draw(st.integers(0, 2**63)), draw(st.integers(0, 2**63))


def pack(block, packing, key, epoch_key):
    return pack_block(block, packing, key, epoch_key, CLS, SEP, PAD)


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_no_token_is_dropped_repeated_or_moved(case):
    block, packing, key, epoch_key = case
    rows = pack(block, packing, key, epoch_key)
    assert np.array_equal(rows.ids[rows.ids >= 10], block.tokens)


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_the_row_count_follows_from_tokens_and_documents_alone(case):
    block, packing, key, epoch_key = case
    counted = packing.rows(np.array([len(block.tokens)]), np.array([len(block.documents)]), np.array([key], np.uint64))
    assert pack(block, packing, key, epoch_key).ids.shape == (counted[0], packing.length)


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_segments_are_well_formed_and_stay_inside_one_document(case):
    block, packing, key, epoch_key = case
    rows = pack(block, packing, key, epoch_key)
    for ids, segments, positions, types in zip(rows.ids, rows.segments, rows.positions, rows.token_types, strict=True):
        real = segments > 0
        assert (ids[~real] == PAD).all()
        assert not real[np.argmin(real) :].any() or real.all(), "padding stands at the end of a row"
        for number in range(1, segments.max() + 1):
            here = segments == number
            inside, kinds = ids[here], types[here]
            assert inside[0] == CLS
            assert inside[-1] == SEP
            assert positions[here].tolist() == list(range(here.sum()))
            separators = (inside == SEP).sum()
            assert separators == (2 if kinds.any() else 1)
            assert kinds.tolist() == sorted(kinds.tolist())
            if kinds.any():
                assert packing.pairs
                assert inside[np.argmax(kinds) - 1] == SEP, "the second text begins after a separator"
            tokens = inside[inside >= 10].astype(int) - 10
            documents = np.searchsorted(block.documents, tokens, "right")
            assert len(set(documents.tolist())) == 1


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_cu_seqlens_are_the_borders_of_the_segments(case):
    rows = pack(*case)
    for row in range(len(rows.ids)):
        borders = rows.cu_seqlens(row)
        assert borders[-1] == (rows.segments[row] > 0).sum()
        assert (rows.positions[row][borders[:-1]] == 0).all()
        assert (rows.ids[row][borders[:-1]] == CLS).all()


def test_long_documents_leave_no_padding_but_in_the_last_row():
    rng = np.random.default_rng(0)
    rows = pack(make_block(rng, 60_000, 10), Packing(128), 5, 6)
    padding = (rows.segments == 0).sum(1)[:-1]
    assert padding.sum() < 10 * 6, "only where a row ends at a document's border"


def test_pairs_have_the_original_builders_proportions():
    rng = np.random.default_rng(1)
    rows = pack(make_block(rng, 200_000, 4), Packing(128), 1, 2)
    firsts = rows.segments == 1
    singles = ~(firsts & (rows.token_types == 1)).any(1)
    assert singles.mean() == pytest.approx(0.10, abs=0.01)
    assert (rows.segments.max(1) > 1).mean() == pytest.approx(0.05, abs=0.01)
    short = firsts.sum(1)[rows.segments.max(1) > 1]
    assert short.min() < 20
    assert short.max() > 100
    halves = (firsts & (rows.token_types == 0)).sum(1)[~singles]
    assert abs(np.median(halves) - 64) <= 8, "the first text aims at half"


def test_pairs_break_at_sentences_where_there_are_any():
    rng = np.random.default_rng(2)
    block = make_block(rng, 20_000, 3)
    rows = pack(block, Packing(128), 1, 2)
    second = np.diff(rows.token_types.astype(int), axis=1, prepend=0) == 1
    begins = rows.ids[second].astype(int) - 10
    assert np.isin(begins, block.sentences).mean() > 0.9


@pytest.mark.parametrize("pairs", [True, False])
def test_the_longest_row_keeps_positions_and_types_apart(pairs):
    block = make_block(np.random.default_rng(0), 70_000, 1)
    packed = pack(block, Packing(LONGEST_ROW, pairs, 2, 10**9), 1 << 40, 0)  # its first row is one text, uncut
    assert packed.positions[0].tolist() == list(range(LONGEST_ROW))
    assert not packed.token_types[0].any()


@pytest.mark.parametrize("length", [15, LONGEST_ROW + 1])
def test_rows_whose_positions_do_not_fit_are_refused(length):
    with pytest.raises(ValueError, match=rf"data\.sequence_length={length}: must lie in \[16, 65,535\]"):
        DataConfig(path="set", sequence_length=length)
    with pytest.raises(ValueError, match=rf"phases\[0\]\.sequence_length={length}: must lie in \[16, 65,535\]"):
        TrainingConfig(phases=[Phase(share=1.0, sequence_length=length)])


def test_the_next_epoch_splits_elsewhere_but_keeps_its_rows():
    block = make_block(np.random.default_rng(3), 5_000, 5)
    first, second = pack(block, Packing(64), 9, 1), pack(block, Packing(64), 9, 2)
    assert first.ids.shape == second.ids.shape
    assert not np.array_equal(first.token_types, second.token_types)
    kept = [set(row[row >= 10].tolist()) for row in first.ids]
    assert kept == [set(row[row >= 10].tolist()) for row in second.ids]
