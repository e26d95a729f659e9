"""Counter-based noise: the same number for the same (key, position, purpose), wherever it is computed.

A hash (splitmix64's finaliser, Steele et al. 2014) over 64-bit counters in plain integer arithmetic, so that CPU and
GPU, one rank and many, and any micro-batch draw the same masks and samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SIGN = 1 << 63


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    return (value + _SIGN) % (1 << 64) - _SIGN


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)

SELECT, MASK, SAMPLE, DROPOUT, RANDOM = 1, 2, 3, 4, 5
"""Purposes: which positions, which of them become [MASK], which token replaces them; what is dropped; random tokens."""
WORD, PHASE, DIVIDE = 16, 17, 18
"""Purposes of whole words and n-grams: which unit is drawn, where tiles begin, how a tile is divided."""


def mix(value: Tensor) -> Tensor:
    """Scramble int64 values, element by element (a bijection)."""
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)


def row_keys(seed: int, epoch: Tensor, row: Tensor) -> Tensor:
    """Key of each row: int64 [B] from the run's seed, the epoch [B] and the row's number in the shard set [B]."""
    base = mix(torch.full_like(row, _signed(seed % (1 << 64))) + _GOLDEN)
    return mix(mix(base ^ mix(epoch + _GOLDEN)) + row * _GOLDEN)


def bits(keys: Tensor, positions: Tensor, purpose: int) -> Tensor:
    """62 random bits as non-negative int64, broadcast over `keys` and `positions` (both int64)."""
    return _shift(mix(mix(keys + _signed(purpose * _MIX_1 % (1 << 64))) + (positions + 1) * _GOLDEN), 2)


def uniform(keys: Tensor, positions: Tensor, purpose: int) -> Tensor:
    """Uniform float32 in [0, 1) with 24 bits."""
    return (bits(keys, positions, purpose) >> 38).to(torch.float32) * 2.0**-24


def dropout_keys(keys: Tensor, sites: int) -> Tensor:
    """Keys of `kernels.dropout` for a number of places that drop, int32 [sites, B, 2], from the rows' int64 [B]."""
    drawn = bits(keys[None, :], torch.arange(sites, device=keys.device)[:, None], DROPOUT)
    return torch.stack([drawn & 0x7FFFFFFF, drawn >> 31], -1).to(torch.int32)


def _shift(value: Tensor, by: int) -> Tensor:
    """Logical (zero-filling) right shift of int64."""
    return (value >> by) & ((1 << (64 - by)) - 1)
