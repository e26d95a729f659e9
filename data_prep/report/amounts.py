"""What the set holds: by corpus and language, as mixtures, by length, by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from data_prep.report.figures import length_histogram, span
from electra_ds.data.format import Manifest, ShardInfo

MAX_ROWS = 500
"""Rows of a table; the page says how many more there are."""
TEMPERATURES = (1, 2, 5)
ONLY_CORPUS = "all inputs"
"""What the page calls the corpus that has no name."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class Listed(Generic[Row]):
    """Rows of a table, perhaps not all."""

    rows: Sequence[Row]
    more: int
    """How many are left out."""


def listed(rows: Iterable[Row]) -> Listed[Row]:
    """Cut a table at `MAX_ROWS`."""
    every = list(rows)
    return Listed(every[:MAX_ROWS], max(0, len(every) - MAX_ROWS))


@dataclass(frozen=True)
class Amount:
    """A corpus, a language or a source."""

    name: str
    documents: int
    bytes: int
    tokens: int
    share: float
    """Of all tokens of the table."""
    unknown: float
    """Unknown tokens in its tokens."""

    @property
    def bytes_per_token(self) -> float:
        """How much text a token stands for."""
        return self.bytes / max(self.tokens, 1)


@dataclass(frozen=True)
class Corpus(Amount):
    """A corpus and what it consists of."""

    kept: float
    """Documents in those that were read."""
    languages: Listed[Amount]
    """Largest first."""


def corpora(manifest: Manifest) -> Listed[Corpus]:
    """Return the corpora, the largest first."""
    entries, total = manifest.statistics["corpora"], manifest.statistics["tokens"]
    found = []
    for name, entry in entries.items():
        languages = [_amount(language, values, entry["tokens"]) for language, values in entry["languages"].items()]
        own = vars(_amount(name or ONLY_CORPUS, entry, total))
        kept = entry["documents"] / max(entry["documents_read"], 1)
        found.append(Corpus(**own, kept=kept, languages=listed(_largest(languages))))
    return listed(_largest(found))


def sources(manifest: Manifest) -> Listed[Amount]:
    """Return the sources, the largest first."""
    entries, total = manifest.statistics["sources"], manifest.statistics["tokens"]
    return listed(_largest([_amount(name, entry, total) for name, entry in entries.items()]))


def unknown_by_language(manifest: Manifest) -> Listed[Amount]:
    """Return the languages of all corpora together, those with the largest share of unknown tokens first."""
    sums: dict[str, Counter[str]] = {}
    for corpus in manifest.statistics["corpora"].values():
        for language, values in corpus["languages"].items():
            sums.setdefault(language, Counter()).update(values)
    rows = [_amount(name, values, manifest.statistics["tokens"]) for name, values in sums.items()]
    return listed(sorted(rows, key=lambda row: (-row.unknown, -row.tokens, row.name)))


def _amount(name: str, entry: Any, total: int) -> Amount:
    tokens = entry["tokens"]
    unknown = entry.get("unknown_tokens", 0) / max(tokens, 1)
    return Amount(name, entry["documents"], entry["bytes"], tokens, tokens / max(total, 1), unknown)


Sized = TypeVar("Sized", bound=Amount)


def _largest(rows: list[Sized]) -> list[Sized]:
    return sorted(rows, key=lambda row: (-row.tokens, row.name))


@dataclass(frozen=True)
class Share:
    """What part of training one group of shards becomes."""

    name: str
    tokens: int
    by_temperature: list[float]
    """For each of `TEMPERATURES`."""
    by_weight: float | None
    """As the preparation was told; None if it was not."""


@dataclass(frozen=True)
class Mixing:
    """How the groups of the training shards may be mixed."""

    groups: Listed[Share]
    temperatures: tuple[int, ...]
    weighted: bool


def mixing(manifest: Manifest) -> Mixing | None:
    """Return the shares of the groups of the training split; None if there is one group only."""
    tokens: Counter[str] = Counter()
    for shard in manifest.splits["train"]:
        tokens[shard.corpus] += shard.tokens
    if len(tokens) < 2:
        return None
    ranked = sorted(tokens.items(), key=lambda item: (-item[1], item[0]))
    counts = np.array([count for _, count in ranked], np.float64)
    columns = [counts ** (1 / temperature) for temperature in TEMPERATURES]
    weights = np.array([manifest.weights.get(name, 0.0) for name, _ in ranked])
    weighted = bool(weights.sum() > 0)
    by_weight = (weights / weights.sum()).tolist() if weighted else [None] * len(ranked)
    tempered = np.column_stack([column / column.sum() for column in columns]).tolist()
    rows = [
        Share(name, count, shares, weight)
        for (name, count), shares, weight in zip(ranked, tempered, by_weight, strict=True)
    ]
    return Mixing(listed(rows), TEMPERATURES, weighted)


@dataclass(frozen=True)
class Lengths:
    """The lengths of a corpus's documents."""

    name: str
    documents: int
    median: str
    """The bin of the median."""
    svg: str


def lengths(manifest: Manifest) -> list[Lengths]:
    """Return the histograms, in the order of `corpora`."""
    found = []
    for corpus in corpora(manifest).rows:
        name = "" if corpus.name == ONLY_CORPUS else corpus.name
        counts = manifest.statistics["corpora"][name]["length_histogram"]
        if any(counts):
            below = np.cumsum(counts)
            middle = int(np.searchsorted(below, (below[-1] + 1) // 2))
            svg = length_histogram(f"Lengths of documents: {corpus.name}", counts)
            found.append(Lengths(corpus.name, int(below[-1]), span(1 << max(middle - 1, 0)), svg))
    return found


def splits(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the totals of each split."""
    names = ("blocks", "documents", "sentences", "tokens", "bytes")
    return [
        {"name": split, "shards": len(shards), **{name: manifest.total(split, name) for name in names}}
        for split, shards in manifest.splits.items()
    ]


def shards(manifest: Manifest) -> Listed[ShardInfo]:
    """Return all shards, in the order of the manifest."""
    return listed(shard for found in manifest.splits.values() for shard in found)
