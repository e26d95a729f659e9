"""Which documents are copies of earlier ones: all documents of all ranks together, in bounded memory.

Every document has keys (its content's hash, or one key per MinHash band). A key's owner is a rank; the keys travel to
their owners in rounds, each a slice of the key space, so that a rank holds a bounded number at a time. The owner sorts
them and tells, for every document but the first of those with the same key, which one that first is; the answers travel
back to the ranks that made the parts. The outcome depends on the documents alone, not on the number of ranks.

A near-duplicate is dropped if it shares a band with *any* earlier document that is no exact copy, whether or not that
one is kept itself: the rule needs no search for connected clusters, and no rank needs to know them all.

Shape legend: D documents, N entries of a round, K columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from data_prep.mpi import Team

ENTRIES = 8_000_000
"""Keys that a rank holds in a round, at most about: 24 bytes each, several times over while they are sorted."""

Keys = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Goes through a rank's parts: keys [D, 2] uint64 and numbers [D] uint64 of documents."""


@dataclass
class Copies:
    """Documents of this rank's parts that are copies.

    Attributes:
        documents: uint64 [D], ascending. originals: uint64 [D], the earlier document each is a copy of.
    """

    documents: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    originals: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def of(self, documents: np.ndarray) -> np.ndarray:
        """Which of the given numbers are copies, bool."""
        at = np.searchsorted(self.documents, documents)
        return (at < len(self.documents)) & (
            self.documents[np.minimum(at, len(self.documents) - 1)] == documents
            if len(self.documents)
            else np.zeros(len(documents), bool)
        )


def find_copies(team: Team, keys: Keys, made_by: Callable[[np.ndarray], np.ndarray], entries: int = ENTRIES) -> Copies:
    """Find this rank's documents that share a key with an earlier document of any rank.

    Args:
        team: the ranks; all of them call this.
        keys: this rank's documents; a document may come several times, with different keys.
        made_by: numbers of documents to the ranks whose parts hold them, int64.
        entries: keys a rank holds at a time.
    """
    total = sum(team.gather_all(sum(len(numbers) for _, numbers in keys())))
    rounds = max(1, -(-total // (entries * team.size)))
    found: list[np.ndarray] = []
    for number in range(rounds):
        mine = _round(keys, number, rounds, team.size)
        came = team.exchange(mine)
        del mine
        pairs = _all_but_first(came)
        del came
        owners = made_by(pairs[:, 0])
        found.append(team.exchange([pairs[owners == rank] for rank in range(team.size)]))
    pairs = np.concatenate(found)
    # A document found by several keys: the earliest original counts.
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first = np.ones(len(pairs), bool)
    first[1:] = pairs[1:, 0] != pairs[:-1, 0]
    return Copies(pairs[first, 0].copy(), pairs[first, 1].copy())


def _round(keys: Keys, number: int, rounds: int, ranks: int) -> list[np.ndarray]:
    """Entries [N, 3] (two key words, document) of one round, by the rank that owns the key."""
    blocks: list[list[np.ndarray]] = [[] for _ in range(ranks)]
    for words, documents in keys():
        turn = ((words[:, 1] >> np.uint64(32)) * np.uint64(rounds)) >> np.uint64(32)
        here = turn == number
        entries = np.column_stack([words[here], documents[here]])
        owner = entries[:, 0] % np.uint64(ranks)
        for rank in range(ranks):
            blocks[rank].append(entries[owner == rank])
    empty = np.zeros((0, 3), np.uint64)
    return [np.concatenate(found) if found else empty for found in blocks]


def _all_but_first(entries: np.ndarray) -> np.ndarray:
    """Pairs [N, 2] (document, first document with the same key) of entries [N, 3]."""
    entries = entries[np.lexsort((entries[:, 2], entries[:, 1], entries[:, 0]))]
    new = np.ones(len(entries), bool)
    new[1:] = np.any(entries[1:, :2] != entries[:-1, :2], axis=1)
    first = entries[np.maximum.accumulate(np.where(new, np.arange(len(entries)), 0)), 2]
    copies = ~new & (entries[:, 2] != first)
    return np.column_stack([entries[copies, 2], first[copies]])
