"""Medians and spread of interleaved rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What several rounds gave for one quantity."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def lowest(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def highest(self) -> float:
        """The largest value."""
        return max(self.values)

    def show(self, form: str = ",.0f") -> str:
        """``median (lowest to highest)``; of one round, its value."""
        if len(self.values) == 1:
            return f"{self.values[0]:{form}}"
        return f"{self.median:{form}} ({self.lowest:{form}} to {self.highest:{form}})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, round by round: what slows the machine for a while then slows both sides of a ratio."""
    return Spread(tuple(a / b for a, b in zip(ours, theirs, strict=True)))


def in_turn(names: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """Order of the measurements: every round visits every name, and begins with another one."""
    return [(number, names[(number + place) % len(names)]) for number in range(rounds) for place in range(len(names))]
