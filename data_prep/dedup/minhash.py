"""MinHash signatures for locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3).

A document is the set of its n-grams of folded words (`data_prep.dedup.words`). The least value of a random
permutation over the set is equal for two documents with a probability of their Jaccard similarity s, so that one band
of `rows` such values is equal with s^rows, and at least one of `bands` with 1 - (1 - s^rows)^bands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.dedup.config import DedupConfig
from data_prep.dedup.words import ngram_hashes, word_hashes
from electra_ds.data.mixing import hash_words

_FACTORS, _OFFSETS, _BANDS = 211, 212, 213
_TEXTS = 1 << 20
"""Characters of text that are hashed together: bounds the memory to some 100 MB."""
_BLOCK = 1 << 14
"""Shingles that go through all permutations together: 128 KB stay in a core's cache."""


def signatures(texts: Sequence[str], config: DedupConfig) -> np.ndarray:
    """Return the keys of the bands of each text, uint64 [D, bands]: texts that share one in a column are alike.

    A text of fewer than `ngram` words is one shingle. One without any word gets keys made of its content, which only
    the same content gets. Everything depends on the text and the configuration alone.
    """
    result = np.empty((len(texts), config.bands), np.uint64)
    for first, last in _parts(texts):
        words, counts = word_hashes(texts[first:last])
        shingles, numbers = ngram_hashes(words, counts, config.ngram)
        minima = minhashes(shingles, numbers, config.bands * config.rows)
        for band in range(config.bands):
            rows = minima[band * config.rows : (band + 1) * config.rows]
            result[first:last, band] = hash_words(_BANDS, band, *rows)
        for number in np.flatnonzero(numbers == 0).tolist():
            content = texts[first + number].encode("utf-8", "surrogatepass")
            result[first + number] = np.frombuffer(hashlib.shake_128(content).digest(8 * config.bands), "<u8")
    return result


def minhashes(shingles: np.ndarray, numbers: np.ndarray, permutations: int) -> np.ndarray:
    """Return the least value of each permutation over the shingles of each document.

    Args:
        shingles: uint64 [N], well-mixed hashes of the shingles of all documents, one document after the other.
        numbers: int64 [D], how many of them each document has.
        permutations: number of them: x -> a x + b modulo 2^64 with an odd a.

    Returns:
        uint64 [permutations, D], 2^64 - 1 for a document without shingles.
    """
    result = np.full((permutations, len(numbers)), np.iinfo(np.uint64).max, np.uint64)
    present = np.flatnonzero(numbers)
    starts = (np.cumsum(numbers) - numbers)[present]
    factors = hash_words(_FACTORS, np.arange(permutations)) | np.uint64(1)
    offsets = hash_words(_OFFSETS, np.arange(permutations))
    permuted = np.empty(min(_BLOCK, len(shingles)), np.uint64)
    for begin in range(0, len(shingles), _BLOCK):
        block = shingles[begin : begin + _BLOCK]
        buffer = permuted[: len(block)]
        low = np.searchsorted(starts, begin, "right") - 1
        high = np.searchsorted(starts, begin + len(block), "left")
        documents, places = present[low:high], np.maximum(starts[low:high] - begin, 0)
        for number in range(permutations):
            np.multiply(block, factors[number], out=buffer)
            np.add(buffer, offsets[number], out=buffer)
            least = np.minimum.reduceat(buffer, places)
            # A document may have begun in the block before.
            least[0] = min(least[0], result[number, documents[0]])
            result[number, documents] = least
    return result


def _parts(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield ranges of texts of about `_TEXTS` characters together."""
    first = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= _TEXTS:
            yield first, number + 1
            first, size = number + 1, 0
    if first < len(texts):
        yield first, len(texts)
