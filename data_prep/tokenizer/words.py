"""Numbers for words: a hash table in numpy that looks up all words of a text at once.

A word of up to 16 (or 32) bytes *is* its table key, two (or four) 64-bit integers, so nothing rests on a hash being
free of collisions. Longer words, and those with a NUL byte, go through a dict.

Shape legend: W words of a text, U those not known yet, N bytes.
"""

from __future__ import annotations

import numpy as np

_CLASSES = (2, 4)
"""64-bit integers of a key; one table for each."""
_SLOT_BITS = 21
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(9)], np.uint64)
"""For the first 0 to 8 bytes of a little-endian integer."""

PADDING = 8 * _CLASSES[-1]
"""Bytes that must follow the text."""

CAPACITY = 1 << (_SLOT_BITS - 1)
"""Words that the tables hold well."""


class WordNumbers:
    """Numbers words 0, 1, ... in the order in which they are first met; equal words get equal numbers."""

    def __init__(self) -> None:
        self.count = 0
        self._tables = [_Table(width) for width in _CLASSES]
        self._others: dict[bytes, int] = {}

    def number(self, padded: bytes, begins: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
        """Number the words of a text.

        Args:
            padded: the text and `PADDING` bytes.
            begins: int64 [W], first byte of each word.
            sizes: int64 [W], bytes of each, at least 1.

        Returns:
            Numbers, int64 [W]; and the words not met before, in the order of their numbers.
        """
        numbers = np.empty(len(begins), np.int64)
        fresh: list[bytes] = []
        has_nul = padded.find(0, 0, len(padded) - PADDING) >= 0
        below = 0
        for table in self._tables:
            most = 8 * table.width
            here = np.flatnonzero((sizes > below) & (sizes <= most)) if len(begins) else np.zeros(0, np.int64)
            below = most
            if has_nul:
                pieces = [padded[b : b + n] for b, n in zip(begins[here].tolist(), sizes[here].tolist(), strict=True)]
                holds = np.array([0 in piece for piece in pieces], bool)
                self._by_name(padded, here[holds], begins, sizes, numbers, fresh)
                here = here[~holds]
            whole = len(here) == len(begins)
            mine_begins, mine_sizes = (begins, sizes) if whole else (begins[here], sizes[here])
            keys = _keys(padded, mine_begins, mine_sizes, table.width)
            found = table.look_up(keys)
            unknown = np.flatnonzero(found < 0)
            if len(unknown):
                unique, inverse = _first_of_each([key[unknown] for key in keys])
                firsts = unknown[unique]
                new = self.count + np.arange(len(firsts))
                self.count += len(firsts)
                table.insert([key[firsts] for key in keys], new)
                found[unknown] = new[inverse]
                starts, stops = mine_begins[firsts], mine_begins[firsts] + mine_sizes[firsts]
                fresh += [padded[b:e] for b, e in zip(starts.tolist(), stops.tolist(), strict=True)]
            if whole:
                numbers = found
            else:
                numbers[here] = found
        self._by_name(padded, np.flatnonzero(sizes > below), begins, sizes, numbers, fresh)
        return numbers, fresh

    def _by_name(
        self,
        padded: bytes,
        here: np.ndarray,
        begins: np.ndarray,
        sizes: np.ndarray,
        numbers: np.ndarray,
        fresh: list[bytes],
    ) -> None:
        """Number words one by one. Those beyond 100 bytes are numbered anew each time: they rarely come again."""
        for word, begin, size in zip(here.tolist(), begins[here].tolist(), sizes[here].tolist(), strict=True):
            name = padded[begin : begin + size]
            number = self._others.get(name)
            if number is None:
                number = self.count
                self.count += 1
                fresh.append(name)
                if size <= 100:
                    self._others[name] = number
            numbers[word] = number


class _Table:
    """Open addressing with linear probing; keys of `width` integers, values are numbers of words."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._keys = [np.zeros(1 << _SLOT_BITS, np.uint64) for _ in range(width)]
        self._numbers = np.full(1 << _SLOT_BITS, -1, np.int32)

    def look_up(self, keys: list[np.ndarray]) -> np.ndarray:
        """Numbers of keys ([W] each), int64 [W], -1 where unknown."""
        slots = self._slots(keys)
        result = self._numbers[slots].astype(np.int64)
        same = self._same(slots, keys)
        left = np.flatnonzero(~same & (result >= 0))
        result[~same] = -1
        slots = slots[left]
        rest = [key[left] for key in keys]
        while len(left):
            slots = (slots + 1) & ((1 << _SLOT_BITS) - 1)
            numbers = self._numbers[slots]
            same = self._same(slots, rest)
            result[left[same]] = numbers[same]
            going = ~same & (numbers >= 0)
            left, slots, rest = left[going], slots[going], [key[going] for key in rest]
        return result

    def insert(self, keys: list[np.ndarray], numbers: np.ndarray) -> None:
        """Add keys that are not there, all different."""
        slots = self._slots(keys)
        left = np.arange(len(numbers))
        while len(left):
            # Of those that want the same empty slot, one gets it.
            _, chosen = np.unique(slots, return_index=True)
            chosen = chosen[self._numbers[slots[chosen]] < 0]
            at, rows = slots[chosen], left[chosen]
            self._numbers[at] = numbers[rows]
            for table, key in zip(self._keys, keys, strict=True):
                table[at] = key[rows]
            going = np.ones(len(left), bool)
            going[chosen] = False
            left, slots = left[going], (slots[going] + 1) & ((1 << _SLOT_BITS) - 1)

    def _slots(self, keys: list[np.ndarray]) -> np.ndarray:
        mixed = keys[0] * _MULTIPLIERS[0]
        for key, multiplier in zip(keys[1:], _MULTIPLIERS[1:], strict=False):
            mixed ^= key * multiplier
        mixed ^= mixed >> np.uint64(29)
        mixed *= _MULTIPLIERS[0]
        return (mixed >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)

    def _same(self, slots: np.ndarray, keys: list[np.ndarray]) -> np.ndarray:
        same = self._keys[0][slots] == keys[0]
        for table, key in zip(self._keys[1:], keys[1:], strict=True):
            same &= table[slots] == key
        return same


def _keys(padded: bytes, begins: np.ndarray, sizes: np.ndarray, width: int) -> list[np.ndarray]:
    """The bytes of words as integers, zeros after their end: `width` arrays uint64 [W]."""
    # An integer at every byte, without a copy.
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    return [words[begins + 8 * number] & _MASKS[np.clip(sizes - 8 * number, 0, 8)] for number in range(width)]


def _first_of_each(keys: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where each different key comes first, in that order, and which of them every key is."""
    order = np.lexsort(keys[::-1])
    new = np.ones(len(order), bool)
    new[1:] = False
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    firsts = order[new]  # lexsort is stable: the first of equals
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    rank = np.argsort(np.argsort(firsts))
    return np.sort(firsts), rank[group]
