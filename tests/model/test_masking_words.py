"""Whole words and n-grams: nothing but whole units, the plain loop's choice, n in the proportion 1 : 1/2 : 1/3."""

from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from electra_ds.model import noise
from electra_ds.model.masking import max_selected, select, selected_count
from electra_ds.model.words import span_begins, take_in_order, word_begins
from tests.model.conftest import SPECIAL, packed_rows

VOCAB = 101
SPECIAL_IDS = (SPECIAL.pad, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask)


def table(share=0.4):
    """The last `share` of the vocabulary continues words."""
    return torch.arange(VOCAB) >= VOCAB * (1 - share)


def keys_of(rows, seed=0, epoch=0, first_row=0):
    number = torch.arange(first_row, first_row + rows)
    return noise.row_keys(seed, torch.full_like(number, epoch), number)


def draw(ids, segments, masking, seed=0, fraction=0.15, continues=None, **where):
    continues = table() if continues is None else continues
    return select(ids, segments, keys_of(len(ids), seed, **where), SPECIAL, fraction, 0.85, masking, continues)


def words_of(ids, segments, continues):
    """Positions of each word of one row, found one token after the other; runs of words between special tokens."""
    runs, open_ = [], False
    for position, token in enumerate(ids.tolist()):
        if not segments[position] or token in SPECIAL_IDS:
            open_ = False
            continue
        if not open_ or segments[position] != segments[position - 1]:
            runs.append([[position]])
        elif continues[token]:
            runs[-1][-1].append(position)
        else:
            runs[-1].append([position])
        open_ = True
    return runs


def spans_of(runs, key):
    """N-grams of one row: each tile of three words divided by its own draw."""
    spans = []
    for words in runs:
        phase = noise_of(key, words[0][0], noise.PHASE) % 3
        places = [((number + phase) // 3, (number + phase) % 3, word) for number, word in enumerate(words)]
        for _, tile in groupby(places, key=lambda place: place[0]):
            tile = list(tile)
            chance = noise_of(key, tile[0][2][0], noise.DIVIDE) % 12
            cuts = [()] * 4 + [(2,)] * 3 + [(1,)] * 3 + [(1, 2)] * 2
            for number, (_, place, word) in enumerate(tile):
                if number and place not in cuts[chance]:
                    spans[-1] = spans[-1] + word
                else:
                    spans.append(list(word))
    return spans


def noise_of(key, position, purpose):
    return int(noise.bits(key, torch.tensor(position), purpose))


def plain_loop(ids, segments, continues, key, fraction, masking):
    """What is selected in one row, as a sorted list, by the loop that anyone would write."""
    runs = words_of(ids, segments, continues)
    units = spans_of(runs, key) if masking == "ngram" else [word for run in runs for word in run]
    candidates = sum(map(len, units))
    count = int(selected_count((segments > 0).sum(), torch.tensor(candidates), fraction, len(ids)))
    if units and min(map(len, units)) > count:
        units = [[position] for unit in units for position in unit]
    taken = []
    for unit in sorted(units, key=lambda unit: noise_of(key, unit[0], noise.WORD)):
        if len(taken) + len(unit) <= count:
            taken += unit
    return sorted(taken)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    fraction=st.sampled_from([0.02, 0.15, 0.25, 0.5, 0.999]),
    length=st.integers(16, 96),
    share=st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0]),
    masking=st.sampled_from(["whole_word", "ngram"]),
)
def test_the_selection_is_the_plain_loops(seed, fraction, length, share, masking):
    ids, segments, _, _ = packed_rows(rows=4, length=length, seed=seed)
    continues = table(share)
    chosen = draw(ids, segments, masking, seed, fraction, continues)
    assert chosen.positions.shape == (4, max_selected(fraction, length))
    for row, key in enumerate(keys_of(4, seed)):
        positions = chosen.positions[row][chosen.valid[row]].tolist()
        assert positions == plain_loop(ids[row], segments[row], continues, key, fraction, masking)
        assert positions, "a row with candidates has something selected"
        assert not chosen.positions[row][~chosen.valid[row]].any()
        assert not set(ids[row, positions].tolist()) & set(SPECIAL_IDS)


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=60), count=st.integers(0, 80))
def test_rounds_take_what_one_by_one_takes(sizes, count):
    left, expected = count, []
    for size in sizes:
        expected.append(0 < size <= left)
        left -= size * expected[-1]
    assert take_in_order(torch.tensor([sizes]), torch.tensor([count]))[0].tolist() == expected


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_words_are_selected_whole(masking):
    ids, segments, _, _ = packed_rows(rows=8, length=96, seed=3)
    chosen = draw(ids, segments, masking)
    for row in range(8):
        positions = set(chosen.positions[row][chosen.valid[row]].tolist())
        for word in (word for run in words_of(ids[row], segments[row], table()) for word in run):
            assert not positions & set(word) or set(word) <= positions


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_tokens_without_continuations_fill_the_count(masking):
    ids, segments, _, _ = packed_rows(rows=6, length=96, seed=1)
    none = torch.zeros(VOCAB, dtype=torch.bool)
    single = draw(ids, segments, "token")
    chosen = draw(ids, segments, masking, continues=none)
    if masking == "whole_word":
        assert torch.equal(chosen.valid, single.valid)
    assert (chosen.valid.sum(1) <= single.valid.sum(1)).all()
    assert (chosen.valid.sum(1) >= single.valid.sum(1) - 2).all()


