"""What the parts hold together: totals by group and split, counts for the manifest and the report.

Every rank counts its own parts; the sums are the same for any number of ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.build import DROPS, TOKENS, dropped_numbers
from data_prep.clean.removals import Removals
from data_prep.config import PrepConfig
from data_prep.documents import SPLITS
from data_prep.pack import Shard, cells_of_part, shard_name
from data_prep.part import PartFile
from data_prep.plan import PartId
from data_prep.work import Job
from electra_ds.errors import UserError

Section = tuple[str, str]
"""Group and split."""

LENGTH_BINS = 33
"""Bins of the histograms of document lengths: bin b counts documents of 2^(b-1) to 2^b - 1 tokens."""

MAX_SOURCES = 1000
"""Sources that the manifest lists by name; the rest is summed up."""


@dataclass
class Tally:
    """Sums over parts; two of them can be added.

    Attributes:
        parts: section: its parts with (documents, tokens) of each.
        corpora: (corpus, language): [documents, bytes, tokens, unknown tokens].
        sources: source: [documents, bytes, tokens].
        lengths: corpus: documents by length, see `LENGTH_BINS`.
        read, bytes: corpus: documents read, and bytes of their text.
        dropped: corpus: reason: documents, copies among them. removals: of the cleaning steps, with samples.
        paired, single: groups with translation pairs, and with texts by themselves.
    """

    parts: dict[Section, dict[PartId, tuple[int, int]]] = field(default_factory=dict)
    corpora: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    sources: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    read: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    removals: Removals = field(default_factory=Removals)
    paired: set[str] = field(default_factory=set)
    single: set[str] = field(default_factory=set)

    def add_part(self, job: Job, part: PartId) -> None:
        """Count a part, without the copies in it."""
        path = job.path(part)
        drops = dropped_numbers(path)
        with PartFile(path.with_suffix(TOKENS)) as file:
            facts = file.facts
            kept = ~np.isin(file.array("numbers"), drops)
            columns = [file.array(f"{name}_counts")[kept].astype(np.int64) for name in ("byte", "token", "unknown")]
            labels = file.array("labels")[kept]
            first = 0
            every = file.array("token_counts").astype(np.int64) * kept
            for group, split, count in facts["sections"]:
                rows = slice(first, first + count)
                documents = int(kept[rows].sum())
                if documents:
                    (self.paired if facts.get("pairs") else self.single).add(group)
                    self.parts.setdefault((group, split), {})[part] = (documents, int(every[rows].sum()))
                first += count
        corpus = facts["corpus"]
        self.read[corpus] += facts["read"]
        self.bytes[corpus] += facts["bytes"]
        removals = Removals.from_json(facts["removals"])
        self.removals.merge(removals)
        for counts in (facts["dropped"], removals.counts, _copies(path)):
            self.dropped.setdefault(corpus, Counter()).update(counts)
        lengths = np.bincount(np.frexp(columns[1])[1], minlength=LENGTH_BINS)
        _add(self.lengths, corpus, lengths)
        names = facts["labels"]
        counts = np.bincount(labels, minlength=len(names))
        weights = [np.bincount(labels, column, minlength=len(names)).astype(np.int64) for column in columns]
        for label, sums in zip(names, np.column_stack([counts, *weights]), strict=True):
            if sums[0]:
                _add(self.corpora, (corpus, label[1]), sums)
                _add(self.sources, label[0], sums[:3])

    def merge(self, other: Tally) -> None:
        """Add another rank's sums."""
        for section, parts in other.parts.items():
            self.parts.setdefault(section, {}).update(parts)
        for mine, theirs in (
            (self.corpora, other.corpora),
            (self.sources, other.sources),
            (self.lengths, other.lengths),
        ):
            for key, values in theirs.items():
                _add(mine, key, values)
        self.read.update(other.read)
        self.bytes.update(other.bytes)
        for corpus, counts in other.dropped.items():
            self.dropped.setdefault(corpus, Counter()).update(counts)
        self.removals.merge(other.removals)
        self.paired |= other.paired
        self.single |= other.single

    def documents(self, split: str) -> int:
        """Documents of a split."""
        return sum(count for (_, mine), parts in self.parts.items() if mine == split for count, _ in parts.values())

    def statistics(self) -> dict[str, Any]:
        """Counts for the manifest."""
        names = ("documents", "bytes", "tokens", "unknown_tokens")
        # A corpus of which nothing is left stands there, too.
        corpora: dict[str, Any] = {corpus: {"languages": {}} for corpus in sorted(self.read)}
        for (corpus, language), values in sorted(self.corpora.items()):
            corpora[corpus]["languages"][language or "unknown"] = dict(zip(names, values.tolist(), strict=True))
        for corpus, entry in corpora.items():
            for name in names:
                entry[name] = sum(language[name] for language in entry["languages"].values())
            entry["documents_read"], entry["bytes_read"] = self.read[corpus], self.bytes[corpus]
            entry["documents_dropped"] = _sorted(self.dropped[corpus])
            entry["length_histogram"] = np.trim_zeros(self.lengths[corpus], "b").tolist()
        ranked = sorted(self.sources.items(), key=lambda item: (-int(item[1][2]), item[0]))
        listed = {name or "unnamed": values for name, values in sorted(ranked[:MAX_SOURCES])}
        if ranked[MAX_SOURCES:]:
            listed["(others)"] = np.sum([values for _, values in ranked[MAX_SOURCES:]], axis=0)
        return {
            "documents_read": sum(self.read.values()),
            "documents_kept": {split: self.documents(split) for split in SPLITS},
            "documents_dropped": _sorted(sum(self.dropped.values(), Counter())),
            "text_bytes": sum(self.bytes.values()),
            "tokens": sum(entry["tokens"] for entry in corpora.values()),
            "unknown_tokens": sum(entry["unknown_tokens"] for entry in corpora.values()),
            "corpora": corpora,
            "sources": {name: dict(zip(names, values.tolist(), strict=False)) for name, values in listed.items()},
        }


