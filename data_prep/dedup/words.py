"""Text folded to words, and words to 64-bit hashes, all in numpy: what MinHash and decontamination compare.

Folding: NFKC, lower case, and runs of letters, digits, marks and underscores in any script. In scripts without spaces
between words (Chinese, Japanese kana, Thai, Lao, Tibetan, Myanmar, Khmer) every character is a word by itself.
Everything else only separates.

A word's hash is a polynomial of random values of its characters, an n-gram's one of its words' hashes, both modulo 2^64
and then mixed: the same on every machine and in every process, up to characters that one Python's Unicode has and an
older one's lacks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data_prep.clean.unicode import normalize
from electra_ds.data.mixing import hash_words, mix

CHUNK = 1 << 17
"""Characters that are hashed at a time: bounds the memory to some 10 MB."""

_SEPARATOR, _LETTER, _WORD = 0, 1, 2
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai
    (0x3005, 0x3007),  # marks of Chinese and Japanese that count as letters
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xAA60, 0xAA7F),  # Myanmar
    (0x1B000, 0x1B16F),  # kana
    (0x20000, 0x33FFF),  # Han
)
_CODES = 0x34000
"""Characters from here on are no letters (variation selectors, tags, private use)."""
_BASE, _STEP = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95  # odd, so that powers have inverses modulo 2^64
_CHARACTERS, _LENGTHS = 201, 202


def fold(text: str) -> str:
    """Return the text in NFKC and lower case."""
    return normalize("NFKC")(text).lower()


def word_list(text: str) -> list[str]:
    """Return the folded words of a text, those whose hashes `word_hashes` returns."""
    words = []
    for piece in _pieces(fold(text)):
        found = _find(piece)
        words += [piece[start:end] for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)]
    return words


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash the words of texts.

    Returns:
        uint64 [W], the words of all texts one after the other, and int64 [D], the number of words of each text.
    """
    counts = np.zeros(len(texts), np.int64)
    hashes = [np.zeros(0, np.uint64)]
    for numbers, pieces in _batches(texts):
        found = _find("\n".join(pieces))
        hashes.append(_hash(found))
        borders = np.cumsum([len(piece) + 1 for piece in pieces])
        np.add.at(counts, numbers, np.diff(np.searchsorted(found.starts, borders), prepend=0))
    return np.concatenate(hashes), counts


def ngram_hashes(words: np.ndarray, counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the n-grams of texts, none of which reaches over the end of its text.

    Args:
        words: uint64 [W], of `word_hashes`.
        counts: int64 [D], of `word_hashes`.
        size: words of an n-gram. A text that has fewer, but has any, is one n-gram.

    Returns:
        uint64 [N], the n-grams of all texts in order, and int64 [D], how many of each text.
    """
    slots = np.where(counts > 0, np.maximum(counts, size), 0)  # short texts are filled up
    if slots.sum() != len(words):
        filled = np.zeros(slots.sum(), np.uint64)
        filled[np.arange(len(words)) + np.repeat(_starts(slots) - _starts(counts), counts)] = words
        words = filled
    numbers = np.where(counts > 0, slots - size + 1, 0)
    ((_, hashes),) = rolling(words, (size,))
    places = np.arange(numbers.sum()) + np.repeat(_starts(slots) - _starts(numbers), numbers)
    return hashes[places], numbers


def rolling(words: np.ndarray, lengths: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield for each of the lengths, ascending, the hashes of all runs of so many words, uint64 [W - length + 1]."""
    state = np.zeros(len(words) + 1, np.uint64)
    for length in range(1, max(lengths) + 1):
        state = state[:-1] * np.uint64(_STEP) + words[length - 1 :] if length <= len(words) else words[:0]
        if length in lengths:
            yield length, mix(state + np.uint64(length))


def hashes_at(words: np.ndarray, places: np.ndarray, lengths: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield what `rolling` yields, but of the runs that begin at `places` only (ascending; those that fit)."""
    state = np.zeros(len(places), np.uint64)
    for length in range(1, max(lengths) + 1):
        places = places[: places.searchsorted(len(words) - length, "right")]
        state = state[: len(places)] * np.uint64(_STEP) + words[places + length - 1]
        if length in lengths:
            yield length, mix(state + np.uint64(length))


class _Found(NamedTuple):
    codes: np.ndarray
    """uint32 [C], code points."""
    starts: np.ndarray
    """int64 [W], first character of each word."""
    ends: np.ndarray
    """int64 [W], one past the last."""


def _find(text: str) -> _Found:
    codes = np.minimum(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4"), _CODES)
    kinds = _tables()[0][codes]
    inside = np.zeros(len(kinds) + 2, bool)
    inside[1:-1] = kinds == _LETTER
    alone = kinds == _WORD
    starts = np.flatnonzero(alone | (inside[1:-1] & ~inside[:-2]))
    ends = np.flatnonzero(alone | (inside[1:-1] & ~inside[2:])) + 1
    return _Found(codes, starts, ends)


def _hash(found: _Found) -> np.ndarray:
    """Hashes of the words found: differences of one running sum, brought to the same power."""
    _, values = _tables()
    powers, inverses = _powers()
    sums = np.zeros(len(found.codes) + 1, np.uint64)
    np.cumsum(values[found.codes] * powers[: len(found.codes)], out=sums[1:])
    return mix((sums[found.ends] - sums[found.starts]) * inverses[found.starts])


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Yield numbers of texts and pieces of them, of about `CHUNK` characters together; one text may be in several."""
    numbers: list[int] = []
    pieces: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in _pieces(fold(text)):
            if size + len(piece) > CHUNK and pieces:
                yield numbers, pieces
                numbers, pieces, size = [], [], 0
            numbers.append(number)
            pieces.append(piece)
            size += len(piece) + 1
    if pieces:
        yield numbers, pieces


def _pieces(text: str) -> Iterator[str]:
    """Cut a text into pieces of `CHUNK` characters at most, between words unless a word is that long."""
    start = 0
    while len(text) - start > CHUNK:
        cut = max(text.rfind(" ", start, start + CHUNK), text.rfind("\n", start, start + CHUNK)) + 1
        cut = cut or start + CHUNK
        yield text[start:cut]
        start = cut
    yield text[start:]


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) - counts


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """What each code point is (uint8) and its random value (uint64), for code points up to `_CODES`."""
    kinds = np.fromiter((unicodedata.category(chr(code))[0] in "LNM" for code in range(_CODES + 1)), np.uint8)
    kinds[ord("_")] = _LETTER
    for first, last in _UNSPACED:
        kinds[first : last + 1] *= _WORD
    return kinds, hash_words(_CHARACTERS, np.arange(_CODES + 1))


@lru_cache(maxsize=1)
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """Powers of the base and of its inverse modulo 2^64, uint64 [CHUNK + 2] (a separator may follow a full chunk)."""
    base, inverse = np.full((2, CHUNK + 2), 1, np.uint64)
    base[1:], inverse[1:] = _BASE, pow(_BASE, -1, 1 << 64)
    return np.cumprod(base), np.cumprod(inverse)
