"""What hashes of a document's content decide: its place in the shuffle, its split, the tokenizer's sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from electra_ds.data.mixing import hash_words

SPLITS = ("train", "validation")

_VALIDATION, _SHUFFLE, _SAMPLE = 101, 102, 103


def content_hashes(texts: Sequence[bytes]) -> np.ndarray:
    """128-bit BLAKE2b of texts (UTF-8), as [D, 2] uint64."""
    digests = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


def pair_hashes(texts: Sequence[bytes]) -> np.ndarray:
    """Hashes of texts of which each two are a translation pair, [D, 2] uint64: of the pair, told apart in the last bit.

    So both have one place in everything that a hash decides, and neither is a copy of the other.
    """
    digests = content_hashes([b"%d %b%b" % (len(a), a, b) for a, b in zip(texts[::2], texts[1::2], strict=True)])
    hashes = np.repeat(digests, 2, axis=0)
    hashes[1::2, 1] ^= np.uint64(1)
    return hashes


def validation_mask(hashes: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Whether documents are held out, bool [D]: copies of a text go the same way; `hashes` of `content_hashes`."""
    return hash_words(seed, _VALIDATION, hashes[:, 0]) < np.uint64(fraction * 2.0**64)


def shuffle_keys(hashes: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray:
    """Places in the shuffle, uint64 [D]: documents are put in the order of these; `numbers` tells copies apart."""
    return hash_words(seed, _SHUFFLE, hashes[:, 0], hashes[:, 1], numbers)


def sample_keys(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Order in which documents are taken for the tokenizer's sample, uint64 [D]."""
    return hash_words(seed, _SAMPLE, hashes[:, 0])