def _copies(path: Path) -> dict[str, int]:
    """Copies that were dropped from a part, by kind."""
    drops = path.with_suffix(DROPS)
    if not drops.exists():
        return {}
    with PartFile(drops) as part:
        return {f"{kind} duplicate": int(part.facts[kind]) for kind in ("exact", "near")}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in sorted(counts.items()) if count}


def _add(table: dict[Any, np.ndarray], key: Any, values: np.ndarray) -> None:
    table[key] = table[key] + values if key in table else values


def occupied(job: Job, shards: list[Shard], mine: set[PartId]) -> set[str]:
    """Names of the shards that have documents in a rank's own parts."""
    found: set[str] = set()
    sections: dict[Section, list[Shard]] = {}
    for shard in shards:
        sections.setdefault((shard.group, shard.split), []).append(shard)
    for cells in sections.values():
        if len(cells) == 1:
            found.add(cells[0].name)
            continue
        for part, before in cells[0].parts:
            if part in mine:
                found.update(cells[cell].name for cell in cells_of_part(job.config, job.work, cells[0], part, before))
    return found


def plan_cells(config: PrepConfig, tally: Tally, vocab_size: int, groups: Iterable[str]) -> list[Shard]:
    """One `Shard` for each cell, perhaps empty ones among them; by split, by group in the order given.

    Raises:
        UserError: a group has both translation pairs and texts by themselves.
    """
    if both := sorted(tally.paired & tally.single):
        raise UserError(
            f"group_by: {config.group_by} '{both[0]}' has translation pairs and single texts; give the pairs another "
            "name, or group by corpus"
        )
    shards = []
    per_shard = config.shard_blocks * config.block_tokens
    for split in SPLITS:
        for group in groups:
            parts = sorted(tally.parts.get((group, split), {}).items())
            total = sum(tokens for _, (_, tokens) in parts)
            if not total:
                continue
            before = np.cumsum([0] + [tokens for _, (_, tokens) in parts]).tolist()
            placed = [(part, begin) for (part, _), begin in zip(parts, before, strict=False)]
            cells = max(1, round(total / per_shard))
            shards += [
                Shard(
                    shard_name(split, group, cell),
                    group,
                    split,
                    cell,
                    cells,
                    placed,
                    total,
                    vocab_size,
                    group in tally.paired,
                )
                for cell in range(cells)
            ]
    return shards
