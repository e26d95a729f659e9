"""Which positions are selected, which become [MASK], and that nothing but (seed, epoch, row, position) decides."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_ds.model import noise
from electra_ds.model.masking import max_selected, scatter_tokens, select, selected_count
from tests.model.conftest import SPECIAL, packed_rows


def draw(ids, segments, seed=0, fraction=0.15, first_row=0, epoch=0):
    rows = torch.arange(first_row, first_row + len(ids))
    keys = noise.row_keys(seed, torch.full_like(rows, epoch), rows)
    return select(ids, segments > 0, keys, SPECIAL, fraction, 0.85)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), fraction=st.sampled_from([0.05, 0.15, 0.25, 0.5, 0.999]), length=st.integers(16, 96))
def test_selection_is_without_replacement_and_of_the_right_size(seed, fraction, length):
    ids, segments, _, _ = packed_rows(rows=4, length=length, seed=seed)
    chosen = draw(ids, segments, seed, fraction)
    assert chosen.positions.shape == (4, max_selected(fraction, length))
    for row in range(4):
        positions = chosen.positions[row][chosen.valid[row]].tolist()
        real = int((segments[row] > 0).sum())
        candidates = [p for p in range(length) if segments[row, p] and ids[row, p] not in (2, 3, 4, 0)]
        most = min(length, max(1, int((fraction + 0.005) * length)))
        wanted = min(max(1, round(fraction * real)), most, len(candidates))
        assert positions == sorted(set(positions))
        assert set(positions) <= set(candidates)
        assert len(positions) == wanted


def test_counts_round_half_to_even_and_clamp():
    real = torch.tensor([10, 30, 3, 128, 2])
    candidates = torch.tensor([8, 28, 1, 126, 0])
    assert selected_count(real, candidates, 0.25, 128).tolist() == [2, 8, 1, 32, 0]
    assert selected_count(torch.tensor([128]), torch.tensor([126]), 0.15, 128).tolist() == [19]


def test_a_row_of_special_tokens_has_nothing_selected():
    ids = torch.tensor([[2, 3, 2, 3, 0, 0]])
    chosen = draw(ids, torch.tensor([[1, 1, 2, 2, 0, 0]]))
    assert not chosen.valid.any()
    assert torch.equal(chosen.generator_ids, ids)


def test_unknown_tokens_may_be_selected():
    ids = torch.full((1, 40), SPECIAL.unk)
    assert draw(ids, torch.ones_like(ids)).valid.sum() == 6


def test_eighty_five_percent_become_mask_and_the_rest_stay():
    ids = torch.randint(5, 101, (2000, 64))
    chosen = draw(ids, torch.ones_like(ids))
    at = chosen.generator_ids.gather(1, chosen.positions)[chosen.valid]
    original = ids.gather(1, chosen.positions)[chosen.valid]
    masked = at == SPECIAL.mask
    assert masked.float().mean() == pytest.approx(0.85, abs=0.01)
    assert torch.equal(at[~masked], original[~masked])


def test_every_position_is_selected_equally_often():
    ids = torch.randint(5, 101, (6000, 40))
    chosen = draw(ids, torch.ones_like(ids))
    counts = torch.bincount(chosen.positions[chosen.valid], minlength=40).double()
    expected = counts.sum() / 40
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 72.1  # 39 degrees of freedom, p = 0.001 (without replacement it is smaller still)


def test_masks_follow_the_row_not_the_micro_batch():
    ids, segments, _, _ = packed_rows(rows=6)
    whole = draw(ids, segments)
    for begin in (0, 2, 5):
        part = draw(ids[begin : begin + 1], segments[begin : begin + 1], first_row=begin)
        assert torch.equal(part.generator_ids[0], whole.generator_ids[begin])


def test_seed_and_epoch_each_change_the_masks():
    ids, segments, _, _ = packed_rows(rows=6)
    base = draw(ids, segments).generator_ids
    assert not torch.equal(base, draw(ids, segments, seed=1).generator_ids)
    assert not torch.equal(base, draw(ids, segments, epoch=1).generator_ids)


def test_scatter_writes_only_where_asked():
    ids = torch.arange(12).view(2, 6)
    out = scatter_tokens(
        ids,
        torch.tensor([[1, 0], [5, 2]]),
        torch.tensor([[99, 98], [97, 96]]),
        torch.tensor([[True, False], [True, True]]),
    )
    assert out.tolist() == [[0, 99, 2, 3, 4, 5], [6, 7, 96, 9, 10, 97]]


def test_uniform_noise_is_uniform_and_repeatable():
    keys = noise.row_keys(3, torch.zeros(500, dtype=torch.long), torch.arange(500))
    first = noise.uniform(keys[:, None], torch.arange(200)[None], noise.SAMPLE)
    assert torch.equal(first, noise.uniform(keys[:, None], torch.arange(200)[None], noise.SAMPLE))
    assert float(first.min()) >= 0
    assert float(first.max()) < 1
    counts = torch.histc(first, 50, 0, 1).double()
    chi_square = float(((counts - 2000) ** 2 / 2000).sum())
    assert chi_square < 85.4  # 49 degrees of freedom, p = 0.001
