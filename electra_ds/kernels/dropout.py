"""Dropout from counters: whether an element is kept is a hash of (key, index), computed again where it is needed.

No mask is stored, no random generator is read: the compiler fuses it with what stands around it, and a row's mask does
not depend on the micro-batch or the rank.

Shape legend: B rows of the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BITS = 24
"""Of a hash, compared with the probability."""
_MULTIPLY_1, _MULTIPLY_2 = 0x7FEB352D, 0x846CA68B
"""Of Wellons' low-bias 32-bit hash (nullprogram.com/blog/2018/07/31)."""


def hash_counters(index: Tensor, key: Tensor) -> Tensor:
    """Scramble int32 counters under a key of two words.

    Args:
        index: int32, any shape that broadcasts with [B, ...].
        key: int32 [B, 2], or with more dimensions of one before the last.

    Returns:
        int32, uniform over all 32 bits.
    """
    value = index ^ key[..., 0]
    value = (value ^ ((value >> 16) & 0xFFFF)) * _MULTIPLY_1
    value = (value ^ ((value >> 15) & 0x1FFFF)) ^ key[..., 1]
    value = value * (_MULTIPLY_2 - (1 << 32))
    return value ^ ((value >> 16) & 0xFFFF)


def threshold(probability: float) -> int:
    """Hashes of 24 bits below this are dropped."""
    return round(probability * (1 << BITS))


def keep_mask(keys: Tensor, shape: torch.Size, probability: float) -> Tensor:
    """Which elements stay, bool of `shape` [B, ...].

    Args:
        keys: int32 [B, 2]. An element's counter is its place within its row of the batch.
        shape: of the values.
        probability: of being dropped.
    """
    count = math.prod(shape[1:])
    index = torch.arange(count, dtype=torch.int32, device=keys.device).view(1, *shape[1:])
    hashed = hash_counters(index, keys.view(shape[0], *[1] * (len(shape) - 1), 2))
    return (hashed & ((1 << BITS) - 1)) >= threshold(probability)


def dropout(values: Tensor, keys: Tensor | None, probability: float) -> Tensor:
    """Drop elements of [B, ...] with `probability` and scale the others up; without keys nothing is dropped."""
    if keys is None or not probability:
        return values
    return torch.where(keep_mask(keys, values.shape, probability), values * (1.0 / (1.0 - probability)), 0.0)
