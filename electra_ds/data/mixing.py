"""Keyed hashing and permutations in numpy: the same numbers on every rank and machine.

splitmix64's finaliser (Steele et al. 2014) over unsigned 64-bit integers; a permutation of any size by a Feistel
network with cycle walking (Black and Rogaway 2002), so that one position can be found without making the others.
"""

from __future__ import annotations

import numpy as np

Words = np.ndarray
"""Arrays of uint64."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = 6


def mix(value: Words) -> Words:
    """Scramble uint64 values, element by element (a bijection)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


def hash_words(*parts: int | np.ndarray) -> Words:
    """Hash integers (broadcast against each other) into uint64; order matters."""
    with np.errstate(over="ignore"):
        state = np.zeros(1, np.uint64)
        for part in parts:
            word = np.asarray(part)
            word = np.array([int(word) % (1 << 64)], np.uint64) if word.ndim == 0 else word.astype(np.uint64)
            state = mix(mix(state + _GOLDEN) ^ word * _GOLDEN)
        return mix(state)


def uniform(words: Words) -> np.ndarray:
    """Turn hashed words into float64 in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, size: np.ndarray | int, key: Words) -> np.ndarray:
    """Where positions go under a keyed permutation.

    Args:
        index: int64, each in [0, size).
        size: int64, number of elements permuted; broadcast against `index`.
        key: uint64, one permutation per key; broadcast against `index`.

    Returns:
        int64 of the broadcast shape; for a fixed key and size a bijection of [0, size).
    """
    index, size, key = np.broadcast_arrays(
        np.asarray(index, np.int64), np.asarray(size, np.int64), np.asarray(key, np.uint64)
    )
    # Halves of h bits each cover [0, 4^h) with size <= 4^h < 16 size, so a walk ends after few steps.
    half = np.maximum(1, (_bit_length(np.maximum(size - 1, 1)) + 1) // 2).astype(np.uint64)
    result = index.astype(np.uint64)
    outside = np.ones(result.shape, bool)
    while outside.any():
        result[outside] = _feistel(result[outside], half[outside], key[outside])
        outside = result >= size.astype(np.uint64)
    return result.astype(np.int64)


def _feistel(value: Words, half: Words, key: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    with np.errstate(over="ignore"):
        for round_ in range(_ROUNDS):
            word = mix((right + key) ^ np.uint64(round_ + 1) * _GOLDEN)
            left, right = right, left ^ (mix(word ^ key) & mask)
    return (left << half) | right


def _bit_length(value: np.ndarray) -> np.ndarray:
    """Bits needed for positive int64 values (exact: frexp of a float64 would round above 2^53)."""
    low, high = value & 0xFFFFFFFF, value >> 32
    exponent = np.where(high > 0, np.frexp(high.astype(np.float64))[1] + 32, np.frexp(low.astype(np.float64))[1])
    return exponent.astype(np.int64)