def test_n_grams_come_in_the_proportion_of_albert():
    """In a long run of words; and among the n-grams drawn, whose count leaves room for any."""
    ids = torch.randint(5, 50, (400, 510), generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    keys = keys_of(400)
    begins = span_begins(everywhere, everywhere.long(), everywhere, keys)
    sizes = [torch.diff(row.nonzero()[:, 0])[2:-2] for row in begins]  # the tiles at the ends are cut off
    counts = torch.bincount(torch.cat(sizes), minlength=4)[1:].double()
    assert len(counts) == 3
    expected = counts.sum() * torch.tensor([6.0, 3.0, 2.0]).double() / 11
    assert stats.chisquare(counts, expected).pvalue > 1e-3

    chosen = draw(ids, everywhere.long(), "ngram", continues=torch.zeros(VOCAB, dtype=torch.bool))
    taken = torch.zeros_like(everywhere).scatter(1, chosen.positions, chosen.valid)
    lengths = begins.cumsum(1)
    spans = [torch.unique(lengths[row][taken[row]], return_counts=True)[1] for row in range(400)]
    share = torch.bincount(torch.cat(spans), minlength=4)[1:].double()
    share /= share.sum()
    assert share.tolist() == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.015)


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_every_position_is_selected_about_equally_often(masking):
    """N-grams cut off at an end are shorter, and the last slots of a count take short units more often."""
    ids = torch.randint(5, 50, (3000, 128), generator=torch.Generator().manual_seed(0))
    chosen = draw(ids, torch.ones_like(ids), masking, continues=torch.zeros(VOCAB, dtype=torch.bool))
    counts = torch.bincount(chosen.positions[chosen.valid], minlength=128).double()
    assert float((counts / counts.mean() - 1).abs().max()) < 0.15


def test_a_word_longer_than_the_count_gives_single_tokens():
    ids = torch.full((1, 64), VOCAB - 1)
    ids[0, 0], ids[0, -1] = SPECIAL.cls, SPECIAL.sep
    for masking in ("whole_word", "ngram"):
        chosen = draw(ids, torch.ones_like(ids), masking)
        assert chosen.valid.sum() == max_selected(0.15, 64)
        assert int(chosen.positions.diff().max()) > 1


def test_a_giant_word_is_left_out_where_another_fits():
    ids = torch.full((1, 64), VOCAB - 1)
    ids[0, 0], ids[0, 40], ids[0, -1] = SPECIAL.cls, SPECIAL.sep, SPECIAL.sep
    ids[0, 41:45] = 7
    chosen = draw(ids, torch.ones_like(ids), "whole_word")
    assert set(chosen.positions[chosen.valid].tolist()) <= {41, 42, 43}


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_segments_of_one_token_and_rows_of_none(masking):
    ids = torch.tensor([[2, 99, 3, 2, 99, 3, 2, 99, 3, 0], [2, 3, 2, 3, 2, 3, 0, 0, 0, 0]])
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 3, 3, 3, 0], [1, 1, 2, 2, 3, 3, 0, 0, 0, 0]])
    chosen = draw(ids, segments, masking)
    assert chosen.valid.sum(1).tolist() == [1, 0]
    assert torch.equal(chosen.generator_ids[1], ids[1])


def test_words_end_with_their_segment():
    ids = torch.tensor([[50, 99, 99, 99, 50]])
    segments = torch.tensor([[1, 1, 2, 2, 2]])
    assert word_begins(ids, segments, segments > 0, table()).tolist() == [[True, False, True, False, True]]


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_masks_follow_the_row_the_seed_and_the_epoch_not_the_micro_batch(masking):
    ids, segments, _, _ = packed_rows(rows=6, length=64)
    whole = draw(ids, segments, masking)
    for begin in (0, 2, 5):
        part = draw(ids[begin : begin + 1], segments[begin : begin + 1], masking, first_row=begin)
        assert torch.equal(part.generator_ids[0], whole.generator_ids[begin])
    assert not torch.equal(whole.generator_ids, draw(ids, segments, masking, seed=1).generator_ids)
    assert not torch.equal(whole.generator_ids, draw(ids, segments, masking, epoch=1).generator_ids)


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_each_token_of_a_word_becomes_mask_by_itself(masking):
    ids = torch.randint(5, VOCAB, (2000, 64), generator=torch.Generator().manual_seed(0))
    chosen = draw(ids, torch.ones_like(ids), masking)
    masked = chosen.generator_ids.gather(1, chosen.positions)[chosen.valid] == SPECIAL.mask
    assert masked.float().mean() == pytest.approx(0.85, abs=0.01)


def test_words_without_a_table_are_refused():
    ids, segments, _, _ = packed_rows()
    with pytest.raises(ValueError, match="needs the table"):
        select(ids, segments, keys_of(len(ids)), SPECIAL, 0.15, 0.85, "whole_word")


def test_single_tokens_are_drawn_as_before():
    """Golden: what a run of an earlier release selected, it selects again when resumed."""
    ids, segments, _, _ = packed_rows(rows=2, length=48, seed=5)
    chosen = draw(ids, segments, "token", seed=5)
    assert chosen.positions.tolist() == [[20, 26, 27, 28, 29, 36, 40], [6, 9, 14, 19, 20, 32, 0]]
    is_mask = (chosen.generator_ids == SPECIAL.mask).nonzero()[:, 1]
    assert is_mask.tolist() == [20, 26, 27, 28, 36, 40, 9, 14, 19, 20, 32]
