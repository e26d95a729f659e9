"""What was not kept, and what was changed: in the order of the steps, with examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_prep.clean.steps import STEPS
from data_prep.report.figures import differences
from electra_ds.data.format import Manifest

SIMILARITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""At which the page tells the chance that a near-duplicate is found."""

_CLEANING = ("empty", *(entry.name for entry in STEPS), "decontamination")
_AFTER = ("its translation was dropped", "exact duplicate", "near duplicate", "without a token")


@dataclass(frozen=True)
class Sample:
    """One document that a step dropped or changed."""

    origin: str
    detail: str
    before: list[tuple[str, bool]]
    """Runs of its text, and whether each is gone after the change."""
    after: list[tuple[str, bool]]
    """After the change; empty for a dropped document."""


@dataclass(frozen=True)
class Rule:
    """Documents that one rule of a step dropped, or that a step changed."""

    name: str
    """The whole reason, such as ``gopher_quality: long words``."""
    documents: int
    share: float
    """Of the documents read."""
    samples: list[Sample]


@dataclass(frozen=True)
class Step:
    """A step with all its rules, those that dropped most first."""

    name: str
    rules: list[Rule]
    documents: int
    """Dropped by all of them."""
    share: float
    """Of the documents read."""
    left: int
    """Documents left after it."""
    left_share: float


@dataclass(frozen=True)
class Removal:
    """The way from what was read to what was kept."""

    read: int
    kept: int
    skipped: dict[str, int]
    """What the readers passed over, which is not among the documents read."""
    steps: list[Step]

    @property
    def largest(self) -> Rule:
        """The rule that dropped most; there must be one."""
        return max((rule for step in self.steps for rule in step.rules), key=lambda rule: rule.documents)


def removal(manifest: Manifest) -> Removal:
    """Return all that was dropped, in the order of the steps."""
    statistics = manifest.statistics
    read, kept = statistics["documents_read"], sum(statistics["documents_kept"].values())
    dropped: dict[str, int] = statistics["documents_dropped"]
    by_place: dict[tuple[int, int], list[Rule]] = {}
    skipped = {}
    for reason, count in dropped.items():
        place = _place(reason)
        if place is None:
            skipped[reason] = count
        else:
            by_place.setdefault(place, []).append(_rule(statistics, reason, count, changed=False))
    left, steps = read, []
    for _, rules in sorted(by_place.items()):
        rules.sort(key=lambda rule: (-rule.documents, rule.name))
        name = rules[0].name if len(rules) == 1 else rules[0].name.partition(": ")[0]
        gone = sum(rule.documents for rule in rules)
        left -= gone
        steps.append(Step(name, rules, gone, _part(gone, read), left, _part(left, read)))
    return Removal(read, kept, skipped, steps)


def changes(manifest: Manifest) -> list[Rule]:
    """Return the steps that changed documents, in their order."""
    statistics = manifest.statistics
    changed = statistics["documents_changed"]
    names = sorted(changed, key=lambda name: _place(name) or (len(_CLEANING), 0))
    return [_rule(statistics, name, changed[name], changed=True) for name in names]


def _place(reason: str) -> tuple[int, int] | None:
    """Where among the steps a reason belongs; None if documents were dropped for it before they were read."""
    if reason in _AFTER:
        return len(_CLEANING) + _AFTER.index(reason), 0
    step, _, rule = reason.partition(": ")
    emptied = rule.removeprefix("after ") if step == "empty" else ""
    if emptied in _CLEANING:
        return _CLEANING.index(emptied), 1
    return (_CLEANING.index(step), 0) if step in _CLEANING else None


def _part(count: int, whole: int) -> float:
    return count / max(whole, 1)


def _rule(statistics: dict[str, Any], name: str, documents: int, changed: bool) -> Rule:
    samples = []
    for sample in statistics["removed_samples"].get(name, []):
        before, after = sample.get("excerpt", ""), sample.get("after", "")
        sides = differences(before, after) if changed else ([(before, False)], [])
        samples.append(Sample(sample.get("origin", ""), sample.get("detail", ""), *sides))
    return Rule(name, documents, _part(documents, statistics["documents_read"]), samples)


@dataclass(frozen=True)
class Clusters:
    """Copies of one text, and of texts like it."""

    size: str
    count: int
    share: float
    """Of the most frequent size."""


@dataclass(frozen=True)
class Found:
    """The duplicates."""

    exact: int
    near: int
    parameters: dict[str, Any]
    """``exact`` and ``near`` (None if those were not looked for); empty if nothing was."""
    chances: list[tuple[float, float]]
    """Similarity, chance of a pair of that similarity to be found."""
    clusters: list[Clusters] | None
    """By size; None if there were too many to count."""
    count: int
    """All clusters."""
    largest: list[dict[str, Any]]


def duplicates(manifest: Manifest) -> Found:
    """Return what the search for copies found."""
    found = manifest.statistics["duplicates"]
    near = found["parameters"].get("near")
    chances = [(s, 1 - (1 - s ** near["rows"]) ** near["bands"]) for s in SIMILARITIES] if near else []
    clusters: list[Clusters] | None = None
    sizes = {int(size): count for size, count in (found["clusters"] or {}).items()}
    if found["clusters"] is not None:
        bins: dict[tuple[int, int], int] = {}
        for size, count in sorted(sizes.items()):
            bins[_bin(size)] = bins.get(_bin(size), 0) + count
        most = max(bins.values(), default=1)
        clusters = [
            Clusters(f"{low:,}" if low == high else f"{low:,} to {high:,}", count, count / most)
            for (low, high), count in bins.items()
        ]
    return Found(
        exact=found["exact"],
        near=found["near"],
        parameters=found["parameters"],
        chances=chances,
        clusters=clusters,
        count=sum(sizes.values()),
        largest=found["largest"],
    )


def _bin(size: int) -> tuple[int, int]:
    """Sizes 2 and 3 alone, above them those of one power of two together: smallest and largest."""
    if size < 4:
        return size, size
    low = 1 << (size.bit_length() - 1)
    return low, 2 * low - 1
