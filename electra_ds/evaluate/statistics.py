"""Confidence intervals: the bootstrap over independent units, and Wilson's for shares.

Shape legend: R resamples, U units (texts, rows or pairs), K sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

_CHUNK = 1 << 22
"""Counts that are held at once."""

Measure = dict[str, float | None]
"""``value``, ``low`` and ``high``: an estimate and its confidence interval; None where it is undefined."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: percentiles over resamples of the units with replacement (Efron 1979)."""

    replicates: int
    """R; 0 makes no intervals."""
    confidence: float
    """Coverage (share)."""
    seed: int
    """Two measures with the same seed and number of units see the same resamples, which pairs them."""

    def weights(self, units: int) -> Iterator[np.ndarray]:
        """How often each unit comes in each resample, float64 [some of R, U], chunk after chunk."""
        chance = np.random.default_rng(self.seed)
        step = max(1, _CHUNK // max(1, units))
        for begin in range(0, self.replicates, step):
            rows = min(step, self.replicates - begin)
            counts = np.empty((rows, units))
            for row in range(rows):
                counts[row] = np.bincount(chance.integers(0, units, units), minlength=units)
            yield counts

    def measure(self, value: Any, replicates: np.ndarray | None) -> Measure:
        """An estimate with its interval from the same quantity in each resample, [R]; NaN is undefined."""
        low = high = None
        if replicates is not None and len(replicates):
            known = replicates[np.isfinite(replicates)]
            if len(known):
                tail = (1 - self.confidence) / 2
                low, high = (float(bound) for bound in np.quantile(known, [tail, 1 - tail]))
        number = float(value)
        return {"value": number if math.isfinite(number) else None, "low": low, "high": high}

    def of_sums(self, sums: np.ndarray, functions: dict[str, Callable[[np.ndarray], np.ndarray]]) -> dict[str, Measure]:
        """Measures that are functions of sums over units.

        Args:
            sums: float64 [U, K], of each unit.
            functions: by name, from total sums [..., K] to a quantity [...].
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = sums.sum(0)
            parts: dict[str, list[np.ndarray]] = {name: [] for name in functions}
            if len(sums):
                for weights in self.weights(len(sums)):
                    totals = weights @ sums
                    for name, function in functions.items():
                        parts[name].append(function(totals))
            return {
                name: self.measure(function(whole), np.concatenate(parts[name]) if parts[name] else None)
                for name, function in functions.items()
            }


def wilson(successes: float, trials: float, confidence: float) -> Measure:
    """A share with Wilson's score interval (Wilson 1927); no trials: undefined."""
    if not trials:
        return {"value": None, "low": None, "high": None}
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return {"value": share, "low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def confusions(truth: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """Where each text falls in the confusion matrix: float64 [U, labels x labels] with a single 1 in each row."""
    cells = np.zeros((len(truth), labels * labels))
    cells[np.arange(len(truth)), truth * labels + predicted] = 1
    return cells


def label_scores(totals: np.ndarray, labels: int) -> dict[str, np.ndarray]:
    """Scores from summed `confusions`.

    Args:
        totals: float64 [..., labels x labels], rows of the matrix are true labels.
        labels: how many there are.

    Returns:
        ``accuracy``; ``f1_macro``, over all labels, one that neither occurs nor is predicted counting as 0;
        ``matthews``, 0 where it is undefined (constant predictions); and with two labels ``f1`` of the second. Each
        [...].
    """
    matrix = totals.reshape(*totals.shape[:-1], labels, labels)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, predicted, whole = matrix.sum(-1), matrix.sum(-2), matrix.sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.nan_to_num(2 * hits / (true + predicted), nan=0.0)
        covariance = hits.sum(-1) * whole - (true * predicted).sum(-1)
        spread = (whole**2 - (predicted**2).sum(-1)) * (whole**2 - (true**2).sum(-1))
        matthews = np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0)
        scores = {"accuracy": hits.sum(-1) / whole, "f1_macro": f1.mean(-1), "matthews": matthews}
    if labels == 2:
        scores["f1"] = f1[..., 1]
    return scores


def score_names(labels: int) -> tuple[str, ...]:
    """What `label_scores` gives for so many labels."""
    return ("accuracy", "f1_macro", "matthews", "f1") if labels == 2 else ("accuracy", "f1_macro", "matthews")


Scores = dict[str, Callable[[np.ndarray], np.ndarray]]
"""By name, from total sums [..., K] to a score [...]."""


def scores_of(labels: int) -> Scores:
    """`label_scores` one by one, from summed `confusions`."""
    return {name: _score(name, labels) for name in score_names(labels)}


def scored(cells: np.ndarray, labels: int, resampling: Resampling) -> dict[str, Measure]:
    """All `label_scores` of `confusions`, with their intervals."""
    return resampling.of_sums(cells, scores_of(labels))


def compared(one: np.ndarray, other: np.ndarray, labels: int, resampling: Resampling) -> dict[str, Measure]:
    """`paired` of `confusions` of the same texts in the same order."""
    return paired(one, other, scores_of(labels), resampling)


def paired(one: np.ndarray, other: np.ndarray, scores: Scores, resampling: Resampling) -> dict[str, Measure]:
    """Scores of `one` less those of `other`, sums [U, K] of the same units in the same order.

    Both see the same resamples: a paired bootstrap.
    """
    size = one.shape[1]

    def difference(score: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda totals: score(totals[..., :size]) - score(totals[..., size:])

    both = np.concatenate([one, other], 1)
    return resampling.of_sums(both, {name: difference(score) for name, score in scores.items()})


def apart(one: np.ndarray, other: np.ndarray, scores: Scores, resampling: Resampling) -> dict[str, Measure]:
    """Scores of `one` less those of `other`, sums [U, K] of different units, resampled independently."""
    # The same seed with the same number of units would pair what is not paired.
    second = Resampling(resampling.replicates, resampling.confidence, resampling.seed + 1)
    sides = ((one, resampling), (other, second))
    totals = [_resampled(sums, scheme) for sums, scheme in sides]
    result = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, score in scores.items():
            value = score(one.sum(0)) - score(other.sum(0))
            result[name] = resampling.measure(value, score(totals[0]) - score(totals[1]))
    return result


def _resampled(sums: np.ndarray, resampling: Resampling) -> np.ndarray:
    """Total sums of each resample, float64 [R, K]."""
    return np.concatenate([np.empty((0, sums.shape[1])), *(w @ sums for w in resampling.weights(len(sums)))])


def _score(name: str, labels: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda totals: label_scores(totals, labels)[name]
