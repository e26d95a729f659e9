"""The stream of documents and what is decided per document: steps, split, sample."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator

from data_prep.sources.base import Document, Source, valid_unicode

Step = Callable[[Document], Document | None]
"""Changes a document, or drops it by returning None. It sees one document and keeps no memory of others."""


def not_empty(document: Document) -> Document | None:
    """Drop a document of nothing but white space."""
    return document if document.text.strip() else None


STEPS: tuple[tuple[str, Step], ...] = (("empty", not_empty),)
"""Name (under which dropped documents are counted) and step, in the order in which they are applied."""


def stream(sources: Iterable[Source]) -> Iterator[Document]:
    """Yield the documents of all sources in order, as valid Unicode."""
    for source in sources:
        source.position = 0
        for document in source.documents():
            text = valid_unicode(document.text)
            yield document if text is document.text else document._replace(text=text)
        source.position = source.size


def apply_steps(document: Document, dropped: dict[str, int]) -> Document | None:
    """Send a document through `STEPS`; count it in `dropped` if one of them drops it."""
    for name, step in STEPS:
        result = step(document)
        if result is None:
            dropped[name] = dropped.get(name, 0) + 1
            return None
        document = result
    return document


def keyed_hash(purpose: str, seed: int, text: str) -> int:
    """Return a 64-bit hash of a text, independent for each purpose and seed."""
    key = hashlib.blake2b(f"{purpose}\0{seed}".encode(), digest_size=16).digest()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest())


def is_validation(text: str, fraction: float, seed: int) -> bool:
    """Tell whether a document is held out for validation: duplicates of a text go the same way."""
    return fraction > 0 and keyed_hash("validation", seed, text) < fraction * 2**64


def sample_texts(documents: Iterable[Document], limit: int, seed: int) -> list[str]:
    """Draw whole documents, at most `limit` bytes of them (but one), in the order of the stream.

    Those with the smallest keyed hashes are kept, so the draw depends neither on the order of the stream nor on
    its length, and memory holds no more than `limit` bytes and one document.
    """
    heap: list[tuple[int, int, str]] = []  # the largest hash on top
    total = 0
    for number, document in enumerate(documents):
        # A book-long document must not crowd out the rest of a small sample.
        text = document.text[: max(limit // 20, 1000)]
        entry = (-keyed_hash("sample", seed, text), number, text)
        if total > limit and entry <= heap[0]:
            continue
        heapq.heappush(heap, entry)
        total += len(text.encode())
        while total > limit and len(heap) > 1:
            total -= len(heapq.heappop(heap)[2].encode())
    return [text for _, _, text in sorted(heap, key=lambda entry: entry[1])]
