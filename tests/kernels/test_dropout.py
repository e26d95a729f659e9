"""Dropout from counters: the asked share, no pattern, the same for a row wherever it is computed."""

import pytest
import torch
from scipy import stats

from electra_ds.kernels.dropout import dropout, hash_counters, keep_mask
from electra_ds.model import noise


def keys_of(rows, site=0):
    row_keys = noise.row_keys(3, torch.zeros(rows, dtype=torch.long), torch.arange(rows))
    return noise.dropout_keys(row_keys, site + 1)[site]


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.003])
def test_the_share_that_is_dropped(probability):
    kept = keep_mask(keys_of(64), torch.Size([64, 100, 100]), probability)
    dropped = int((~kept).sum())
    assert stats.binomtest(dropped, kept.numel(), probability).pvalue > 1e-3


def test_neither_neighbours_nor_rows_nor_sites_go_together():
    """Pairs of elements are dropped together as often as independent ones are."""
    shape, probability = torch.Size([256, 64, 64]), 0.3
    first, second = ~keep_mask(keys_of(256), shape, probability), ~keep_mask(keys_of(256, 1), shape, probability)
    pairs = {
        "next element": (first[..., 1:], first[..., :-1]),
        "next line": (first[:, 1:], first[:, :-1]),
        "next row": (first[1:], first[:-1]),
        "another site": (first, second),
        "far off": (first[:, 32:], first[:, :32]),
    }
    for name, (one, other) in pairs.items():
        together = int((one & other).sum())
        assert stats.binomtest(together, one.numel(), probability**2).pvalue > 1e-3, name


def test_hashes_fill_all_bits_evenly():
    hashed = hash_counters(torch.arange(1 << 16, dtype=torch.int32)[None], keys_of(16)[:, None])
    for bit in range(32):
        ones = int(((hashed >> bit) & 1).sum())
        assert stats.binomtest(ones, hashed.numel(), 0.5).pvalue > 1e-4, bit


def test_a_row_has_its_mask_in_any_micro_batch():
    shape = torch.Size([8, 16, 32])
    keys = keys_of(8)
    whole = keep_mask(keys, shape, 0.1)
    for row in range(8):
        assert torch.equal(keep_mask(keys[row : row + 1], torch.Size([1, 16, 32]), 0.1)[0], whole[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_stays_is_scaled_up_and_gradients_go_the_same_way(dtype):
    values = torch.randn(4, 8, 16).to(dtype).requires_grad_()
    output = dropout(values, keys_of(4), 0.25)
    kept = keep_mask(keys_of(4), values.shape, 0.25)
    assert torch.equal(output != 0, kept)
    torch.testing.assert_close(output[kept].double(), values[kept].double() / 0.75, rtol=torch.finfo(dtype).eps, atol=0)
    (gradient,) = torch.autograd.grad(output, values, torch.ones_like(output))
    assert torch.equal(gradient != 0, kept)


def test_the_compiled_mask_is_the_same_mask():
    values = torch.randn(4, 8, 16)
    compiled = torch.compile(dropout, fullgraph=True, dynamic=False)
    assert torch.equal(compiled(values, keys_of(4), 0.1) != 0, keep_mask(keys_of(4), values.shape, 0.1))


def test_without_keys_or_probability_nothing_is_dropped():
    values = torch.randn(2, 3)
    assert dropout(values, None, 0.5) is values
    assert dropout(values, keys_of(2), 0.0) is values
