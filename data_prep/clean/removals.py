"""What cleaning did: counts of dropped and changed documents, and a few samples of each kind."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, NamedTuple

from data_prep.sources.base import Document, valid_unicode

SAMPLES = 5
"""Samples kept per reason."""
EXCERPT = 300
"""Characters of a sample's text, before and after together."""
_HASHED = 4096
"""Characters that are hashed: the choice of samples does not pay for the length of documents."""


class Sample(NamedTuple):
    """One document that a step dropped or changed."""

    hash: str
    """Of the document's content, 16 hexadecimal digits: those with the smallest are kept."""
    origin: str
    """Input file or data set."""
    detail: str
    """What the step found, such as ``en 0.41``; empty if it says nothing."""
    excerpt: str
    """Its beginning if it was dropped; the surroundings of the first change if it was changed."""
    after: str = ""
    """The same place after the change."""


class Removals:
    """Counts and samples of one piece or of many: the same whatever documents were seen together, in any order."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """``step`` or ``step: reason``: documents dropped."""
        self.changed: Counter[str] = Counter()
        """Step: documents whose text it changed."""
        self._samples: dict[str, dict[str, Sample]] = {}
        self._largest: dict[str, str] = {}

    @property
    def samples(self) -> dict[str, list[Sample]]:
        """Up to `SAMPLES` per key of `counts` and `changed`, different in content, in the order of their hashes."""
        return {reason: sorted(found.values()) for reason, found in sorted(self._samples.items())}

    def drop(self, reason: str, document: Document, detail: str = "") -> None:
        """Count a dropped document and perhaps keep a sample of it."""
        self.counts[reason] += 1
        digest = _hash(document.text)
        if digest <= self._largest.get(reason, digest):
            excerpt = valid_unicode(document.text[:EXCERPT])
            self._keep(reason, Sample(digest, document.origin, valid_unicode(detail[:EXCERPT]), excerpt))

    def change(self, step: str, document: Document, text: str) -> None:
        """Count a document whose text became `text` and perhaps keep a sample of it."""
        self.changed[step] += 1
        digest = _hash(document.text)
        if digest <= self._largest.get(step, digest):
            start = max(0, _first_difference(document.text, text) - EXCERPT // 10)
            before, after = (valid_unicode(side[start : start + EXCERPT // 2]) for side in (document.text, text))
            self._keep(step, Sample(digest, document.origin, "", before, after))

    def merge(self, other: Removals) -> None:
        """Add what another one has."""
        self.counts.update(other.counts)
        self.changed.update(other.changed)
        for reason, found in other._samples.items():
            for sample in found.values():
                self._keep(reason, sample)

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists, keys sorted."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "changed": dict(sorted(self.changed.items())),
            "samples": {
                reason: [{key: value for key, value in sample._asdict().items() if value} for sample in found]
                for reason, found in self.samples.items()
            },
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Removals:
        """Return what `to_json` was called on."""
        result = cls()
        result.counts.update(value["counts"])
        result.changed.update(value["changed"])
        empty = dict.fromkeys(Sample._fields, "")
        for reason, found in value["samples"].items():
            for sample in found:
                result._keep(reason, Sample(**{**empty, **sample}))
        return result

    def _keep(self, reason: str, sample: Sample) -> None:
        found = self._samples.setdefault(reason, {})
        # Copies of one text count once, so that a text which comes a million times leaves room for others.
        found[sample.hash] = min(sample, found.get(sample.hash, sample))
        if len(found) > SAMPLES:
            del found[max(found)]
        if len(found) == SAMPLES:
            self._largest[reason] = max(found)


def _hash(text: str) -> str:
    head = text[:_HASHED].encode("utf-8", "surrogatepass")
    return hashlib.blake2b(head, digest_size=8, salt=len(text).to_bytes(8, "little")).hexdigest()


def _first_difference(first: str, second: str) -> int:
    """Length of the common beginning, by bisection: comparing slices is fast, characters one by one are not."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
